"""Graphs whose layers have lost their names, or have others: by the kernels, and what each layer takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.convert import convert
from atrous.convert.comparison import compare, total
from atrous.convert.conversion import Conversion, convert_weights
from atrous.convert.originals import Original
from atrous.convert.readers.frozen_graph import Graph, read_graph
from atrous.convert.readers.tflite import Operator, TfLite, read_tflite
from atrous.convert.run import conversion
from atrous.convert.systems.tf_deeplab.frozen import from_graph
from atrous.convert.systems.tf_deeplab.lite import from_tflite
from atrous.errors import AtrousError, ConversionError
from atrous.models import build
from atrous.models.deeplab_v3plus import DeepLabV3Plus
from tests.conftest import SHARED, noise
from tests.convert import graphs
from tests.convert.conftest import assert_close, error_line, random_image
from tests.convert.graphs import ROOT, Step, changed, half_width_steps
from tests.convert.sources import folded_half_width, half_width
from tests.reference import tf_deeplab

MORE = SHARED / "models" / "more"
NAMES = ("layer", "arith.constant{}", "model/net/{}/Conv2D", "import/{}/weights", "tfl.pseudo_qconst7")


def renamed(model: TfLite) -> TfLite:
    return model._replace(tensors=tuple(tensor._replace(name="") for tensor in model.tensors))


def numbered(graph: Graph) -> Graph:
    names = {name: f"n{number}" for number, name in enumerate(graph.nodes)}

    def rename(source: str) -> str:
        name, colon, output = source.lstrip("^").partition(":")
        return "^" * source.startswith("^") + names[name] + colon + output

    nodes = (
        node._replace(name=names[node.name], inputs=tuple(map(rename, node.inputs))) for node in graph.nodes.values()
    )
    return Graph({node.name: node for node in nodes}, {names[name]: array for name, array in graph.constants.items()})


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_not_the_originals_do_not_matter(name: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.tflite"
    path.write_bytes(graphs.lite(half_width_steps(), folded_half_width(), name=name.replace("{}", "{0}")))
    with torch.no_grad():
        expected = convert(half_width()).model(random_image(65, 65)).semantic
        assert_close(convert(path).model(random_image(65, 65)).semantic, expected, 1e-5)


def test_a_frozen_graph_without_names_has_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graphs.frozen(half_width_steps(), half_width()))
    named, bare = from_graph(read_graph(path), "a"), from_graph(numbered(read_graph(path)), "a")
    assert named.arrays.keys() == bare.arrays.keys()
    assert all(np.array_equal(array, bare.arrays[name]) for name, array in named.arrays.items())
    assert named.hints == bare.hints
    assert named.flow is not None and bare.flow is not None
    assert named.flow.epsilons == bare.flow.epsilons


CLASSES = 7


@pytest.mark.parametrize("op", ["conv", "dense"])
def test_a_classifier_may_end_in_a_product_of_matrices(op: Literal["conv", "dense"], tmp_path: Path) -> None:
    """As TensorFlow's Model Maker and Keras write it; whole images are compared by their class."""
    steps = [step for step in half_width_steps() if step.name.startswith(ROOT)]
    steps += [
        Step("conv", "widen", (steps[-1].name,), activation="Relu6"),
        Step("mean", "AvgPool", ("widen",), padding="VALID", kernel=5),
        Step(op, "predictions", ("AvgPool",)),
    ]
    draw = np.random.default_rng(3)
    head = {"widen/weights": (1, 1, 160, 32), "widen/biases": (32,), "predictions/biases": (CLASSES,)}
    shapes = head | {"predictions/weights": (1, 1, 32, CLASSES)}
    arrays = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["predictions/biases"][2] = 1e6
    path = tmp_path / "graph.tflite"
    path.write_bytes(graphs.lite(steps, {**folded_half_width(), **arrays}))
    done = conversion(path)
    assert done.segmenter.model.config.name == "image_classifier"
    assert any("though no softmax follows them" in text for text in done.assumptions)
    own = torch.from_numpy(arrays["predictions/weights"][0, 0].T)
    assert torch.equal(done.segmenter.model.state_dict()["classify.weight"].flatten(1), own)
    for number, equal in ((2, 1), (1, 0)):
        assert _beside(done, number, tmp_path / "photo.png") == (equal, 1)


def _beside(done: Conversion, number: int, image: Path) -> tuple[int, int]:
    """How many labels are those of a program that sees this class in all images, and makes something else as well."""
    Image.fromarray(noise(65, 65)).save(image)
    maps = [np.zeros(1), np.eye(CLASSES)[number].reshape(1, 1, 1, CLASSES)]
    seen = total(compare(done, Original(lambda image: maps, takes_bytes=True), [image]))
    return seen.num_equal, seen.num_pixels


def resizing(convention: str) -> dict[str, bool]:
    return {"align_corners": convention == "aligned_corners", "half_pixel_centers": convention == "half_pixel"}


