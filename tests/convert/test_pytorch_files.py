"""Files of PyTorch programs as people hold them: folders, halves, wrappers, and what is refused in one line."""

import argparse
import json
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

import atrous
from atrous.convert.run import conversion
from atrous.convert.systems import bowenc0221, smp
from tests.convert.conftest import assert_close, assert_refused, empty_arrays, error_line, run
from tests.reference.pytorch_programs import golden, seeded_weights
from tests.reference.tf_deeplab import without

HUGGING, SMP, CSAIL = "huggingface_dm05_os16", "smp_v3plus_mobilenet_v2", "csail_resnet18dilated_ppm_deepsup"
VAINF, JFZHANG = "vainf_v3plus_mobilenet_os16", "jfzhang95_mobilenet_os16"
TIMM = "smp_v3plus_tu_mobilenetv3_small"
PANOPTIC = "bowenc0221_mobilenet"
MMSEG = "mmseg_deeplabv3plus_r18_d8"
XCEPTION = "jfzhang95_xception_os16"
CONFIG = {"model_type": "mobilenet_v2", "depth_multiplier": 0.5, "output_stride": 16, "layer_norm_eps": 0.001}
NAMES = {"0": "background", "1": "cat", "2": "dog", "3": "cat", "4": "sheep"}

Arrays = Mapping[str, NDArray[np.float32]]


