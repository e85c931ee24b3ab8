"""Models of bonlime's program in Keras: the logits of the program itself, on the same weights, from its files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atrous.convert import convert
from atrous.convert.filling import shapes_of
from atrous.convert.readers.keras import Layer
from atrous.convert.run import conversion
from atrous.convert.systems import bonlime
from atrous.models.deeplab_v3plus import DeepLabV3Plus
from tests.convert.conftest import assert_close, assert_refused, config_of, empty_arrays, error_line, run
from tests.reference import keras
from tests.reference.keras import Arrays, seeded_weights

SMALL = "bonlime_mobilenetv2_alpha05"
OPTIONS: dict[str, dict[str, Any]] = {  # that weights alone don't show
    "bonlime_mobilenetv2": {"align_corners": False},
    SMALL: {"align_corners": False},
    "bonlime_xception_os16": {"align_corners": False},
    "bonlime_xception_os8_2020": {"OS": 8},
}
RESIZING = ("resizing", "Resizing", {"height": 64})
INPUT = ("input_1", "InputLayer", {"batch_input_shape": [None, 64, 96, 3]})


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if "os8" in case else case for case in keras.CASES]
)
@torch.no_grad()
def test_logits_are_those_of_the_program_itself(case: str) -> None:
    expected = keras.golden(case)
    done = conversion(seeded_weights(case), options=OPTIONS[case])
    is_mobile = "mobile" in case
    config = done.segmenter.model.config
    assert (done.system, config.name) == ("bonlime", "deeplab_v3" if is_mobile else "deeplab_v3plus")
    assert config.output_stride == (8 if is_mobile or "os8" in case else 16)
    assert_close(done.segmenter.model(expected.image).semantic, expected.logits["logits"])
    assert not done.unused


def without_bytes(path: Path, arrays: Arrays) -> Path:
    return keras.write_named(path, arrays, suffix="")


FILES: dict[str, Callable[[Path, Arrays], object]] = {
    "weights.h5": keras.write_named,
    "keras_3.h5": without_bytes,
    "whole.h5": lambda path, arrays: keras.write_named(path, arrays, keras.config_of(arrays)),
    "keras_3.weights.h5": keras.write_numbered,
    "keras_3.keras": lambda path, arrays: keras.write_archive(path, arrays, keras.config_of(arrays)),
    "keras_2.keras": lambda path, arrays: keras.write_archive(path, arrays, keras.config_of(arrays), named=False),
    "keras_2_12.keras": lambda path, arrays: keras.write_archive(
        path, arrays, keras.config_of(arrays), named=False, root=keras.OLD
    ),
    "renamed.pth": keras.write_named,
}


@pytest.mark.parametrize("name", FILES)
def test_every_layout_holds_the_same_model(name: str, tmp_path: Path) -> None:
    arrays = seeded_weights(SMALL)
    FILES[name](tmp_path / name, arrays)
    model, expected = convert(tmp_path / name).model.state_dict(), convert(arrays).model.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.items())


# ---- what a whole model says


def whole_model(path: Path, *others: keras.Described) -> Path:
    arrays = seeded_weights(SMALL)
    return keras.write_named(path, arrays, keras.config_of(arrays, *others))


@pytest.mark.parametrize(("kind", "is_aligned"), [("Resizing", False), ("Lambda", True), ("BilinearUpsampling", True)])
def test_the_resizing_and_the_size_of_a_whole_model_are_its_own(kind: str, is_aligned: bool, tmp_path: Path) -> None:
    done = conversion(whole_model(tmp_path / "m.h5", INPUT, ("resize", kind, {})))
    config = done.segmenter.model.config
    assert config.convention == ("aligned_corners" if is_aligned else "half_pixel")
    assert (done.segmenter.inference.mode, done.segmenter.inference.window) == ("canvas", (64, 96))
    assert not done.segmenter.inference.pad_to_grid
    assert not done.assumptions


def test_options_say_it_otherwise(tmp_path: Path) -> None:
    done = conversion(
        whole_model(tmp_path / "m.h5", INPUT, RESIZING), options={"align_corners": "true", "input_shape": "512,512,3"}
    )
    assert done.segmenter.model.config.convention == "aligned_corners"
    assert done.segmenter.inference.window == (512, 512)


def test_what_weights_alone_leave_open_is_said() -> None:
    done = conversion(seeded_weights(SMALL))
    assert [text.partition(" ")[0] for text in done.assumptions] == ["align_corners=true"]
    assert done.segmenter.inference.mode == "whole"


def test_images_of_any_size_are_seen_as_they_are(tmp_path: Path) -> None:
    done = conversion(whole_model(tmp_path / "m.h5", ("input_1", "InputLayer", {"batch_shape": [None, None, None, 3]})))
    assert done.segmenter.inference.mode == "whole"


def test_the_rates_of_a_whole_xception_are_its_own() -> None:
    rates = dict(zip(bonlime.BRANCHES, (2, 4, 6), strict=True))
    layers = {name: Layer("DepthwiseConv2D", {"dilation_rate": [rate, rate]}) for name, rate in rates.items()}
    layers[bonlime.DILATED] = Layer("DepthwiseConv2D", {"dilation_rate": [2, 2]})
    options = bonlime.declared(layers, "m.h5")
    assert options == {"OS": 8, "atrous_rates": (2, 4, 6)}
    shapes = keras.golden("bonlime_xception_os16").shapes
    config = config_of(bonlime.SYSTEM, shapes_of(bonlime.renamed(empty_arrays(shapes))), **options)
    assert isinstance(config, DeepLabV3Plus.Config)
    assert config.aspp.rates == (2, 4, 6)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (("Conv", "Conv2D", {"strides": [1, 1]}), "Conv has strides \\[1, 1\\], the model \\(2, 2\\)"),
        (("expanded_conv_7_depthwise", "DepthwiseConv2D", {"dilation_rate": [1, 1]}), "dilation_rate \\[1, 1\\]"),
        (("expanded_conv_7_depthwise", "DepthwiseConv2D", {"dilation_rate": 1}), "dilation_rate 1, the model"),
        (("aspp0_BN", "BatchNormalization", {"epsilon": 0.001}), "aspp0_BN has epsilon 0.001"),
        (("up", "UpSampling2D", {}), "up is a UpSampling2D, which no network"),
    ],
)
def test_a_whole_model_of_other_layers_is_refused(layer: keras.Described, reason: str, tmp_path: Path) -> None:
    path = whole_model(tmp_path / "m.h5", layer)
    with pytest.raises(ValueError, match=reason) as error:
        convert(path)
    assert "\n" not in str(error.value)


def test_what_a_whole_model_says_of_its_layers_agrees(tmp_path: Path) -> None:
    right: list[keras.Described] = [
        ("Conv", "Conv2D", {"strides": [2, 2], "dilation_rate": 1}),
        ("aspp0_BN", "BatchNormalization", {"epsilon": 1e-5}),
    ]
    assert convert(whole_model(tmp_path / "m.h5", *right)).model.num_classes == 5


# ---- names, widths, classes


@pytest.mark.parametrize(("count", "first"), [(21, "background"), (19, "road"), (7, "class_0")])
def test_classes_are_those_of_the_published_weights(count: int, first: str) -> None:
    arrays = {**seeded_weights(SMALL)}
    for leaf, shape in (("kernel", (1, 1, 256, count)), ("bias", (count,))):
        del arrays[f"custom_logits_semantic/{leaf}"]
        arrays[f"logits_semantic/{leaf}"] = np.zeros(shape, np.float32)
    assert convert(arrays).label_space.names[0] == first


@pytest.mark.parametrize("alpha", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
def test_widths_are_the_programs_own(alpha: float) -> None:
    def divisible(v: float) -> int:  # the program's own function
        new = max(8, int(v + 4) // 8 * 8)
        return new + 8 if new < 0.9 * v else new

    own = [divisible(32 * alpha), *(divisible(int(n * alpha)) for n in (16, 24, 32, 64, 96, 160, 320))]
    assert bonlime._widths(alpha) == own


def test_a_network_of_other_widths_is_refused() -> None:
    last = re.compile(r"expanded_conv_1[0-2]_project")
    arrays = {name: array[..., :40] if last.match(name) else array for name, array in seeded_weights(SMALL).items()}
    assert_refused(arrays, "its blocks have .* channels, not those of any alpha")


def test_a_narrow_network_without_shortcuts_is_refused() -> None:
    with pytest.raises(ValueError, match="block 0 has as many channels as the one before it, 8, and no shortcut"):
        bonlime._require_no_shortcuts(bonlime._widths(0.2), "m.h5")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backbone": "xception"}, "backbone=xception, but its weights are those of backbone=mobilenetv2"),
        ({"classes": 21}, "classes=21, but its weights are those of classes=5"),
        ({"OS": 16}, "OS=16, but its weights are those of OS=8"),
        ({"OS": 4}, "OS=4"),
        ({"alpha": 0.75}, "not those of alpha=0.75"),
        ({"alpha": 0}, "alpha=0"),
        ({"input_shape": "512"}, "input_shape"),
        ({"input_shape": "512,512,4"}, "input_shape"),
        ({"output_stride": 8}, "no model depends on an option 'output_stride'"),
    ],
)
def test_options_that_contradict_the_weights_are_refused(options: dict[str, Any], reason: str) -> None:
    assert_refused(seeded_weights(SMALL), reason, options)


# ---- bad input


def test_weights_that_are_not_a_whole_network_are_refused() -> None:
    arrays = seeded_weights(SMALL)
    missing = {name: array for name, array in arrays.items() if name != "aspp0/kernel"}
    assert_refused(missing, "missing 1 weight of the model: aspp0/kernel")
    assert_refused({**arrays, "aspp0/kernel": np.zeros((1, 1, 8, 256), np.float32)}, "aspp0/kernel is")
    assert_refused({**arrays, "aspp0/kernel": np.zeros(256, np.float32)}, "aspp0/kernel is")
    assert_refused({**arrays, "dense/kernel": np.zeros((4, 4), np.float32)}, "dense/kernel")
    assert_refused({**arrays, "aspp0/kernel": np.full_like(arrays["aspp0/kernel"], np.nan)}, "not finite")
    both = {**arrays, "entry_flow_conv1_1/kernel": np.zeros((3, 3, 3, 32), np.float32)}
    assert_refused(both, "the first layers of both mobilenetv2 and xception")


def test_another_model_of_keras_is_refused(tmp_path: Path) -> None:
    arrays = {"Conv1/kernel": np.zeros((3, 3, 3, 32), np.float32), "bn_Conv1/gamma": np.zeros(32, np.float32)}
    path = keras.write_named(tmp_path / "mobilenet_v2_imagenet.h5", arrays)
    with pytest.raises(ValueError, match="weights of no known system"):
        convert(path)


def test_convert_writes_a_model_of_a_file_of_keras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = whole_model(tmp_path / "deeplab.h5", INPUT, RESIZING)
    assert run(path, "--out", tmp_path / "m.safetensors") == 0
    printed = capsys.readouterr().out
    assert "bonlime: deeplab_v3, mobilenet_v2, output stride 8, 5 classes" in printed
    assert (tmp_path / "m.safetensors").is_file()


def test_without_h5py_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = whole_model(tmp_path / "deeplab.h5")
    monkeypatch.setattr("atrous.convert.readers.keras.find_spec", lambda name: None)
    assert "pip install 'atrous[keras]'" in error_line(capsys, path, "--out", tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
