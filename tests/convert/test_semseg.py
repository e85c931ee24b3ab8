"""semseg's networks: the original's logits, what weights tell and what options do, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from atrous.convert.systems.semseg.recognise import default_mask, mask_crop, model_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atrous.convert import convert
from atrous.convert.run import conversion, summary
from atrous.convert.systems import semseg
from atrous.convert.systems.semseg.options import read_options
from atrous.models import MODELS, Model, ModelConfig, build
from tests.reference.semseg import CASES, ReferenceNetwork, Shape, empty_weights, golden, listing, seeded_weights

Options = dict[str, Any]
UNTOLD = ("psa_type", "compact", "shrink_factor", "mask_h", "mask_w")  # by weights, or not always
YAML = """
DATA:
  data_root: dataset/ade20k
  classes: 150
TRAIN:
  arch: psa
  layers: 50
  train_h: 465
  train_w: 465
  scale_min: 0.5
  zoom_factor: 8
  psa_type: 2
  compact: 0
  shrink_factor: 2
  mask_h:
  mask_w:
  normalization_factor: 1.0
  psa_softmax: 1
  base_lr: 0.01
Distributed:
  rank: 0
TEST:
  base_size: 512
  test_h: 465
  test_w: 465
  scales: [0.5, 1.0]
  weight:
