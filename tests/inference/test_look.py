"""Any size in, the same size out; windows, scales and flips are averaged as a slow reference says."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from atrous import models
from atrous.config import load
from atrous.errors import ConfigError, ModelFileError
from atrous.inference import InferenceConfig
from atrous.inference.frames import on_canvas, pad_to_grid
from atrous.inference.look import look, predict_labels, predict_probabilities
from atrous.inference.seen import Seen, probabilities_at
from atrous.inference.windows import window_starts
from atrous.layers.resize import resize
from atrous.models import MODELS, Model
from atrous.postprocess.crf import CRFS, refine
from atrous.types import Convention, Facts, Outputs
from tests.conftest import SMALL_MODEL, spread_classes
from tests.reference import multi_scale as reference
from tests.reference.tf_deeplab import CASES, GOLDENS, golden_image, golden_logits, load_seeded


@pytest.fixture(scope="module")
def model() -> Model:
    """Five classes, each the likeliest somewhere."""
    torch.manual_seed(0)
    net = models.build(load("synthetic/deeplab_v3plus_tiny", SMALL_MODEL).model, 5).eval()
    spread_classes(net, images(49, 65))
    return net


def images(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    "config", [InferenceConfig(), InferenceConfig(mode="sliding", window=(33, 33), flip=True, scales=(0.5, 1))]
)
@pytest.mark.parametrize("size", [(33, 47), (64, 80), (1, 1), (20, 7)])
def test_labels_have_the_size_of_the_image(model: Model, size: tuple[int, int], config: InferenceConfig) -> None:
    labels = predict_labels(model, images(*size, batch=2), config)
    assert labels.shape == (2, *size)
    assert int(labels.max()) < 5


@pytest.mark.parametrize("size", [(33, 47), (64, 80)])
def test_labels_are_the_most_probable_classes(model: Model, size: tuple[int, int]) -> None:
    probabilities = predict_probabilities(model, images(*size), InferenceConfig())
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, *size))
    best_two = probabilities.topk(2, dim=1).values
    is_clear = (best_two[:, 0] - best_two[:, 1]) > 1e-4
    labels = predict_labels(model, images(*size), InferenceConfig())
    assert torch.equal(labels[is_clear].long(), probabilities.argmax(1)[is_clear])


def test_padding_is_to_the_grid_with_the_mean_colour(model: Model) -> None:
    padded = pad_to_grid(images(30, 49), model)
    assert padded.shape[-2:] == (33, 49)
    assert torch.equal(padded[..., :30, :], images(30, 49).float())
    assert torch.equal(padded[0, :, 32, 0], torch.tensor(model.mean))
    whole = images(33, 49)
    assert pad_to_grid(whole, model) is whole


# ---- scales and flips


@torch.no_grad()
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.75), (0.7,)])
def test_scales_are_in_the_originals_order(model: Model, scales: tuple[float, ...], flip: bool) -> None:
    batch = images(30, 44)
    padded = pad_to_grid(batch, model)[0].double().numpy()
    assert padded.shape[-2:] == (33, 49)
    expected = torch.from_numpy(reference.predict_probabilities(model, padded, scales, flip=flip))
    probabilities = predict_probabilities(model, batch, InferenceConfig(scales=scales, flip=flip))[0]
    torch.testing.assert_close(probabilities, expected[..., :30, :44].float(), atol=2e-5, rtol=1e-4)


def test_the_original_predicts_the_same() -> None:
    case = CASES["mnv2_ms_flip"]
    tree = {"backbone": "mobilenet_v2", "aspp": {"rates": case["atrous_rates"]}}
    config = MODELS["deeplab_v3plus"].Config.model_validate(tree)
    net = models.build(config, case["num_classes"]).eval()
    load_seeded(net)
    protocol = InferenceConfig(scales=tuple(case["eval_scales"]), flip=case["flip"])
    probabilities = predict_probabilities(net, golden_image("mnv2_ms_flip"), protocol)
    with np.load(GOLDENS / "mnv2_ms_flip.npz") as golden:
        labels = torch.from_numpy(golden["pred"])
    # The original takes the softmax of probabilities, which makes a difference some 20 times smaller.
    torch.testing.assert_close(probabilities.softmax(1), golden_logits("mnv2_ms_flip", "prob"), atol=5e-7, rtol=0)
    assert (predict_labels(net, golden_image("mnv2_ms_flip"), protocol) == labels).float().mean() > 0.999


def test_a_flipped_image_has_flipped_probabilities(model: Model) -> None:
    config = InferenceConfig(flip=True, scales=(0.5, 1.0))
    batch = images(33, 49)  # on the grid: padding is at one side only
    flipped = predict_probabilities(model, batch.flip(-1), config).flip(-1)
    torch.testing.assert_close(flipped, predict_probabilities(model, batch, config), atol=1e-5, rtol=1e-5)


def test_a_pooling_window_shrinks_with_the_scale(model: Model) -> None:
    """As in TensorFlow DeepLab: the network was trained with means over a part of the scene."""
    config = load("synthetic/deeplab_v3plus_tiny", [*SMALL_MODEL, "model.aspp.pooling_window=33,33"]).model
    net = models.build(config, 5).eval()
    net.load_state_dict(model.state_dict())
    windows: list[object] = []
    net.get_submodule("aspp").register_forward_pre_hook(lambda _, inputs: windows.append(inputs[1]))
    scales = (0.5, 1.0, 2.0)
    for protocol in (InferenceConfig(scales=scales), InferenceConfig(mode="canvas", window=(65, 65), scales=scales)):
        predict_probabilities(net, images(65, 65), protocol)
    assert windows == [(2, 2), (3, 3), (5, 5)] * 2


# ---- on a canvas

CANVAS = InferenceConfig(mode="canvas", window=(49, 65))
SIZES = [(20, 30), (49, 65), (49, 20), (98, 65), (60, 200), (300, 11), (1, 1), (1, 400), (50, 66)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_labels_come_back_from_the_canvas_at_the_images_size(
    model: Model, size: tuple[int, int], scales: tuple[float, ...]
) -> None:
    config = CANVAS.model_copy(update={"scales": scales})
    labels = predict_labels(model, images(*size, batch=2), config)
    assert labels.shape == (2, *size)
    assert int(labels.max()) < 5
    probabilities = predict_probabilities(model, images(*size, batch=2), config)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, *size))


def test_a_larger_image_is_shrunk_with_its_aspect(model: Model) -> None:
    for size, expected in (
        ((49, 65), (49, 65)),
        ((20, 30), (20, 30)),  # nothing is enlarged
        ((98, 65), (49, 32)),  # 32.5: to the even one
        ((60, 200), (20, 65)),  # 19.5
        ((100, 130), (49, 64)),  # 63.7
        ((1, 400), (1, 65)),  # 0.16
        ((4000, 3), (49, 1)),
    ):
        frame = on_canvas(images(*size), model, (49, 65))
        assert frame.images.shape == (1, 3, 49, 65)
        assert (frame.height, frame.width) == expected


def test_the_image_lies_at_the_top_left_of_the_mean_colour(model: Model) -> None:
    batch = images(20, 30)
    frame = on_canvas(batch, model, (49, 65)).images
    assert torch.equal(frame[..., :20, :30], batch.float())
    frame[..., :20, :30] = torch.tensor(model.mean).view(3, 1, 1)
    assert torch.equal(frame, torch.tensor(model.mean).view(1, 3, 1, 1).expand(1, 3, 49, 65))
    whole = images(49, 65)
    assert on_canvas(whole, model, (49, 65)).images is whole


def test_shrinking_smooths_as_pillow_does(model: Model) -> None:
    batch = images(147, 173)
    frame = on_canvas(batch, model, (49, 65))
    pixels = Image.fromarray(batch[0].permute(1, 2, 0).numpy())
    size = (frame.width, frame.height)
    expected = torch.from_numpy(np.array(pixels.resize(size, Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert torch.equal(frame.images[0, :, : frame.height, : frame.width], expected.float())


@torch.no_grad()
def test_probabilities_are_what_the_network_says_of_the_canvas(model: Model) -> None:
    batch = images(20, 30)
    canvas = torch.tensor(model.mean).view(1, 3, 1, 1).repeat(1, 1, 49, 65)
    canvas[..., :20, :30] = batch.float()
    logits = F.interpolate(model(canvas).semantic, (49, 65), mode="bilinear", align_corners=True)[..., :20, :30]
    torch.testing.assert_close(predict_probabilities(model, batch, CANVAS), logits.softmax(1), atol=1e-5, rtol=1e-4)
    assert (predict_labels(model, batch, CANVAS) == logits.argmax(1)).float().mean() > 0.99


def test_the_labels_of_a_shrunk_image_are_enlarged_with_hard_edges(model: Model) -> None:
    batch = images(98, 130)
    small = predict_labels(model, on_canvas(batch, model, (49, 65)).images, InferenceConfig())
    expected = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(predict_labels(model, batch, CANVAS), expected)


def test_on_a_canvas_of_its_own_size_an_image_is_seen_whole(model: Model) -> None:
    batch = images(49, 65)
    assert torch.equal(predict_labels(model, batch, CANVAS), predict_labels(model, batch, InferenceConfig()))
    whole = predict_probabilities(model, batch, InferenceConfig())
    torch.testing.assert_close(predict_probabilities(model, batch, CANVAS), whole)


@pytest.mark.parametrize(
    "config",
    [
        CANVAS,
        CANVAS.model_copy(update={"flip": True}),
        InferenceConfig(flip=True, scales=(0.5, 1.5)),
        InferenceConfig(),
    ],
)
@pytest.mark.parametrize("size", SIZES[:7])
def test_a_network_that_says_one_class_says_it_everywhere(
    model: Model, size: tuple[int, int], config: InferenceConfig
) -> None:
    constant = copy.deepcopy(model)
    torch.nn.init.zeros_(constant.get_parameter("classify.weight"))
    constant.get_parameter("classify.bias").data.copy_(torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0]))
    assert torch.equal(predict_labels(constant, images(*size), config).long(), torch.full((1, *size), 3))
    expected = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0]).softmax(0).view(1, 5, 1, 1).expand(1, 5, *size)
    torch.testing.assert_close(predict_probabilities(constant, images(*size), config), expected)


# ---- the conditional random field


@pytest.mark.parametrize("mode", ["whole", "canvas", "sliding"])
def test_a_crf_refines_the_probabilities_at_the_images_size(model: Model, mode: str) -> None:
    batch = images(40, 90, batch=2)
    plain = InferenceConfig.model_validate({"mode": mode, "window": (49, 65)})
    config = plain.model_copy(update={"crf": "v2_resnet101"})
    refined = predict_probabilities(model, batch, config)
    coarse = predict_probabilities(model, batch, plain)
    pixels = batch.permute(0, 2, 3, 1).numpy()
    expected = [refine(one, image, CRFS["v2_resnet101"]) for one, image in zip(coarse, pixels, strict=True)]
    torch.testing.assert_close(refined, torch.stack(expected))
    assert not torch.allclose(refined, coarse, atol=1e-2)
    assert torch.equal(predict_labels(model, batch, config), refined.argmax(1))


def test_only_a_row_of_the_table_is_a_crf() -> None:
    with pytest.raises(ValueError, match="v1_large_fov"):
        InferenceConfig.model_validate({"crf": "v3"})
    assert {name for name in CRFS if InferenceConfig(crf=name).is_single} == set()


def test_a_protocol_describes_itself() -> None:
    assert CANVAS.describe() == {
        "image": "on a canvas of 49 x 65, shrunk to fit",
        "scales": "1",
        "flipped too": "no",
    }
    full = InferenceConfig(scales=(0.5, 1.25), flip=True, crf="v1")
    assert full.describe() == {"image": "whole image", "scales": "0.5, 1.25", "flipped too": "yes", "CRF": "v1"}


def test_sliding_windows_are_averaged_where_they_overlap(model: Model) -> None:
    batch = images(50, 70)
    config = InferenceConfig(mode="sliding", window=(33, 33), overlap=0.4)
    total, count = torch.zeros(1, 5, 50, 70), torch.zeros(50, 70)
    for y in window_starts(50, 33, 0.4):
        for x in window_starts(70, 33, 0.4):
            total[..., y : y + 33, x : x + 33] += predict_probabilities(
                model, batch[..., y : y + 33, x : x + 33], InferenceConfig()
            )
            count[y : y + 33, x : x + 33] += 1
    torch.testing.assert_close(predict_probabilities(model, batch, config), total / count, atol=1e-5, rtol=1e-5)


# ---- a network without a map of classes


def test_only_one_whole_pass_is_for_a_network_without_a_map_of_classes() -> None:
    torch.manual_seed(0)
    tree = {"backbone": {"name": "mobilenet_v2", "depth_multiplier": 0.1}}
    net = models.build(MODELS["image_classifier"].Config.model_validate(tree), 5).eval()
    for config in (InferenceConfig(), InferenceConfig(mode="canvas", window=(65, 65))):
        seen = look(net, images(33, 47, batch=2), config)
        assert seen.outputs.classes is not None
        assert seen.outputs.classes.shape == (2, 5)
    for config in (InferenceConfig(flip=True), InferenceConfig(mode="sliding"), InferenceConfig(crf="v1")):
        with pytest.raises(ConfigError, match="a classification network has no class map"):
            look(net, images(33, 47), config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("config", [InferenceConfig(), InferenceConfig(flip=True), InferenceConfig(mode="sliding")])
def test_an_output_that_is_not_finite_is_said_and_not_some_class(
    model: Model, config: InferenceConfig, value: float
) -> None:
    broken = copy.deepcopy(model)
    assert isinstance(broken.classify, torch.nn.Conv2d) and broken.classify.bias is not None
    with torch.no_grad():
        broken.classify.bias[2] = value
    with pytest.raises(ModelFileError, match="the network's output is NaN or infinite: its weights are damaged"):
        look(broken, images(33, 47), config)


def test_a_class_that_a_network_excludes_is_no_damage(model: Model) -> None:
    masked = copy.deepcopy(model)
    assert isinstance(masked.classify, torch.nn.Conv2d) and masked.classify.bias is not None
    with torch.no_grad():
        masked.classify.bias[2] = float("-inf")
    assert 2 not in predict_labels(masked, images(33, 47), InferenceConfig())


# ---- centres and offsets


class Pointing:
    """A network whose every pixel points at the image's middle, whichever way round and at whatever size it sees it."""

    facts = Facts("panoptic", 2, (0.0, 0.0, 0.0), 8, 1, "aligned_corners")

    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        height, width = images.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        offset = torch.stack([(height - 1) / 2 - y, (width - 1) / 2 - x])
        gray = images.float().mean(1, keepdim=True) / 255
        return Outputs(torch.cat([gray, 1 - gray], 1), center=gray, offset=offset[None].repeat(len(images), 1, 1, 1))


