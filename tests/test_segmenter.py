"""A network with its header: created by name, predicting, at another output stride, and of another runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import atrous
from atrous import data, evaluate, models, segmenter
from atrous.data.label_space import LabelSpace
from atrous.distributed import World
from atrous.errors import AtrousError, ConfigError, DataError, ModelFileError
from atrous.inference import InferenceConfig
from atrous.model_file import Header
from atrous.models import MODELS
from atrous.runtimes import pytorch
from atrous.runtimes.contract import Speed
from atrous.segmenter import Segmenter
from atrous.types import Facts, Outputs
from tests.conftest import noise
from tests.runs import Tiny, assert_same

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)


def test_predict_takes_arrays_pil_images_and_paths(small: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(noise()).save(path)
    labels = [small.predict(image).semantic for image in (noise(), Image.fromarray(noise()), path, str(path))]
    assert all(np.array_equal(labels[0], other) for other in labels)
    assert labels[0].shape == (40, 50)
    assert labels[0].dtype == np.uint8


def test_many_images_are_predicted_in_their_order(small: Segmenter, tmp_path: Path) -> None:
    images = [noise(40, 50), noise(30, 50), noise(40, 50)[::-1], noise(40, 50)[:, ::-1], noise(30, 50)[::-1]]
    Image.fromarray(images[2]).save(tmp_path / "image.png")
    mixed: list[Any] = [images[0], Image.fromarray(images[1]), tmp_path / "image.png", *images[3:]]
    for several in (mixed, tuple(mixed), iter(mixed), (image for image in mixed)):
        predictions = small.predict(several, probabilities=True)
        assert isinstance(predictions, list)
        for prediction, image in zip(predictions, images, strict=True):
            alone = small.predict(image, probabilities=True)
            assert np.array_equal(prediction.image, image)
            assert prediction.probabilities is not None and alone.probabilities is not None
            np.testing.assert_allclose(prediction.probabilities, alone.probabilities, atol=1e-5)
            assert np.array_equal(prediction.semantic, alone.semantic)
    assert small.predict([]) == []
    assert len(small.predict([images[0]])) == 1


def test_images_of_one_size_share_a_pass_as_long_as_they_are_small() -> None:
    sizes = [(40, 50), (30, 50), (40, 50), (40, 50)]
    images = [np.zeros((*size, 3), np.uint8) for size in sizes]
    assert segmenter.batches_by_size(images) == [[0, 2, 3], [1]]
    large = [np.zeros((1024, 1024, 3), np.uint8)] * 5
    assert segmenter.batches_by_size(large) == [[0, 1], [2, 3], [4]]
    assert segmenter.batches_by_size([np.zeros((2000, 2000, 3), np.uint8)] * 2) == [[0], [1]]


def test_a_bad_image_among_many_is_found_before_any_is_predicted(
    small: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Segmenter, "_decode", None)  # would be called
    with pytest.raises(DataError, match=r"^image 1 of the list \(counted from 0\): an array of an image must be RGB"):
        small.predict([noise(), noise() / 255.0])  # type: ignore[list-item]


def test_a_read_only_array_is_predicted_without_a_warning(small: Segmenter) -> None:
    image = noise()
    image.setflags(write=False)
    assert np.array_equal(small.predict(image).semantic, small.predict(noise()).semantic)


def test_unreadable_images_are_named(small: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        small.predict(tmp_path / "nowhere.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    with pytest.raises(DataError, match=r"bad\.png"):
        small.predict(tmp_path / "bad.png")


# ---- the prepared network


def test_prediction_leaves_the_modes_of_the_model_alone(small: Segmenter) -> None:
    small.model.train()
    small.model.backbone.eval()
    modes = [module.training for module in small.model.modules()]
    one, other = small.predict(noise()).semantic, small.predict(noise()).semantic
    assert [module.training for module in small.model.modules()] == modes
    small.model.eval()
    assert np.array_equal(one, other)
    assert np.array_equal(one, small.predict(noise()).semantic)


def test_the_network_is_prepared_once_and_sees_later_changes_of_the_weights(small: Segmenter) -> None:
    prepared = small.prepared
    before = small.predict(noise()).semantic
    assert small.prepared is prepared
    with torch.no_grad():
        small.model.get_parameter("classify.bias")[1] += 1000
    after = small.predict(noise()).semantic
    assert (before != 1).any()
    assert (after == 1).all()


def test_a_change_of_the_header_or_the_device_prepares_anew(small: Segmenter) -> None:
    for other in (small.with_inference(InferenceConfig()), small.with_header(results={}), small.to("cpu")):
        assert other.network is small.network
        assert other.prepared is not small.prepared


# ---- precision


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that computes in bfloat16, whatever this one does."""
    monkeypatch.setattr(pytorch, "has_bf16", lambda device: True)