@pytest.mark.parametrize(
    ("inner", "last"),
    [
        ("aligned_corners", "aligned_corners"),
        ("half_pixel", "half_pixel"),
        ("legacy", "legacy"),
        ("legacy", "aligned_corners"),
        ("aligned_corners", "half_pixel"),
    ],
)
def test_a_decoder_and_separable_branches_are_told_apart(inner: str, last: str, tmp_path: Path) -> None:
    """Branches of equal shapes by the order in which they are joined, whatever the order in the file."""
    backbone = {"name": "mobilenet_v2", "depth_multiplier": 0.5}
    settings = [{**resizing(one), "half_pixel_centers": one != "legacy"} for one in (inner, last)]
    decoder = {"channels": 32, "low_level_channels": 8, **settings[0]}
    fields = {"backbone": backbone, "aspp": {"channels": 32}, "decoder": decoder, **settings[1]}
    model = build(DeepLabV3Plus.Config.model_validate(fields), 3)
    tf_deeplab.load_seeded(model)
    path = tmp_path / "graph.tflite"
    steps = changed(plus_steps(), "up", **resizing(inner))
    steps = changed(steps, "ResizeBilinear_1", **resizing(last))
    path.write_bytes(graphs.lite(steps, tf_deeplab.folded_checkpoint(model), name="x"))
    segmenter = convert(path)
    assert segmenter.model.config.name == "deeplab_v3plus"
    assert segmenter.model.facts.convention == last
    with torch.no_grad():
        assert_close(segmenter.model(random_image(65, 65)).semantic, model.eval()(random_image(65, 65)).semantic, 1e-5)


def plus_steps() -> list[Step]:
    """DeepLab v3+ with the branches of ASPP in reverse."""
    first = half_width_steps()
    x = next(step.name for step in reversed(first) if step.name.startswith(ROOT))
    steps = [step for step in first if step.name.startswith(ROOT)]
    relu = {"activation": "Relu"}
    pooled = [step for step in first if step.name in ("AvgPool2D/AvgPool", "image_pooling", "ResizeBilinear")]

    def separable(name: str, source: str, rate: int = 1) -> list[Step]:
        depthwise = Step("depthwise", f"{name}_depthwise", (source,), rate=rate, **relu)  # type: ignore[arg-type]
        return [depthwise, Step("conv", f"{name}_pointwise", (depthwise.name,), **relu)]  # type: ignore[arg-type]

    branches = [step for number in (3, 2, 1) for step in separable(f"aspp{number}", x, 6 * number)]
    joined = ("ResizeBilinear", "aspp0", *(f"aspp{number}_pointwise" for number in (1, 2, 3)))
    low = f"{ROOT}/expanded_conv_2/depthwise"
    return [
        *steps,
        *branches,
        *pooled,
        Step("conv", "aspp0", (x,), **relu),  # type: ignore[arg-type]
        Step("concat", "concat", joined),
        Step("conv", "concat_projection", ("concat",), **relu),  # type: ignore[arg-type]
        Step("resize", "up", ("concat_projection",), size=17),
        Step("conv", "decoder/feature_projection0", (low,), **relu),  # type: ignore[arg-type]
        Step("concat", "concat_1", ("up", "decoder/feature_projection0")),
        *separable("decoder/decoder_conv0", "concat_1"),
        *separable("decoder/decoder_conv1", "decoder/decoder_conv0_pointwise"),
        Step("conv", "logits/semantic", ("decoder/decoder_conv1_pointwise",)),
        Step("resize", "ResizeBilinear_1", ("logits/semantic",), size=graphs.SIDE),
    ]


def test_another_network_without_names_is_refused_soon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "graph.tflite", tmp_path / "m.safetensors"
    steps = changed(half_width_steps(), f"{ROOT}/expanded_conv_5/expand", activation="")
    path.write_bytes(graphs.lite(steps, folded_half_width(), name="x"))
    assert "graph.tflite: " in error_line(capsys, path, "--out", out)
    assert not out.exists()


@pytest.mark.skipif(not MORE.exists(), reason=f"no published models at {MORE}")
@pytest.mark.parametrize("path", sorted(MORE.parent.rglob("*.tflite")), ids=lambda path: path.stem)
def test_published_files_without_their_names_have_the_same_weights(path: Path) -> None:
    if path.stem.endswith("_edgetpu"):
        pytest.skip("compiled: it has no weights to read")
    named, bare = from_tflite(read_tflite(path), "a"), from_tflite(renamed(read_tflite(path)), "a")
    assert named.arrays.keys() == bare.arrays.keys()
    assert all(np.array_equal(array, bare.arrays[name]) for name, array in named.arrays.items())


@pytest.mark.skipif(not MORE.exists(), reason=f"no published models at {MORE}")
def test_the_last_convolution_of_the_narrow_edge_tpu_network_is_not_narrowed() -> None:
    config = conversion(MORE / "edgetpu_slim_cityscapes_quant.tflite").segmenter.model.config.backbone.model_dump()
    assert (config["depth_multiplier"], config["last_channels"]) == (0.75, 1280)


@pytest.mark.skipif(not MORE.exists(), reason=f"no published models at {MORE}")
def test_a_published_graph_that_misses_a_layer_is_refused() -> None:
    model = renamed(read_tflite(MORE / "made_float_argmax.tflite"))
    cut = model._replace(operators=model.operators[1:])
    weights = from_tflite(cut, "a.tflite")
    with pytest.raises(ConversionError):
        convert({name: array for name, array in weights.arrays.items() if name})


MUTATIONS: dict[str, Callable[[Operator, Operator], Operator]] = {
    "another operation": lambda own, other: own._replace(op="TAN"),
    "inputs of another": lambda own, other: own._replace(inputs=other.inputs),
    "no outputs": lambda own, other: own._replace(outputs=()),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_an_operator_that_is_another_is_refused_in_one_line(mutation: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.tflite"
    path.write_bytes(graphs.lite(half_width_steps(), folded_half_width()))
    model = read_tflite(path)
    operators = list(model.operators)
    for place in np.random.default_rng(0).choice(len(operators) - 12, 2, replace=False):
        changed_one = MUTATIONS[mutation](operators[place], operators[place + 7])
        mutant = model._replace(operators=(*operators[:place], changed_one, *operators[place + 1 :]))
        with pytest.raises(AtrousError) as refusal:
            convert_weights(from_tflite(mutant, "a.tflite"), None, {})
        assert "\n" not in str(refusal.value)
