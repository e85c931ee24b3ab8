"""A graph that computes something else than the model that its weights make is refused by its layers' names, or set."""

from pathlib import Path

import numpy as np
import pytest
import torch

import atrous
from atrous.convert import convert
from atrous.convert.flow.agreement import Expectation, Passes, disagreements
from atrous.convert.flow.operations import MAXIMUM, Operation, Operations, flow_of
from atrous.convert.flow.values import Flow, layer_key, value
from atrous.convert.run import conversion
from atrous.convert.systems.tf_deeplab.graphs import without_holes
from atrous.errors import ConfigError, ConversionError
from atrous.inference.frames import as_batch, on_canvas
from atrous.inference.look import predict_labels
from atrous.ops import upsample_argmax
from atrous.segmenter import read_image
from tests.conftest import SHARED
from tests.convert import graphs
from tests.convert.conftest import assert_close, error_line, random_image, run
from tests.convert.graphs import Step, changed, half_width_steps
from tests.convert.sources import folded_half_width, half_width
from tests.reference.legacy import legacy

MORE = SHARED / "models" / "more"
BLOCK = f"{graphs.ROOT}/expanded_conv_14/depthwise"  # of rate 2 at output stride 16
WEIGHTS = "logits/semantic/weights"
STRIDED = f"{graphs.ROOT}/expanded_conv_3/depthwise"


def frozen(folder: Path, steps: list[Step], **settings: object) -> Path:
    path = folder / "graph.pb"
    path.write_bytes(graphs.frozen(steps, half_width(), **settings))  # type: ignore[arg-type]
    return path


def lite(folder: Path, steps: list[Step]) -> Path:
    path = folder / "graph.tflite"
    path.write_bytes(graphs.lite(steps, folded_half_width()))
    return path


def without(steps: list[Step], name: str) -> list[Step]:
    """The steps after it take its first input."""
    (gone,) = [step for step in steps if step.name == name]
    left = [step for step in steps if step.name != name]
    return [step._replace(inputs=tuple(gone.inputs[0] if x == name else x for x in step.inputs)) for step in left]