def in_auto(segmenter: Segmenter) -> Segmenter:
    """With logits so far apart that rounding decides nowhere."""
    segmenter.model.get_parameter("classify.weight").detach().zero_()
    segmenter.model.get_parameter("classify.bias").detach().copy_(torch.arange(3) * 10)
    return segmenter.with_speed("auto")


@pytest.mark.parametrize(("least", "settled"), [(0.999, "bf16"), (1.1, "fp32")])
@pytest.mark.usefixtures("with_bf16")
def test_auto_is_bf16_where_labels_agree(
    small: Segmenter, least: float, settled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "LEAST_AGREEMENT", least)
    auto = in_auto(small)
    exact = small.with_speed("fp32").predict(noise(256, 256)).semantic
    auto.predict(noise())
    assert auto.precision == "fp32"  # an image as small as this settles nothing
    auto.predict(noise(256, 256))
    assert auto.precision == settled
    assert np.array_equal(auto.predict(noise(256, 256)).semantic, exact)
    with torch.no_grad():
        small.model.get_parameter("classify.bias").add_(1)
    auto.predict(noise())
    assert auto.precision == "fp32"  # other weights: nothing is known of them


@pytest.mark.usefixtures("with_bf16")
def test_settling_goes_by_the_first_image_that_is_large_enough(small: Segmenter) -> None:
    auto = in_auto(small)
    one, share = auto.settled([noise(), noise(256, 256), noise(300, 300)])
    assert (one.precision, share, one.speed) == ("bf16", 1.0, Speed("bf16"))
    assert auto.with_speed("auto").settled([noise()])[0].speed == Speed("fp32")
    assert small.with_speed("bf16").settled([noise(256, 256)]) == (small.with_speed("bf16"), None)


def test_where_there_is_no_bf16_auto_is_fp32(small: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "has_bf16", lambda device: False)
    auto = in_auto(small)
    auto.predict(noise(256, 256))
    assert auto.precision == "fp32"
    with pytest.raises(ConfigError, match=r"^precision=bf16: this cpu has no bfloat16"):
        small.with_speed("bf16")


# ---- devices, and how a segmenter is shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_clear_line(small: Segmenter, tmp_path: Path) -> None:
    small.save(tmp_path / "model.safetensors")
    for place in (
        lambda device: atrous.load(tmp_path / "model.safetensors", device=device),
        lambda device: atrous.create("deeplab_v3", backbone="mobilenet_v2", num_classes=2, device=device),
        small.to,
    ):
        for device in ("cuda", "cuda:1", torch.device("cuda")):
            with pytest.raises(ConfigError, match=rf"^device={device}: not available; PyTorch .* sees cpu; it must be"):
                place(device)
        with pytest.raises(ConfigError, match=r"^device=gpu: no such device; it must be cpu, cuda, cuda:N or auto$"):
            place("gpu")
        assert place("auto").device == CPU


def test_a_segmenter_moves_as_a_tensor_does(small: Segmenter) -> None:
    assert small.to("cpu").model is small.model
    elsewhere = small.to(torch.device("meta"))
    assert elsewhere.model.shift.is_meta and elsewhere.device.type == "meta"
    assert not small.model.shift.is_meta, "the original stays where it is"
    assert small.predict(noise()).semantic.shape == (40, 50)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_segmenter_and_its_copy_on_a_gpu_predict_the_same(small: Segmenter) -> None:
    copy = small.to("auto")
    assert copy.device.type == "cuda"
    differs = copy.predict(noise()).semantic != small.predict(noise()).semantic
    assert differs.mean() < 0.01


