"""semseg's networks: the original's logits, what the weights decide and what the options, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.convert import convert
from atrous.convert.run import conversion, summary
from atrous.convert.systems import SYSTEMS
from atrous.convert.systems.semseg.network import default_mask, mask_crop
from atrous.models import MODELS, Model, ModelConfig
from tests.convert.conftest import assert_close, assert_refused, config_of, empty_arrays, meta_model, random_image
from tests.reference.semseg import CASES, ReferenceNetwork, Shape, golden, listing, seeded_weights

Options = dict[str, Any]
UNDECIDED = ("psa_type", "compact", "shrink_factor", "mask_h", "mask_w")  # not by the weights alone
SYSTEM = SYSTEMS["semseg"]


def _model(name: str, num_classes: int, **fields: Any) -> Model:  # noqa: ANN401
    return meta_model(MODELS[name].Config(**fields), num_classes)


def _shapes(name: str = "pspnet", num_classes: int = 21, **fields: Any) -> dict[str, Shape]:  # noqa: ANN401
    return listing(_model(name, num_classes, **fields))


def _config(shapes: dict[str, Shape], **options: Any) -> ModelConfig:  # noqa: ANN401
    return config_of(SYSTEM, shapes, **options)


def _refused(shapes: dict[str, Shape], reason: str, **options: object) -> None:
    assert_refused(empty_arrays(shapes), reason, options, system="semseg")


# ---- logits


@pytest.mark.parametrize("case", CASES)
def test_logits_and_labels_are_the_originals(case: str) -> None:
    image, logits, labels, args, shapes, salt = golden(case)
    weights = {f"module.{name}": array for name, array in seeded_weights(shapes, salt).items()}
    segmenter = convert(weights, options={name: args[name] for name in UNDECIDED if name in args})
    with torch.no_grad():
        ours = segmenter.model(image).semantic
    assert_close(ours, logits)
    assert np.array_equal(ours[0].argmax(0).numpy(), labels[::8, ::8] if labels.shape == image.shape[2:] else labels)
    if labels.shape == image.shape[2:]:
        assert np.mean(segmenter.predict(image[0].permute(1, 2, 0).numpy()).semantic == labels) > 0.999


@pytest.mark.parametrize("case", CASES)
def test_options_that_the_weights_decide_change_nothing(case: str) -> None:
    _, _, _, args, shapes, _ = golden(case)
    arch = "psp" if "ppm.features.0.1.weight" in shapes else "psa"
    config = _config(shapes, **args, arch=arch)  # the arguments of the original's constructor
    assert config == _config(shapes, **{name: value for name, value in args.items() if name in UNDECIDED})
    assert SYSTEM.recognised(shapes)
    assert listing(meta_model(config)) == shapes


WITHOUT_GOLDEN = {
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
    "case", [*WITHOUT_GOLDEN.values(), *(pytest.param(case, marks=pytest.mark.slow) for case in DEEP.values())]
)
def test_logits_are_those_of_the_reference_network(case: tuple[str, Options, int, Options, Shape]) -> None:
    name, fields, num_classes, args, size = case
    weights = seeded_weights(_shapes(name, num_classes, **fields))
    image = random_image(*size)
    segmenter = convert(weights, system="semseg", options=args)
    with torch.no_grad():
        ours = segmenter.model(image).semantic
    args = {"layers": 50, "shrink_factor": 2, "compact": 0} | args
    assert_close(ours, ReferenceNetwork(weights, args).logits(image))


# ---- which network


RECOGNISED: list[tuple[str, Options, Options]] = [
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
]


def test_weights_and_options_decide_the_network() -> None:
    for name, fields, options in RECOGNISED:
        config = _config(_shapes(name, 19, **fields), **options)
        backbone = fields.get("backbone", "resnet50s")
        assert {**config.model_dump(include=set(fields)), "backbone": config.backbone.name} == {
            **fields,
            "backbone": backbone,
        }
        assert (config.name, config.num_classes, config.output_stride) == (name, 19, 8)


def test_imagenet_networks_are_classifiers() -> None:
    model = _model("image_classifier", 1000, backbone="resnet101s")
    shapes = listing(model)
    assert shapes["conv1.weight"] == (64, 3, 3, 3)
    assert shapes["fc.weight"] == (1000, 2048)
    assert {"bn3.running_var", "layer3.22.bn3.bias", "layer1.0.downsample.1.weight"} <= shapes.keys()
    assert (
        sum(int(np.prod(shape)) for name, shape in shapes.items() if "running" not in name) == 44_549_160 + 123_776
    )  # torchvision's and, for the deep stem, layer0 and the first block
    done = conversion(seeded_weights(_shapes("image_classifier", 10, backbone="resnet50s")))
    config = done.segmenter.model.config
    assert (config.name, config.backbone.name, config.output_stride) == ("image_classifier", "resnet50s", 32)
    with torch.no_grad():
        logits = done.segmenter.model(random_image(65, 65)).classes
    assert logits is not None
    assert logits.shape == (1, 10)


def test_a_plain_stem_is_of_another_system() -> None:
    assert not SYSTEM.recognised({"conv1.weight": (64, 3, 7, 7), "layer1.0.conv1.weight": (64, 64, 1, 1)})


def test_counters_are_ignored_and_assumptions_are_reported() -> None:
    shapes = _shapes("psanet", mask_size=(59, 59))
    counters = {name.replace("running_var", "num_batches_tracked"): () for name in shapes if "running_var" in name}
    arrays = {f"module.{name}": array for name, array in empty_arrays({**shapes, **counters}).items()}
    done = conversion(arrays)
    assert done.num_used == len(shapes)
    assert set(done.unused) == counters.keys()
    assert f"{len(counters)} num_batches_tracked" in summary(done, 0)
    assert [text.partition("=")[0] for text in done.assumptions[:4]] == [
        "shrink_factor",
        "compact",
        "psa_softmax",
        "normalization_factor",
    ]
    assert done.segmenter.label_space.names[0] == "background"
    assert done.segmenter.inference.window == (465, 465)


def test_without_a_crop_pspnet_sees_whole_images() -> None:
    done = conversion(empty_arrays(_shapes("pspnet", 5)))
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


REFUSED: list[tuple[str, Options, Options, str]] = [
    ("pspnet", {}, {"layers": 101}, "layers=101, but its weights are those of layers=50"),
    ("pspnet", {}, {"classes": 19}, "classes=19, but its weights are those of classes=21"),
    ("pspnet", {}, {"arch": "psa"}, "arch=psa, but its weights are those of arch=psp"),
    ("pspnet", {}, {"arch": "PSANet"}, "arch=psa, but"),
    ("pspnet", {}, {"use_ppm": False}, "use_ppm=False, but"),
    ("pspnet", {}, {"bins": (1, 2, 3)}, r"its pyramid has 4 levels: name each in bins=1,2,3,6; got \(1, 2, 3\)"),
    ("pspnet", {"bins": (1, 8)}, {}, "its pyramid has 2 levels: name each in bins="),
    ("pspnet", {}, {"layers": 34}, "layers=34: Input should be 50, 101 or 152"),
    ("pspnet", {}, {"zoom_factor": 3}, "zoom_factor=3: Input should be 1, 2, 4 or 8"),
    ("pspnet", {}, {"psa_typ": 2}, "no model depends on an option 'psa_typ'; did you mean psa_type?"),
    ("pspnet", {}, {"base_size": 512}, "base_size=512 needs the size of the window: test_h=, test_w="),
    ("psanet", {}, {"psa_type": 0}, r"psa_type=0, but its weights are those of two directions \(psa_type=2\)"),
    ("psanet", {"psa_type": "collect"}, {"psa_type": 2}, r"psa_type=2, but .* one direction"),
    ("psanet", {"psa_type": "collect"}, {}, r"psa_type=0 \(collect\) or psa_type=1 \(distribute\) is needed"),
    (
        "psanet",
        {},
        {"mask_h": 57, "mask_w": 59},
        r"has 3481 weights for each place: mask_h, mask_w describe a mask of 57 x 59",
    ),
    ("psanet", {}, {"mask_h": 58}, "mask_h, mask_w describe a mask of 58 x 60"),
    (
        "psanet",
        {},
        {"train_h": 705, "shrink_factor": 2},
        "train_h, train_w = 705, 705 and shrink_factor=2 describe a mask of 89 x 89",
    ),
    (
        "psanet",
        {"mask_size": (5, 7)},
        {},
        "has 35 weights for each place: not a square; give its sides with mask_h=, mask_w=",
    ),
    ("psanet", {"mask_size": (5, 5)}, {"mask_h": 25, "mask_w": 1}, "a mask of 25 x 1: each side must be at least 3"),
    (
        "psanet",
        {"mask_size": (6, 6), "compact": True},
        {"train_h": 33},
        "train_h, train_w = 33, 33 .* describe a mask of 3 x 3",
    ),
    ("psanet", {"mask_size": (6, 6), "compact": True}, {"compact": 0}, "mask_size 6,6: sides must be odd"),
    ("psanet", {}, {"psa_softmax": "maybe"}, "psa_softmax='maybe': Input should be a valid boolean"),
    ("psanet", {}, {"normalization_factor": 0}, "normalization_factor=0: Input should be greater than 0"),
    ("psanet", {}, {"config": "nowhere.yaml"}, "config=nowhere.yaml: cannot be read: No such file"),
]


def test_contradictions_are_refused() -> None:
    for name, fields, options, reason in REFUSED:
        _refused(_shapes(name, **fields), reason, **options)


def test_missing_superfluous_and_misshapen_weights_are_listed() -> None:
    shapes = _shapes()
    some = {name: shape for name, shape in shapes.items() if not name.startswith(("aux.1.", "cls.1.b"))}
    _refused(some, r"missing 5 weights of the model: aux.1.bias, .*, cls.1.bias$")
    _refused({**shapes, "cls.9.weight": (3,)}, "1 weight without a place in the model .*: cls.9.weight")
    _refused({**shapes, "aux.4.bias": (7,)}, r"1 weight of another shape .*: aux.4.bias is \[7\], not \[21\]")
    _refused({"a": (1,)}, "0 blocks in layer3, where semseg's networks have 6")
    _refused({name: shape for name, shape in shapes.items() if name != "cls.4.weight"}, "cls.4.weight is missing")
    _refused({**shapes, "layer3.6.conv1.weight": (256, 1024, 1, 1)}, "7 blocks in layer3")


def test_weights_that_are_not_finite_are_refused() -> None:
    arrays = empty_arrays(_shapes())
    arrays["cls.4.bias"] = np.full(21, np.nan, np.float32)
    assert_refused(arrays, r"1 weight not finite in float32: cls\.4\.bias")