ROOT = graphs.ROOT
WRONG = {  # what is wrong, and how it is told
    "stride": (  # elsewhere than in any of our networks: the output stride would be 32
        changed(half_width_steps(), BLOCK, stride=2),
        f"{ROOT}/expanded_conv_13/depthwise has stride 1, the model stride 2",
    ),
    "padding": (
        changed(half_width_steps(), STRIDED, padding="VALID"),
        rf"{STRIDED} has padding \(0, 0\) x \(0, 0\), the model padding \(1, 1\) x \(1, 1\)",
    ),
    "activation": (
        changed(half_width_steps(), f"{ROOT}/expanded_conv_5/expand", activation="Relu"),
        rf"expanded_conv_5/depthwise has the input relu\({ROOT}/expanded_conv_5/expand\), the model the input relu6",
    ),
    "no activation": (
        changed(half_width_steps(), "aspp0", activation=""),
        r"concat_projection has the input \(relu\(image_pooling\), aspp0\), the model the input "
        r"\(relu\(image_pooling\), relu\(aspp0\)\)",
    ),
    "no shortcut": (
        without(half_width_steps(), f"{ROOT}/expanded_conv_15/add"),
        f"expanded_conv_16/expand has the input {ROOT}/expanded_conv_15/project, the model the input ",
    ),
    "order of branches": (
        changed(half_width_steps(), "concat", inputs=("aspp0", "ResizeBilinear")),
        r"concat_projection has the input \(relu\(aspp0\), relu\(image_pooling\)\)",
    ),
    "size": (
        changed(half_width_steps(), "ResizeBilinear_1", size=33),
        "ResizeBilinear_1 resizes logits/semantic to 33 x 33, the model to 65 x 65",
    ),
    "map resized": (
        [
            *half_width_steps()[:-2],
            Step("resize", "smaller", ("concat_projection",), size=3),
            Step("conv", "logits/semantic", ("smaller",)),
        ],
        r"smaller resizes relu\(concat_projection\) to 3 x 3, the model doesn't",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("write", [frozen, lite])
def test_another_network_is_refused_by_its_layers_names(kind: str, write: object, tmp_path: Path) -> None:
    steps, reason = WRONG[kind]
    with pytest.raises(ConversionError, match=reason) as error:
        convert(write(tmp_path, steps))  # type: ignore[operator]
    assert "its graph is not the network that was recognised" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_right_graph_is_converted_to_its_weights(tmp_path: Path) -> None:
    with torch.no_grad():
        expected = convert(half_width()).model(random_image(65, 65)).semantic
        for path in (frozen(tmp_path, half_width_steps()), lite(tmp_path, half_width_steps())):
            assert_close(convert(path).model(random_image(65, 65)).semantic, expected, 1e-5)


def test_the_output_stride_is_set(tmp_path: Path) -> None:
    for output_stride in (8, 16, 32):
        steps = half_width_steps(output_stride)
        for path in (frozen(tmp_path, steps), lite(tmp_path, steps)):
            done = conversion(path)
            assert done.segmenter.model.config.output_stride == output_stride
            assert not any("output_stride" in text for text in done.assumptions)


def test_an_option_at_run_time_may_differ_from_the_graph(tmp_path: Path) -> None:
    segmenter = convert(frozen(tmp_path, half_width_steps()), options={"output_stride": 8})
    assert segmenter.model.config.output_stride == 8


def test_the_window_of_image_pooling_is_set(tmp_path: Path) -> None:
    """3 x 3 cells at output stride 16 are 33 x 33 pixels."""
    steps = changed(half_width_steps(), "AvgPool2D/AvgPool", kernel=3, stride=2)
    for path in (frozen(tmp_path, steps), lite(tmp_path, steps)):
        aspp = convert(path).model.config.model_dump()["aspp"]
        assert (aspp["pooling_window"], aspp["pooling_stride"]) == ((33, 33), (2, 2))


def test_half_pixel_centres_are_set_and_a_single_pixel_has_no_convention(tmp_path: Path) -> None:
    steps = changed(half_width_steps(), "ResizeBilinear_1", align_corners=False, half_pixel_centers=True)
    assert convert(frozen(tmp_path, steps)).model.facts.convention == "half_pixel"
    steps = changed(half_width_steps(), "ResizeBilinear", align_corners=False)
    assert convert(lite(tmp_path, steps)).model.facts.convention == "aligned_corners"


@pytest.mark.parametrize(("rate", "write"), [(1, frozen), (1, lite), (4, lite)])
def test_rates_other_than_those_of_the_output_stride_are_set(rate: int, write: object, tmp_path: Path) -> None:
    """Whichever block has one; another output stride is then refused, for its rates aren't known."""
    own = convert(half_width()).model
    segmenter = convert(write(tmp_path, changed(half_width_steps(), BLOCK, rate=rate)))  # type: ignore[operator]
    assert segmenter.model.config.backbone.model_dump()["rates"] == (*[1] * 14, rate, 2, 2)
    with torch.no_grad():
        for block, dilation in ((14, rate), (15, 2)):
            conv = own.get_submodule(f"backbone.blocks.{block}.depthwise.conv")
            conv.dilation = conv.padding = (dilation, dilation)  # type: ignore[assignment]
        assert_close(segmenter.model(random_image(65, 65)).semantic, own(random_image(65, 65)).semantic, 1e-5)
    with pytest.raises(ConfigError, match=r"output_stride=8: the backbone has rates of its own"):
        segmenter.with_output_stride(8)
    with pytest.raises(ConfigError, match=r"output_stride=8, but its graph has rates of its own, \(1, 1, "):
        convert(write(tmp_path, changed(half_width_steps(), BLOCK, rate=rate)), options={"output_stride": 8})  # type: ignore[operator]


@pytest.mark.parametrize("write", [frozen, lite])
def test_legacy_resizing_is_set(write: object, tmp_path: Path) -> None:
    """Pixel x of the labels lies at x * in / out in the logits."""
    path = write(tmp_path, changed(half_width_steps(), "ResizeBilinear_1", align_corners=False))  # type: ignore[operator]
    segmenter, image = convert(path), random_image(65, 65)
    assert segmenter.model.facts.convention == "legacy"
    with torch.no_grad():
        logits = segmenter.model(image).semantic
    labels = predict_labels(segmenter.model, image, segmenter.inference)
    np.testing.assert_array_equal(labels, legacy(logits.numpy(), (65, 65)).argmax(1))


def test_nearest_neighbours_are_refused(tmp_path: Path) -> None:
    steps = changed(half_width_steps(), "ResizeBilinear_1", method="NearestNeighbor")
    with pytest.raises(ConversionError, match="by nearest, aligned corners, the model by bilinear, aligned corners"):
        convert(frozen(tmp_path, steps))


def test_another_epsilon_is_refused(tmp_path: Path) -> None:
    steps = changed(half_width_steps(), "aspp0", epsilon=1e-3)
    with pytest.raises(ConversionError, match=r"aspp0/BatchNorm has epsilon 0\.001, the model 1\.001e-05"):
        convert(frozen(tmp_path, steps))


def test_weights_that_no_convolution_uses_are_refused(tmp_path: Path) -> None:
    steps = [step for step in half_width_steps() if step.name != "ResizeBilinear_1"]
    path = frozen(tmp_path, changed(steps, "logits/semantic", op="resize"))
    with pytest.raises(ConversionError, match="logits/semantic is in no convolution of the graph"):
        convert(path)


def test_a_graphs_own_normalisation_is_set(tmp_path: Path) -> None:
    """x / 64 - 1 is (x - 64) / 64."""
    model = convert(frozen(tmp_path, half_width_steps(), factor=1 / 64)).model
    assert (model.mean, model.scale.flatten().tolist()) == ((64, 64, 64), [64, 64, 64])
    model = convert(frozen(tmp_path, half_width_steps())).model
    assert (model.mean, model.scale.flatten().tolist()) == ((127.5,) * 3, [127.5] * 3)


NAMES = (
    "{}/weights_quant/FakeQuantWithMinMaxVars",
    "{}/weights/read/_4__cf__4",
    "{}/Conv2D_Fold;{}/weights_quant/FakeQuantWithMinMaxVars",
    "{}/BatchNorm/FusedBatchNormV3;{}/Conv2D",
    "{}/Conv2D",
)


@pytest.mark.parametrize("name", NAMES)
def test_converters_name_tensors_in_many_ways(name: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.tflite"
    path.write_bytes(graphs.lite(half_width_steps(), folded_half_width(), name=name.replace("{}", "{0}")))
    with torch.no_grad():
        expected = convert(half_width()).model(random_image(65, 65)).semantic
        assert_close(convert(path).model(random_image(65, 65)).semantic, expected, 1e-5)


def test_a_kernel_with_holes_has_the_rate_that_they_stand_for() -> None:
    kernel = np.arange(1, 10, dtype=np.float32).reshape(3, 3, 1)
    for rate in (1, 2, 4, 6):
        wide = np.zeros((2 * rate + 1, 2 * rate + 1, 1), np.float32)
        wide[::rate, ::rate] = kernel
        dense, own = without_holes(wide)
        assert own == rate
        np.testing.assert_array_equal(dense, kernel)
    for other in (np.zeros((5, 5, 1)), np.ones((5, 5, 1)), np.ones((7, 3, 1))):
        assert without_holes(other)[0].shape == other.shape


# ---- what is said


def test_rounding_that_is_left_out_is_said_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = frozen(tmp_path, half_width_steps(), fake_quant=True), tmp_path / "m.safetensors"
    assert run(path, "--out", out) == 0
    said = "the rounding to 8 bits of its 55 FakeQuant operations is left out"
    assert f"assumed: {said}" in capsys.readouterr().out
    assert any(said in text for text in atrous.load(out).header.origin["assumptions"])


def test_a_graph_of_floats_says_that_its_images_are_normalised(tmp_path: Path) -> None:
    path = lite(tmp_path, half_width_steps())
    assert "images reach the graph normalised, as its backbone's" in conversion(path).assumptions
    assert conversion(frozen(tmp_path, half_width_steps())).assumptions == [
        "the 21 classes are those of pascal_voc_seg (set dataset= for others)"
    ]


def test_a_refusal_is_one_line_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = frozen(tmp_path, WRONG["activation"][0])
    assert str(path) in error_line(capsys, path, "--out", tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


# ---- published and made files


@pytest.mark.skipif(not MORE.exists(), reason=f"no published models at {MORE}")
def test_a_published_graph_with_holes_in_its_kernels_has_its_own_labels() -> None:
    segmenter = convert(MORE / "portrait_frozen_flattened_atrous.pb")
    assert segmenter.inference.window == (513, 513)
    with np.load(MORE / "portrait_frozen_flattened_atrous.npz") as labels:
        for stem in labels.files:
            (photo,) = (SHARED / "photos").glob(f"{stem}.*")
            image = as_batch(read_image(photo), torch.device("cpu"))
            canvas = on_canvas(image, segmenter.model, (513, 513)).images
            with torch.no_grad():
                ours = upsample_argmax(segmenter.model(canvas).semantic, (513, 513))[0].numpy()
            assert np.mean(ours == labels[stem]) > 0.998


@pytest.mark.skipif(not MORE.exists(), reason=f"no published models at {MORE}")
def test_the_rounding_of_a_published_graph_is_said() -> None:
    done = conversion(MORE / "portrait_frozen_fakequant.pb")
    assert any("120 FakeQuant operations is left out" in text for text in done.assumptions)


# ---- several passes


def two_passes(before: str, joined: str) -> Flow:
    """Of one layer, over an image of 65 x 65 and half of it; what it gives is joined."""
    views = [Operation("resize", "half", ("image", "size"), "half")]
    for name, source in (("a", "image"), ("b", "half")):
        views.append(Operation("conv", name, (source,), name, WEIGHTS))
        views.append(Operation(before, f"{name}_", (name,), f"{name}_"))
    views.append(Operation("concat", "all", ("a_", "b_"), "all"))
    views.append(Operation(joined, "end", ("all", "axis"), "end"))
    constants = {"size": np.array([33, 33]), "axis": np.array([4])}
    return flow_of(Operations(views, constants, ("image",), {}), (65, 65))


@pytest.mark.parametrize(
    ("before", "joined", "passes", "fault"),
    [
        ("softmax", "reduce_mean", Passes(2, "mean of probabilities", scales=(0.5, 1)), None),
        ("identity", "reduce_mean", Passes(2, "mean of logits", scales=(0.5, 1)), None),
        ("identity", MAXIMUM, Passes(2, "max of logits", scales=(0.5, 1)), None),
        ("identity", "reduce_mean", Passes(2, "max of logits", scales=(0.5, 1)), "not joined by the max of logits"),
        ("identity", MAXIMUM, Passes(2, "mean of probabilities", scales=(0.5, 1)), "not joined by the mean of prob"),
        ("softmax", "reduce_mean", Passes(2, is_flipped=True, scales=(0.5, 1)), "of flipped images, too"),
        ("softmax", "reduce_mean", Passes(2, scales=(0.75, 1)), "images of 33 x 33, 65 x 65, those of the options 49"),
    ],
)
def test_how_passes_are_joined_is_compared(before: str, joined: str, passes: Passes, fault: str | None) -> None:
    once = flow_of(Operations([Operation("conv", "a", ("image",), "a", WEIGHTS)], {}, ("image",), {}), (65, 65))
    logits = value("unused")._replace(key=layer_key(WEIGHTS))
    texts = disagreements(two_passes(before, joined), Expectation(once, logits, "aligned_corners", {}), passes)
    assert len(texts) == (fault is not None)
    assert fault is None or fault in texts[0]


def pooled_passes(*kernels: int) -> Flow:
    """Of one layer that takes means over windows, which differ with the scale."""
    views = []
    for number, kernel in enumerate(kernels):
        name = str(number)
        views.append(Operation("conv", f"a{name}", ("image",), f"a{name}", "a/weights"))
        views.append(Operation("mean", f"p{name}", (f"a{name}",), f"p{name}", kernel=(kernel, kernel), is_same=False))
        views.append(Operation("conv", f"b{name}", (f"p{name}",), f"b{name}", "b/weights"))
    return flow_of(Operations(views, {}, ("image",), {}), (65, 65))


def test_windows_may_be_those_of_the_models_other_scales() -> None:
    logits = value("unused")._replace(key=layer_key("b/weights"))
    model = Expectation(pooled_passes(7), logits, "aligned_corners", {}, scaled=(pooled_passes(5),))
    for kernels, is_same in (((7, 5), True), ((5, 7), True), ((7, 7), True), ((7, 6), False)):
        texts = [text for text in disagreements(pooled_passes(*kernels), model) if text.startswith("b has the input")]
        assert bool(texts) != is_same, kernels