def test_a_segmenter_is_shown_in_one_line(small: Segmenter) -> None:
    assert repr(small) == "Segmenter(deeplab_v3plus, mobilenet_v2, 3 classes, cpu)"
    assert small.classes == ("sky", "road", "car")


# ---- another output stride


def test_another_output_stride_shares_the_weights(small: Segmenter) -> None:
    dense = small.with_output_stride(8)
    assert dense.model.config.output_stride == dense.header.model.output_stride == 8
    assert dense.model.config.model_dump()["aspp"]["rates"] == (4, 8, 12)
    assert small.model.config.output_stride == 16
    own = dict(small.model.named_parameters())
    assert all(parameter is own[name] for name, parameter in dense.model.named_parameters())
    assert dense.predict(noise()).semantic.shape == (40, 50)


def test_a_protocol_brings_its_output_stride(small: Segmenter) -> None:
    dense = small.with_inference(InferenceConfig(output_stride=8))
    assert (dense.network.facts.output_stride, dense.inference.output_stride) == (8, 8)
    assert dense.with_inference(InferenceConfig()).network.facts.output_stride == 8
    assert small.with_inference(InferenceConfig(output_stride=16)).network is small.network


def test_rates_without_a_counterpart_are_refused(tiny: Tiny) -> None:
    created = segmenter.create(tiny("model.aspp.rates=1,3").model, num_classes=3)
    with pytest.raises(ConfigError, match="no whole counterpart at 32"):
        created.with_output_stride(32)


REFUSED_STRIDES = (  # model, backbone, output stride, reason
    ("deeplab_v3", "pnasnet", 8, "deeplab_v3 with pnasnet has other weights at 8 than at 16; stay at 16"),
    ("deeplab_v1", "vgg16", 16, "model.output_stride=16: must be 8"),
    ("deeplab_v2", "vgg16", 16, "vgg16 has output_stride 8, not 16"),
    ("deeplab_v2", "mobilenet_v2", 32, "rates (6, 12, 18, 24) at output stride 8 have no whole counterpart at 32"),
    ("dense_prediction_cell", "mobilenet_v2", 32, "model.output_stride=32: must be 8 or 16"),
)


def test_the_public_names_are_listed_before_they_are_used() -> None:
    assert set(atrous.__all__) <= set(dir(atrous))


def test_an_output_stride_that_a_network_does_not_have_is_refused_in_one_line() -> None:
    space = LabelSpace(names=("a", "b", "c"))
    for name, backbone, output_stride, reason in REFUSED_STRIDES:
        stride = {"output_stride": 8} if backbone == "vgg16" else {}
        config = MODELS[name].Config.model_validate({"backbone": backbone, **stride})
        with torch.device("meta"):
            model = models.build(config, 3)
        created = Segmenter(model, Header(model=config, label_space=space))
        protocol = InferenceConfig.model_validate({"output_stride": output_stride})
        for change in (created.with_output_stride, lambda _, made=created, how=protocol: made.with_inference(how)):
            with pytest.raises(ConfigError) as error:
                change(output_stride)
            assert reason in str(error.value)
            assert "\n" not in str(error.value)


# ---- created


def test_create_by_name() -> None:
    created = atrous.create("deeplab_v3", backbone="mobilenet_v2", num_classes=4)
    assert created.label_space.num_classes == 4
    again = atrous.create("deeplab_v3", backbone="mobilenet_v2", num_classes=4)
    assert_same(created.model.state_dict(), again.model.state_dict())


def test_create_leaves_the_random_numbers_of_the_program_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    atrous.create("deeplab_v3", backbone="mobilenet_v2", num_classes=2, seed=7)
    assert torch.equal(torch.rand(3), expected)