"""


def _model(name: str, num_classes: int, **fields: Any) -> Model:  # noqa: ANN401
    with torch.device("meta"):
        return build(MODELS[name].Config(**fields), num_classes)


def _shapes(name: str = "pspnet", num_classes: int = 21, **fields: Any) -> dict[str, Shape]:  # noqa: ANN401
    return listing(_model(name, num_classes, **fields))


def _config(shapes: dict[str, Shape], **options: Any) -> ModelConfig:  # noqa: ANN401
    return model_config(shapes, read_options(options, "given"), "given")


def _image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def _assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


# ---- logits


@pytest.mark.parametrize("case", CASES)
def test_logits_and_labels_are_the_originals(case: str) -> None:
    image, logits, labels, args, shapes, salt = golden(case)
    weights = {f"module.{name}": array for name, array in seeded_weights(shapes, salt).items()}
    segmenter = convert(weights, options={name: args[name] for name in UNTOLD if name in args})
    with torch.no_grad():
        found = segmenter.model(image).semantic
    _assert_close(found, logits)
    assert np.array_equal(found[0].argmax(0).numpy(), labels[::8, ::8] if labels.shape == image.shape[2:] else labels)
    if labels.shape == image.shape[2:]:
        assert np.mean(segmenter.predict(image[0].permute(1, 2, 0).numpy()).semantic == labels) > 0.999


@pytest.mark.parametrize("case", CASES)
def test_the_constructors_arguments_are_options_and_those_that_weights_tell_change_nothing(case: str) -> None:
    _, _, _, args, shapes, _ = golden(case)
    arch = "psp" if "ppm.features.0.1.weight" in shapes else "psa"
    told = _config(shapes, **args, arch=arch)
    assert told == _config(shapes, **{name: value for name, value in args.items() if name in UNTOLD})
    assert semseg.recognised(shapes)
    assert listing(_model_of(told)) == shapes


def _model_of(config: ModelConfig) -> Model:
    assert config.num_classes is not None
    with torch.device("meta"):
        return build(config, config.num_classes)


UNSEEN = {
    "two bins, 150 classes": ("pspnet", {"bins": (1, 4)}, 150, {"bins": (1, 4)}, (49, 33)),
    "compact without softmax": (
        "psanet",
        {"psa_type": "collect", "compact": True, "mask_size": (4, 3)},
        7,
        {"psa_type": 0, "compact": 1, "mask_h": 4, "mask_w": 3, "psa_softmax": 0, "normalization_factor": None},
        (49, 33),
    ),
    "a tall mask, not shrunk": (
        "psanet",
        {"psa_type": "distribute", "mask_size": (13, 3), "shrink_factor": 1},
        7,
        {"psa_type": 1, "shrink_factor": 1, "mask_h": 13, "mask_w": 3, "normalization_factor": 2.0},
        (57, 41),
    ),
    "a map larger than its mask": (
        "psanet",
        {"mask_size": (5, 5)},
        7,
        {"psa_type": 2, "mask_h": 5, "mask_w": 5},
        (97, 65),
    ),
}
DEEP = {
    "152 layers": ("pspnet", {"backbone": "resnet152s"}, 19, {"layers": 152, "bins": (1, 2, 3, 6)}, (57, 41)),
    "101 layers, not shrunk": (
        "psanet",
        {"backbone": "resnet101s", "mask_size": (15, 11), "shrink_factor": 1},
        19,
        {"layers": 101, "psa_type": 2, "shrink_factor": 1, "mask_h": 15, "mask_w": 11},
        (57, 41),
    ),
}


@pytest.mark.parametrize(
    "case", [*UNSEEN.values(), *(pytest.param(case, marks=pytest.mark.slow) for case in DEEP.values())]
)
def test_logits_are_those_of_the_network_by_the_letter(case: tuple[str, Options, int, Options, Shape]) -> None:
    name, fields, num_classes, args, size = case
    weights = seeded_weights(_shapes(name, num_classes, **fields))
    image = _image(*size)
    segmenter = convert(weights, system="semseg", options=args)
    with torch.no_grad():
        found = segmenter.model(image).semantic
    args = {"layers": 50, "shrink_factor": 2, "compact": 0} | args
    _assert_close(found, ReferenceNetwork(weights, args).logits(image))


# ---- which network


@pytest.mark.parametrize(
    ("name", "fields", "options"),
    [
        ("pspnet", {"backbone": "resnet101s"}, {}),
        ("pspnet", {"bins": ()}, {}),
        ("pspnet", {"bins": (1, 2)}, {"bins": "1,2"}),
        ("psanet", {}, {}),
        ("psanet", {"backbone": "resnet152s", "mask_size": (89, 89)}, {}),
        ("psanet", {"mask_size": (30, 30), "compact": True}, {}),
        ("psanet", {"mask_size": (7, 7), "compact": True}, {"compact": "1"}),
        ("psanet", {"mask_size": (59, 59), "psa_type": "collect"}, {"psa_type": "0"}),
        ("psanet", {"mask_size": (117, 117), "shrink_factor": 1}, {"train_h": 465}),
        ("psanet", {"mask_size": (13, 9)}, {"train_h": 97, "train_w": 65}),
        ("psanet", {"mask_size": (7, 5), "compact": True}, {"train_h": 97, "train_w": 65, "compact": 1}),
        ("psanet", {"mask_size": (5, 7)}, {"mask_w": 7}),
        ("psanet", {"mask_size": (5, 7), "normalization_factor": 35}, {"mask_h": 5, "normalization_factor": None}),
    ],
)
def test_weights_and_options_tell_the_network(name: str, fields: Options, options: Options) -> None:
    config = _config(_shapes(name, 19, **fields), **options)
    assert {field: getattr(config, field) for field in fields} == fields
    assert (config.name, config.num_classes, config.output_stride) == (name, 19, 8)


def test_the_networks_that_published_ones_begin_with() -> None:
    model = _model("image_classifier", 1000, backbone="resnet101s")
    shapes = listing(model)
    assert shapes["conv1.weight"] == (64, 3, 3, 3)
    assert shapes["fc.weight"] == (1000, 2048)
    assert {"bn3.running_var", "layer3.22.bn3.bias", "layer1.0.downsample.1.weight"} <= shapes.keys()
    assert (
        sum(int(np.prod(shape)) for name, shape in shapes.items() if "running" not in name) == 44_549_160 + 123_776
    )  # torchvision's and, for the deep stem, layer0 and the first block
    done = conversion(seeded_weights(_shapes("image_classifier", 10, backbone="resnet50s")))
    assert done.segmenter.model.config.model_dump(include={"name", "backbone", "output_stride"}) == {
        "name": "image_classifier",
        "backbone": "resnet50s",
        "output_stride": 32,
    }
    with torch.no_grad():
        assert done.segmenter.model(_image(65, 65)).semantic.shape == (1, 10, 1, 1)


def test_a_plain_stem_is_of_another_system() -> None:
    assert not semseg.recognised({"conv1.weight": (64, 3, 7, 7), "layer1.0.conv1.weight": (64, 64, 1, 1)})


def test_what_counts_batches_is_ignored_and_what_was_taken_for_granted_is_said() -> None:
    shapes = _shapes("psanet", mask_size=(59, 59))
    counters = {name.replace("running_var", "num_batches_tracked"): () for name in shapes if "running_var" in name}
    arrays = {f"module.{name}": array for name, array in empty_weights({**shapes, **counters}).items()}
    done = conversion(arrays)
    assert done.used == len(shapes)
    assert set(done.ignored) == counters.keys()
    assert f"{len(counters)} num_batches_tracked" in summary(done, 0)
    assert [note.partition("=")[0] for note in done.notes[:4]] == [
        "shrink_factor",
        "compact",
        "psa_softmax",
        "normalization_factor",
    ]
    assert done.segmenter.label_space.names[0] == "background"
    assert done.segmenter.inference.window == (465, 465)


# ---- options


def test_the_original_yaml_tells_all(tmp_path: Path) -> None:
    path = tmp_path / "ade20k_psanet50.yaml"
    path.write_text(YAML)
    shapes = _shapes("psanet", 150)
    done = conversion(empty_weights(shapes), options={"config": str(path)})
    assert [note for note in done.notes if "original's default" in note] == []
    inference = done.segmenter.inference
    assert (inference.mode, inference.window, inference.base_size) == ("sliding", (465, 465), 512)
    assert (inference.scales, inference.flip) == ((0.5, 1.0), True)
    assert done.segmenter.label_space.names[0] == "wall"
    changed = conversion(empty_weights(shapes), options={"config": str(path), "scales": "1.0"})
    assert changed.segmenter.inference.scales == (1.0,)


def test_sections_may_be_given_as_they_are() -> None:
    assert read_options({"TRAIN": {"layers": 50}, "TEST": {"base_size": 512, "layers": 101}}, "").layers == 101


def test_without_a_crop_pspnet_sees_whole_images() -> None:
    done = conversion(empty_weights(_shapes("pspnet", 5)))
    assert (done.segmenter.inference.mode, done.segmenter.inference.flip) == ("whole", False)
    assert done.segmenter.label_space.names == ("class_0", "class_1", "class_2", "class_3", "class_4")


@given(st.integers(1, 60), st.integers(1, 60), st.booleans(), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_mask_is_for_one_crop(height: int, width: int, compact: bool, shrink_factor: int) -> None:
    crop = (8 * shrink_factor * height + 1, 8 * shrink_factor * width + 1)
    assert mask_crop(default_mask(crop, compact, shrink_factor), compact, shrink_factor) == crop


def test_published_crops_have_their_masks() -> None:
    assert default_mask((465, 465), False, 2) == (59, 59)
    assert default_mask((705, 705), False, 2) == (89, 89)
    assert default_mask((465, 465), True, 2) == (30, 30)


# ---- refused


@pytest.mark.parametrize(
    ("name", "fields", "options", "reason"),
    [
        ("pspnet", {}, {"layers": 101}, "layers=101, but its weights are those of layers=50"),
        ("pspnet", {}, {"classes": 19}, "classes=19, but its weights are those of classes=21"),
        ("pspnet", {}, {"arch": "psa"}, "arch=psa, but its weights are those of arch=psp"),
        ("pspnet", {}, {"arch": "PSANet"}, "arch=psa, but"),
        ("pspnet", {}, {"use_ppm": False}, "use_ppm=False, but"),
        ("pspnet", {}, {"bins": (1, 2, 3)}, r"a pyramid of 4 levels: bins= tells which, as 1,2,3,6, not \(1, 2, 3\)"),
        ("pspnet", {"bins": (1, 8)}, {}, "a pyramid of 2 levels: bins= tells which"),
        ("pspnet", {}, {"layers": 34}, "layers=34: Input should be 50, 101 or 152"),
        ("pspnet", {}, {"zoom_factor": 3}, "zoom_factor=3: Input should be 1, 2, 4 or 8"),
        ("pspnet", {}, {"psa_typ": 2}, "psa_typ is no flag .*; did you mean psa_type?"),
        ("pspnet", {}, {"base_size": 512}, "base_size=512 is for windows: test_h= and test_w= tell"),
        ("psanet", {}, {"psa_type": 0}, r"psa_type=0, but its weights are those of two directions \(psa_type=2\)"),
        ("psanet", {"psa_type": "collect"}, {"psa_type": 2}, r"psa_type=2, but .* one direction"),
        (
            "psanet",
            {"psa_type": "collect"},
            {},
            r"weights don't tell which: psa_type=0 \(collect\) or 1 \(distribute\)",
        ),
        ("psanet", {}, {"mask_h": 57, "mask_w": 59}, r"has 3481 weights for each place: a mask of 57 x 59 by mask_h"),
        ("psanet", {}, {"mask_h": 58}, "a mask of 58 x 60 by mask_h, mask_w"),
        ("psanet", {}, {"train_h": 705, "shrink_factor": 2}, "a mask of 89 x 89 by train_h, train_w = 705, 705 and"),
        ("psanet", {"mask_size": (5, 7)}, {}, "has 35 weights for each place: no square; mask_h=, mask_w= tell"),
        ("psanet", {"mask_size": (5, 5)}, {"mask_h": 25, "mask_w": 1}, "a mask of 25 x 1: each side is 3 at least"),
        ("psanet", {"mask_size": (6, 6), "compact": True}, {"train_h": 33}, "a mask of 3 x 3 by train_h, train_w"),
        ("psanet", {"mask_size": (6, 6), "compact": True}, {"compact": 0}, "mask_size 6,6: odd sides only"),
        ("psanet", {}, {"psa_softmax": "maybe"}, "psa_softmax='maybe': Input should be a valid boolean"),
        ("psanet", {}, {"normalization_factor": 0}, "normalization_factor=0: Input should be greater than 0"),
        ("psanet", {}, {"config": "nowhere.yaml"}, "config=nowhere.yaml: cannot be read: No such file"),
    ],
)
def test_contradictions_are_refused(name: str, fields: Options, options: Options, reason: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as error:
        convert(empty_weights(_shapes(name, **fields)), options=options)
    assert "\n" not in str(error.value)


def _refused(shapes: dict[str, Shape], reason: str, **options: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=reason) as error:
        convert(empty_weights(shapes), system="semseg", options=options)
    assert "\n" not in str(error.value)


def test_what_is_missing_left_over_or_misshapen_is_listed() -> None:
    shapes = _shapes()
    some = {name: shape for name, shape in shapes.items() if not name.startswith(("aux.1.", "cls.1.b"))}
    _refused(some, r"5 variables of the model are missing: aux.1.bias, .*, cls.1.bias$")
    _refused({**shapes, "cls.9.weight": (3,)}, "1 variables have no place in the model .*: cls.9.weight")
    _refused({**shapes, "aux.4.bias": (7,)}, r"1 variables have another shape .*: aux.4.bias is \[7\], not \[21\]")
    _refused({"a": (1,)}, "0 blocks in layer3, where semseg's networks have 6")
    _refused({name: shape for name, shape in shapes.items() if name != "cls.4.weight"}, "it has no cls.4.weight")
    _refused({**shapes, "layer3.6.conv1.weight": (256, 1024, 1, 1)}, "7 blocks in layer3")


def test_what_is_not_finite_is_refused() -> None:
    arrays = empty_weights(_shapes())
    arrays["cls.4.bias"] = np.full(21, np.nan, np.float32)
    with pytest.raises(ValueError, match=r"1 variables hold what is no finite float32: cls\.4\.bias"):
        convert(arrays)


@pytest.mark.parametrize(
    ("text", "reason"), [("a: [", "no YAML"), ("- 1", "sections DATA, .* not list"), ("LR: 1", "LR is no flag")]
)
def test_files_that_are_no_configuration_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        read_options({"config": path}, "given")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