def tensors(arrays: Arrays, prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


@torch.no_grad()
def assert_golden(source: Path | Arrays, name: str, **options: object) -> None:
    done, expected = conversion(source, options=options), golden(name)
    assert_close(done.segmenter.model(expected.image).semantic, expected.logits["logits"])


# ---- what lies around the weights


def test_a_training_s_notes_do_not_matter(tmp_path: Path) -> None:
    """VainF notes the best score as a number of NumPy, others their arguments; a Lightning module has a prefix."""
    weights = seeded_weights(golden(VAINF).shapes)
    notes = {"best_score": np.float64(0.7), "cur_itrs": 3, "args": argparse.Namespace(crop=513, path=tmp_path)}
    torch.save({"model_state": tensors(weights, "module."), **notes}, tmp_path / "best.pth")
    assert_golden(tmp_path / "best.pth", VAINF)


def test_a_lightning_module_s_network_is_found(tmp_path: Path) -> None:
    weights = tensors(seeded_weights(golden(SMP).shapes), "model.") | {"mean": torch.ones(3), "std": torch.ones(3)}
    torch.save({"state_dict": weights, "epoch": 3, "callbacks": {}}, tmp_path / "epoch=3.ckpt")
    assert_golden(tmp_path / "epoch=3.ckpt", SMP)
    unused = conversion(tmp_path / "epoch=3.ckpt").unused
    assert [name for name in unused if not name.endswith("num_batches_tracked")] == [
        "beside the network/mean",
        "beside the network/std",
    ]


@pytest.mark.parametrize("holder", ["deeplab.", "student._orig_mod.", "lit.seg_model."])
def test_a_module_may_hold_its_network_under_any_name(holder: str, tmp_path: Path) -> None:
    weights = tensors(seeded_weights(golden(VAINF).shapes), holder) | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": weights}, tmp_path / "last.ckpt")
    done = conversion(tmp_path / "last.ckpt")
    assert done.system == "vainf"
    assert done.num_used == len(weights) - len(done.unused)
    assert any(name.endswith("loss.weight") for name in done.unused)


def test_two_networks_in_one_module_are_no_network() -> None:
    """Also where only one of them is known, whose weights are almost all."""
    weights = empty_arrays({f"net_a.{name}": shape for name, shape in golden(VAINF).shapes.items()})
    for other in (
        {"net_b.conv.weight": np.zeros((8, 8, 3, 3))},
        {name.replace("_a", "_b"): x for name, x in weights.items()},
    ):
        assert_refused({**weights, **other}, "weights of no known system")


def test_a_moving_average_counts_where_there_is_nothing_else(tmp_path: Path) -> None:
    weights = tensors(seeded_weights(golden(SMP).shapes))
    torch.save({"model_ema": weights, "epoch": 3}, tmp_path / "ema.pth")
    assert_golden(tmp_path / "ema.pth", SMP)


def test_older_names_of_smp_are_read() -> None:
    case = "smp_v3_resnet18"
    new = {"decoder.aspp.": "decoder.0.", "decoder.conv.": "decoder.1.", "decoder.bn.": "decoder.2."}
    weights = seeded_weights(golden(case).shapes)
    old = {
        next((name.replace(one, other) for one, other in new.items() if name.startswith(one)), name): array
        for name, array in weights.items()
    }
    assert old.keys() != weights.keys()
    assert_golden(old, case)


def test_images_of_other_colours_are_an_option_of_smp() -> None:
    arrays = empty_arrays(golden(SMP).shapes)
    done = conversion(arrays, options={"mean": "0,0,0", "std": "255,255,255"})
    assert done.segmenter.model.scale.flatten().tolist() == [255, 255, 255]
    assert not any("mean" in text for text in done.assumptions)
    assert_refused(arrays, r"std.0=0: Input should be greater than 0", {"std": "0,1,1"})


def test_a_single_logit_becomes_two_classes() -> None:
    done = conversion(empty_arrays(golden("smp_v3plus_mobilenet_v2_binary").shapes), options={"classes": 1})
    assert done.segmenter.model.num_classes == 2
    assert "its single logit is that of class 1, by a sigmoid" in done.assumptions


ONE_LOGIT = {
    VAINF: ("classifier.classifier.3",),
    JFZHANG: ("decoder.last_conv.8",),
    "torchvision_deeplabv3_mobilenet_v3_large": ("classifier.4", "aux_classifier.4"),
    "torchvision_lraspp_mobilenet_v3_large": ("classifier.low_classifier", "classifier.high_classifier"),
}


@torch.no_grad()
@pytest.mark.parametrize("case", ONE_LOGIT)
def test_the_logit_of_one_class_is_the_original_s(case: str) -> None:
    """Class 1 is what the program calls its only one; class 0, against which it is measured, is 0."""
    expected = golden(case)
    arrays = seeded_weights(expected.shapes)
    only = {name: array[3:4] for name, array in arrays.items() if name.rpartition(".")[0] in ONE_LOGIT[case]}
    done = conversion({**arrays, **only}, options={"num_classes": 1})
    logits = done.segmenter.model(expected.image).semantic
    assert_close(logits[:, 1], next(iter(expected.logits.values()))[:, 3])
    assert not logits[:, 0].any()
    assert "its single logit is that of class 1, by a sigmoid" in done.assumptions


def test_one_class_of_another_program_is_refused() -> None:
    names = {name: (1, *shape[1:]) if "conv_seg" in name else shape for name, shape in shapes(MMSEG).items()}
    assert_refused(empty_arrays(names), "it has a single class, which is not read from this program")


def test_panoptic_deeplab_of_19_classes_knows_cityscapes_and_the_program_s_grouping() -> None:
    names = dict(shapes(PANOPTIC))
    head = "decoder.semantic_head.classifier.semantic.1"
    done = conversion(empty_arrays({**names, f"{head}.weight": (19, 64, 1, 1), f"{head}.bias": (19,)}))
    assert done.segmenter.label_space.things == tuple(range(11, 19))
    assert done.segmenter.header.decode.model_dump()["stuff_area"] == 2048
    assert "the 19 classes are those of Cityscapes" in done.assumptions


# ---- Hugging Face's folders


def write_folder(folder: Path, config: Mapping[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(seeded_weights(golden(HUGGING).shapes), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_s_settings_and_names_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "deeplabv3", {**CONFIG, "id2label": NAMES})
    assert_golden(folder, HUGGING)
    assert_golden(folder / "model.safetensors", HUGGING)
    assert run(folder, "--out", tmp_path / "m.safetensors") == 0
    assert "huggingface: deeplab_v3, mobilenet_v2, output stride 16" in capsys.readouterr().out
    names = atrous.load(tmp_path / "m.safetensors").label_space.names
    assert names == ("background", "cat", "dog", "cat 3", "sheep")


BAD_SETTINGS: list[tuple[object, str]] = [
    ({**CONFIG, "model_type": "segformer"}, "model_type 'segformer': of Hugging Face's networks, mobilenet_v2"),
    ({**CONFIG, "tf_padding": False}, "tf_padding=False: Input should be True"),
    ({**CONFIG, "output_stride": 4}, "output_stride=4: Input should be 8, 16 or 32"),
    ({**CONFIG, "id2label": {"0": "cat"}}, "1 names for 5 classes"),
    ({**CONFIG, "id2label": {"0": "a", "2": "b"}}, "id2label must name the classes 0, 1, ... in words"),
    ({**CONFIG, "id2label": {"0": "a\\u001b[2J"}}, "id2label must name|1 names"),
    ({**CONFIG, "id2label": 5}, "id2label must name"),
    ({**CONFIG, "depth_multiplier": 0.75}, "weights of another shape than the model's"),
    ([1, 2], "it must hold settings by name, but holds a list"),
    ("[" * 100_000, "it must hold settings by name|it is no JSON"),
]


@pytest.mark.parametrize(("config", "reason"), BAD_SETTINGS)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, config: Any, reason: str) -> None:  # noqa: ANN401
    folder = write_folder(tmp_path / "a", config)
    with pytest.raises(ValueError, match=reason) as error:
        conversion(folder)
    assert "\n" not in str(error.value)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"cannot read .*config\.json as a file of settings: it is no JSON"):
        conversion(folder)


# ---- segmentation_models_pytorch's


def test_a_folder_of_smp_says_which_encoder_it_has(tmp_path: Path, timm: Any) -> None:  # noqa: ANN401
    save_file(seeded_weights(golden(TIMM).shapes), tmp_path / "model.safetensors")
    settings = {"_model_class": "DeepLabV3Plus", "encoder_name": "tu-mobilenetv3_small_050", "classes": 5}
    settings |= {"encoder_output_stride": 16, "decoder_atrous_rates": [12, 24, 36], "aux_params": None}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert_golden(tmp_path, TIMM)
    done = conversion(tmp_path)
    assert not any("encoder_output_stride" in text or "rates" in text for text in done.assumptions)
    (tmp_path / "config.json").write_text(json.dumps({**settings, "classes": 6}))
    with pytest.raises(ValueError, match="classes=6, but its weights are those of classes=5"):
        conversion(tmp_path)
    for name, reason in (("tu-resnet1818", "no network of this name"), ("tu-mobilenetv3_small_075", "missing|shape")):
        with pytest.raises(ValueError, match=reason):
            conversion(tmp_path, options={"encoder_name": name, "classes": 5})


# ---- two files


def write_halves(folder: Path) -> tuple[Path, Path]:
    weights = tensors(seeded_weights(golden(CSAIL).shapes))
    paths = (folder / "encoder_epoch_20.pth", folder / "decoder_epoch_20.pth")
    for path in paths:
        half = f"{path.name.partition('_')[0]}."
        part = {name.removeprefix(half): value for name, value in weights.items() if name.startswith(half)}
        torch.save(part, path)
    return paths


def test_either_half_brings_the_other(tmp_path: Path) -> None:
    for source in (*write_halves(tmp_path), tmp_path):
        assert_golden(source, CSAIL)


def test_a_half_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, decoder = write_halves(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    for path, other in ((encoder, "decoder"), (decoder, "encoder")):
        moved = Path(shutil.copy(path, alone))
        line = error_line(capsys, moved, "--out", tmp_path / "m.safetensors")
        assert f"of a network alone: put its {other} beside it" in line
        moved.unlink()
    (tmp_path / "encoder_epoch_9.pth").touch()
    assert "it holds several models: name one of" in error_line(capsys, tmp_path, "--out", tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


# ---- refused


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return dict(golden(name).shapes)


shapes_of_head = {  # of a DeepLabV3Plus
    name: shape for name, shape in shapes(SMP).items() if not name.startswith("encoder.")
}
REFUSED: list[tuple[dict[str, tuple[int, ...]], dict[str, Any], str]] = [
    ({**without(shapes(SMP), "decoder."), "decoder.blocks.0.conv1.0.weight": (256, 3, 3, 3)}, {}, "and it is another$"),
    (without(shapes(SMP), "decoder.block1"), {}, "decoder.block1.0.weight is missing"),
    (without(shapes(SMP), "encoder.features.18.1"), {}, "missing 4 weights of the model: encoder.features.18"),
    ({**shapes(SMP), "encoder.features.0.0.weight": (32, 4, 3, 3)}, {}, r"is \[32, 4, 3, 3\], not \[32, 3, 3, 3\]"),
    (shapes(SMP), {"encoder_name": "resnet34"}, "encoder_name=resnet34, but its .* encoder_name=mobilenet_v2"),
    (shapes(SMP), {"classes": 21}, "classes=21, but its weights are those of classes=5"),
    (shapes(SMP), {"encoder_output_strides": 8}, "did you mean encoder_output_stride"),
    (
        {**shapes("smp_pspnet_resnet18"), "encoder.layer2.0.downsample.1.weight": (7,)},
        {},
        "no stage of its encoder has",
    ),
    ({**shapes(VAINF), **shapes(JFZHANG)}, {}, "17 weights of another shape than the model's"),
    ({**shapes(SMP), **shapes(CSAIL)}, {}, r"312 weights without a place .*: decoder\.aspp\.0"),
    (
        {**shapes("smp_v3_resnet18"), "decoder.aspp.convs.0.0.weight": (256, 256, 1, 1)},
        {},
        "encoder_depth=4: a DeepLab is read with encoder_depth=5",
    ),
    (
        {**shapes("smp_v3plus_resnext50_aux"), "encoder.layer1.0.conv2.weight": (96, 3, 3, 3)},
        {},
        r"has a 3x3 of \[96, ",
    ),
    (shapes(TIMM), {}, "its encoder is one of timm's: say which with encoder_name=tu-NAME"),
    (shapes(TIMM), {"encoder_name": "resnet18"}, "encoder_name=tu-NAME, such as tu-resnet18; got resnet18"),
    *(({**shapes_of_head, weight: (1,)}, {}, re.escape(text)) for weight, text in smp.OTHERS.items()),
    ({**shapes_of_head, "encoder.conv1.weight": (32, 3, 3, 3)}, {}, "tu-NAME are read, and it has another"),
    (without(shapes(VAINF), "classifier.classifier.3"), {}, "classifier.classifier.3.weight is missing"),
    (without(shapes(VAINF), "backbone.high_level_features.17"), {}, "missing .*high_level_features.17"),
    (shapes(VAINF), {"model": "deeplabv3plus_resnet50"}, "but its weights are those of model=deeplabv3plus_mobilenet"),
    (shapes(VAINF), {"output_stride": 32}, "output_stride=32: Input should be 8 or 16"),
    ({**shapes(VAINF), "backbone.stage2.0.branches.0.0.conv1.weight": (1,)}, {}, "its backbone is HRNet"),
    (shapes("vainf_v3_xception_os8"), {"model": "deeplabv3_resnet50"}, "are those of model=deeplabv3_xception"),
    (without(shapes("vainf_v3_xception_os8"), "backbone.block12.skipbn"), {}, "missing 4 weights .*: backbone.block12"),
    ({**shapes(VAINF), **shapes("vainf_v3plus_xception_os16")}, {}, "of another shape than the model's"),
    (
        without(shapes(PANOPTIC), "decoder.instance_head.classifier.offset"),
        {},
        "missing 12 weights .*: decoder.instance_",
    ),
    (
        without(shapes(PANOPTIC), "decoder.semantic_decoder.project.2"),
        {},
        "low_level_channels|weights? without a place|sh",
    ),
    (without(shapes(PANOPTIC), "backbone.features.17"), {}, "missing .* of the model: backbone.features.17"),
    ({**shapes(PANOPTIC), "decoder.semantic_decoder.fuse.1.0.1.weight": (64, 9, 1, 1)}, {}, r"is \[64, 9, 1, 1\], not"),
    ({**shapes(PANOPTIC), **shapes("bowenc0221_resnet50")}, {}, "16 weights of another shape than the model.s"),
    (shapes(PANOPTIC), {"atrous_rates": "1,2"}, "weights of another shape than the model.s"),
    *(
        ({**shapes(PANOPTIC), weight: (1,)}, {}, re.escape(f"{text}, which Atrous does not read from it"))
        for weight, text in bowenc0221.OTHERS.items()
    ),
    (shapes("jfzhang95_drn"), {"backbone": "xception"}, "but its weights are those of backbone=drn"),
    (without(shapes("jfzhang95_drn"), "backbone.layer7"), {}, "missing 5 weights of the model: backbone.layer7.0.weig"),
    (without(shapes(XCEPTION), "backbone.block9"), {}, r"missing .* of the model: backbone.block9.rep"),
    (without(shapes(XCEPTION), "backbone.conv4.bn"), {}, "missing 4 weights of the model: backbone.conv4.bn"),
    ({**shapes(XCEPTION), **shapes("jfzhang95_drn")}, {}, "weights? of another shape than the model's"),
    (without(shapes(JFZHANG), "decoder.last_conv.8"), {}, "decoder.last_conv.8.weight is missing"),
    (shapes(JFZHANG), {"backbone": "drn"}, "backbone=drn, but its weights are those of backbone=mobilenet"),
    (without(shapes(CSAIL), "decoder.cbr_deepsup"), {}, "only ppm_deepsup is read"),
    (without(shapes(CSAIL), "encoder.layer3.1"), {}, "no ResNet has 1 units of two convolutions in layer3"),
    (
        without(shapes("kazuto1011_v2_single"), "aspp.c3"),
        {},
        "it has 3 branches: name the rate of each in atrous_rates",
    ),
    (without(shapes("kazuto1011_v2_single"), "aspp"), {}, "only DeepLab v2 is read"),
    (without(shapes("kazuto1011_v2_single"), "layer4.block23"), {}, "missing .*layer4.block23"),
    (without(shapes(HUGGING), "segmentation_head.conv_pool"), {"output_stride": 16}, "missing .*conv_pool"),
    (shapes("mmseg_psanet_r50_d8"), {}, "its masks have 117 weights: give their sides with mask_size=97,97"),
    (shapes("mmseg_psanet_r50_d8"), {"psa_type": "collect"}, "those of psa_type=bi-direction, got collect"),
    (shapes("mmseg_deeplabv3_r50_d8"), {"dilations": "1,12"}, r"it has 4 branches, 1x1 first"),
    (shapes("mmseg_deeplabv3_r50_d8"), {"multi_grid": "1,2,4"}, r"has only multiples of \(2, 4, 4\)"),
    (
        {**shapes("mmseg_pspnet_r50_d8"), "decode_head.fpn_bottleneck.conv.weight": (512, 2048, 3, 3)},  # UPerNet
        {},
        "UPerNet .mmsegmentation., which Atrous does not read",
    ),
    (
        without(shapes("torchvision_lraspp_mobilenet_v3_large"), "classifier.high_classifier"),
        {},
        "missing 2 weights of the model: classifier.high_classifier",
    ),
]


@pytest.mark.parametrize(("weights", "options", "reason"), REFUSED)
def test_misfits_are_refused_in_one_line(
    weights: dict[str, tuple[int, ...]], options: dict[str, Any], reason: str
) -> None:
    assert_refused(empty_arrays(weights), reason, options)


def test_files_that_are_no_checkpoints_are_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    assert "torch.save(model.state_dict()" in error_line(capsys, tmp_path / "whole.pth", "--out", out)
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"model": {"a": np.zeros(3)}}, protocol=4))
    assert "a pickle, such as Detectron2's" in error_line(capsys, tmp_path / "model_final.pkl", "--out", out)
    for name in ("sparse.pth", "sparse.ckpt", "sparse.bin", "sparse_foreign.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**30)
        assert "cannot read" in error_line(capsys, tmp_path / name, "--out", out)
    assert not out.exists()