WRONG_SETTINGS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"model": "deeplab_v9", "num_classes": 3}, "did you mean deeplab_v3"),
    (
        {"model": "deeplab_v3", "backbone": "resnet51", "num_classes": 3},
        "model.backbone=resnet51: unknown backbone; did you mean resnet50?",
    ),
    ({"model": "deeplab_v3", "backbone": "mobilenet_v2"}, "num_classes or label_space is missing"),
    (
        {"model": "deeplab_v3", "backbone": "mobilenet_v2", "num_classes": 1},
        "model.num_classes=1: must be at least 2",
    ),
    (
        {"model": "deeplab_v3", "backbone": "mobilenet_v2", "num_classes": 3, "output_stride": 5},
        "model.output_stride=5: must be 8, 16 or 32",
    ),
    (
        {"model": "deeplab_v3", "num_classes": 5, "label_space": LabelSpace(names=("a", "b"))},
        "create: num_classes is 5, but the label space has 2 classes",
    ),
)


def test_create_explains_what_it_cannot_do() -> None:
    for settings, reason in WRONG_SETTINGS:
        with pytest.raises(AtrousError) as error:
            atrous.create(**settings)
        assert reason in str(error.value)
        assert "\n" not in str(error.value)


# ---- of another runtime


class Halves:
    """A network that is no model of PyTorch: class 1 on the right half of an image, class 0 on the left."""

    facts = Facts("semantic", 2, (0.0, 0.0, 0.0), 8, 8, "half_pixel")

    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        rows, columns = (-(-side // 8) for side in images.shape[-2:])
        right = (torch.arange(columns) >= columns / 2).float().expand(len(images), rows, columns)
        return Outputs(torch.stack([1 - right, right], 1))


@pytest.fixture
def halves(tiny: Tiny) -> Segmenter:
    space = LabelSpace(names=("left", "right"))
    return Segmenter(Halves(), Header(model=tiny().model, label_space=space))


def test_a_network_of_another_runtime_predicts_by_every_protocol(halves: Segmenter) -> None:
    expected = np.zeros((32, 48), np.uint8)
    expected[:, 24:] = 1
    assert halves.prepared is halves.network
    window = (32, 48)
    whole, scaled, canvas = (
        InferenceConfig(),
        InferenceConfig(scales=(1.0, 2.0)),
        InferenceConfig(mode="canvas", window=window),
    )
    for inference in (whole, scaled, canvas):
        prediction = halves.with_inference(inference).predict(noise(32, 48), probabilities=True)
        assert np.array_equal(prediction.semantic, expected), inference
        assert prediction.probabilities is not None
    assert np.array_equal(halves.to("cpu").predict(noise(32, 48)).semantic, expected)


def test_a_network_of_another_runtime_is_evaluated(halves: Segmenter, folder_data: Path) -> None:
    """The right half of each image is class 1, as the network says."""
    config = atrous.config.load(
        "synthetic/deeplab_v3plus_tiny", ["data.format=folder", f"data.root={folder_data}"]
    ).data
    space, samples = data.label_space(config), data.samples(config, "val")
    evaluation = evaluate.evaluate(halves.with_header(label_space=space), samples, world=ALONE)
    assert evaluation.figures.scores["pixel_accuracy"] > 0.9
    assert evaluation.protocol["output stride"] == "8"


def test_a_network_of_another_runtime_cannot_be_changed_or_saved(halves: Segmenter, tmp_path: Path) -> None:
    for change in (
        lambda: halves.model,
        lambda: halves.with_output_stride(16),
        lambda: halves.with_inference(InferenceConfig(output_stride=16)),
        lambda: halves.save(tmp_path / "model.safetensors"),
    ):
        with pytest.raises(ConfigError, match="an exported network has no model to train or change"):
            change()
    assert not (tmp_path / "model.safetensors").exists()


def test_the_folder_of_a_run_is_its_best_model(
    small: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    small.save(tmp_path / "run" / "best.safetensors")
    for path in (tmp_path / "run", str(tmp_path / "run"), "~/run", "~/run/best.safetensors"):
        assert_same(segmenter.load(path).model.state_dict(), small.model.state_dict())


def test_a_folder_without_a_best_model_names_what_it_has(small: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"a folder without best\.safetensors, so it isn't .* run$"):
        segmenter.load(tmp_path)
    small.save(tmp_path / "last.safetensors")
    with pytest.raises(ModelFileError, match=r"name one of the models in it: last\.safetensors$"):
        segmenter.load(tmp_path)