def smooth(height: int, width: int) -> Tensor:
    """A picture that resizing hardly changes, brighter to the right."""
    y, x = torch.linspace(0, 50, height)[:, None], torch.linspace(0, 200, width)
    return (x + y).expand(1, 3, height, width).contiguous()


TRUE_OFFSET = Pointing()(smooth(33, 49)).offset


@pytest.mark.parametrize(
    "config",
    [
        InferenceConfig(flip=True),
        InferenceConfig(scales=(0.5, 1.0, 2.0)),
        InferenceConfig(scales=(0.5, 1.5), flip=True),
        InferenceConfig(mode="canvas", window=(33, 49), flip=True),
        InferenceConfig(mode="sliding", window=(64, 64), flip=True),  # one window: the middle is that of the image
        InferenceConfig(mode="sliding", window=(99, 99), scales=(65 / 33,)),  # 65 x 97 pixels
    ],
    ids=["flip", "scales", "both", "canvas", "sliding", "sliding, twice as large"],
)
def test_offsets_stay_those_of_the_image(config: InferenceConfig) -> None:
    network = Pointing()
    outputs = look(network, smooth(33, 49), config, probabilities=True).outputs
    assert outputs.offset is not None and outputs.center is not None and TRUE_OFFSET is not None
    is_half_pixel = config.mode == "sliding" and config.scales != (1.0,)  # borders of both sizes coincide, not corners
    tolerance = 0.5 if is_half_pixel else 1e-3
    torch.testing.assert_close(outputs.offset, TRUE_OFFSET, atol=tolerance, rtol=0)
    torch.testing.assert_close(outputs.center, smooth(33, 49).mean(1, keepdim=True) / 255, atol=0.02, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_a_flipped_image_has_flipped_maps(flip: bool) -> None:
    torch.manual_seed(0)
    branch = {"aspp_channels": 8, "low_level_channels": (4, 4), "decoder_channels": 8, "head_channels": 8}
    config = MODELS["panoptic_deeplab"].Config.model_validate(
        {"backbone": "resnet_tiny", "semantic": branch, "instance": branch}
    )
    net, protocol = models.build(config, 3).eval(), InferenceConfig(flip=True, scales=(0.5, 1.0) if flip else (1.0,))
    batch = images(65, 97)
    plain, mirrored = (look(net, x, protocol, probabilities=True).outputs for x in (batch, batch.flip(-1)))
    assert plain.center is not None and plain.offset is not None
    assert mirrored.center is not None and mirrored.offset is not None
    torch.testing.assert_close(mirrored.semantic.flip(-1), plain.semantic, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mirrored.center.flip(-1), plain.center, atol=1e-5, rtol=1e-4)
    turned = mirrored.offset.flip(-1) * torch.tensor([1.0, -1.0]).view(2, 1, 1)
    torch.testing.assert_close(turned, plain.offset, atol=1e-3, rtol=1e-4)


def test_a_class_map_alone_has_neither() -> None:
    outputs = look(model_without_things(), images(33, 49), InferenceConfig(flip=True)).outputs
    assert outputs.center is None and outputs.offset is None


def model_without_things() -> Model:
    return models.build(load("synthetic/deeplab_v3plus_tiny", SMALL_MODEL).model, 3).eval()


@pytest.mark.parametrize("convention", ["aligned_corners", "half_pixel", "legacy"])
@pytest.mark.parametrize("is_mean", [False, True])
def test_probabilities_at_places_are_those_of_the_upsampled_map(convention: Convention, is_mean: bool) -> None:
    torch.manual_seed(0)
    logits, frame = torch.randn(2, 3, 4, 5), (33, 41)
    large = resize(logits, frame, convention).softmax(1)
    view = Seen(Outputs(large if is_mean else logits), frame, (30, 40), (30, 40), convention, is_mean)
    places = torch.cartesian_prod(torch.arange(30), torch.arange(40))
    classes = (places[:, 0] + places[:, 1]) % 3
    found = probabilities_at(view, 1, places, classes)
    torch.testing.assert_close(found, large[1, classes, places[:, 0], places[:, 1]], atol=1e-5, rtol=1e-4)
    assert probabilities_at(view, 1, places[:0], classes[:0]).shape == (0,)
