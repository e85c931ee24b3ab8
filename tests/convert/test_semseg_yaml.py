"""semseg's own files, on the command line: a `.pth` of its training, and the YAML file of that training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import atrous
from atrous.convert import convert
from atrous.convert.options import read_options
from atrous.convert.run import conversion
from atrous.convert.systems import SYSTEMS
from atrous.convert.systems.semseg.options import Options
from atrous.errors import ConfigError
from atrous.models.psanet import PSANet
from atrous.models.pspnet import PSPNet
from tests.convert.conftest import assert_refused, empty_arrays, error_line, meta_model, random_image, run
from tests.reference.semseg import Arrays, Shape, listing, seeded_weights

TRAIN = {  # specs/semseg.md, section 2: every key of its twelve files
    "arch": "psp",
    "layers": 50,
    "sync_bn": True,
    "train_h": 89,
    "train_w": 73,
    "scale_min": 0.5,
    "scale_max": 2.0,
    "rotate_min": -10,
    "rotate_max": 10,
    "zoom_factor": 8,
    "ignore_label": 255,
    "aux_weight": 0.4,
    "train_gpu": [0, 1, 2, 3, 4, 5, 6, 7],
    "workers": 16,
    "batch_size": 16,
    "batch_size_val": 8,
    "base_lr": 0.01,
    "epochs": 50,
    "start_epoch": 0,
    "power": 0.9,
    "momentum": 0.9,
    "weight_decay": 0.0001,
    "manual_seed": None,
    "print_freq": 10,
    "save_freq": 1,
    "save_path": "exp/voc2012/pspnet50/model",
    "weight": None,
    "resume": None,
    "evaluate": False,
}
TEST = {
    "test_list": "dataset/voc2012/list/val.txt",
    "split": "val",
    "base_size": 512,
    "test_h": 73,
    "test_w": 89,
    "scales": [1.0],
    "has_prediction": False,
    "index_start": 0,
    "index_step": 0,
    "test_gpu": [0],
    "model_path": "exp/voc2012/pspnet50/model/train_epoch_50.pth",
    "save_folder": "exp/voc2012/pspnet50/result/epoch_50/val/ss",
    "colors_path": "data/voc2012/voc2012_colors.txt",
    "names_path": "data/voc2012/voc2012_names.txt",
}
DISTRIBUTED = {
    "dist_url": "tcp://127.0.0.1:6789",
    "dist_backend": "nccl",
    "multiprocessing_distributed": True,
    "world_size": 1,
    "rank": 0,
}
APEX = {"use_apex": True, "opt_level": "O0", "keep_batchnorm_fp32": None, "loss_scale": None}  # of branch 1.0.0
PSA = {
    "arch": "psa",
    "train_h": 465,
    "train_w": 465,
    "psa_type": 2,
    "compact": 0,
    "shrink_factor": 2,
    "mask_h": None,
    "mask_w": None,
    "normalization_factor": 1.0,
    "psa_softmax": 1,
}


def sections(**changes: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    data = {
        "data_root": "dataset/voc2012",
        "train_list": "dataset/voc2012/list/train_aug.txt",
        "val_list": "dataset/voc2012/list/val.txt",
        "classes": 21,
    }
    return {"DATA": data, "TRAIN": TRAIN | APEX | changes, "Distributed": DISTRIBUTED, "TEST": TEST}


def write(path: Path, tree: object) -> Path:
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def shapes_of(config: PSPNet.Config | PSANet.Config, num_classes: int = 21) -> dict[str, Shape]:
    return listing(meta_model(config, num_classes))


def read(options: dict[str, Any]) -> Options:
    read: Options = read_options(SYSTEMS["semseg"], options, "weights")
    return read


@pytest.fixture(scope="module")
def narrow() -> Arrays:
    """A PSPNet with heads of eight channels and without a pyramid, in half precision: 47 MB."""
    shapes = shapes_of(PSPNet.Config(bins=(), head_channels=8, auxiliary_channels=8))
    return {name: array.astype(np.float16) for name, array in seeded_weights(shapes).items()}


@pytest.fixture(scope="module")
def checkpoint(narrow: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the original's training saves it."""
    path = tmp_path_factory.mktemp("exp") / "train_epoch_50.pth"
    state = {f"module.{name}": torch.from_numpy(array) for name, array in narrow.items()}
    state["module.cls.1.num_batches_tracked"] = torch.tensor(33_050)
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    torch.save({"epoch": 50, "state_dict": state, "optimizer": optimizer}, path)
    return path


# ---- the command line


def test_a_training_of_the_original_becomes_a_model_file(
    narrow: Arrays, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write(tmp_path / "voc2012_pspnet50.yaml", sections()), tmp_path / "m.safetensors"
    assert run(checkpoint, "--out", out, f"config={config}", "scales=0.5,1", "use_ppm=false") == 0
    printed = capsys.readouterr().out
    assert "semseg: pspnet, resnet50s, output stride 8, 21 classes" in printed
    assert f"{len(narrow)} weights used, 1 not: num_batches_tracked" in printed
    assert "default" not in printed
    segmenter = atrous.load(out)
    inference = segmenter.inference
    assert (inference.mode, inference.window, inference.base_size) == ("sliding", (73, 89), 512)
    assert (inference.scales, inference.flip) == ((0.5, 1.0), True)
    assert segmenter.label_space.names[20] == "tvmonitor"
    with torch.no_grad():
        assert torch.equal(
            segmenter.model(random_image(41, 57)).semantic,
            convert(narrow, system="semseg").model(random_image(41, 57)).semantic,
        )


CONTRADICTIONS: list[tuple[dict[str, Any], list[str], str]] = [  # keys of the file, options, reason
    ({"layers": 101}, [], "layers=101, but its weights are those of layers=50"),
    ({}, ["layers=101"], "layers=101, but its weights are those of layers=50"),
    ({"classes": 19}, [], "classes=19, but its weights are those of classes=21"),
    ({"arch": "psa"}, [], "arch=psa, but its weights are those of arch=psp"),
    ({"layer": 50}, [], "no model depends on an option 'layer'; did you mean layers?"),
    ({}, ["layer=50"], "no model depends on an option 'layer'; did you mean layers?"),
    ({"train_h": "tall"}, [], "train_h='tall': Input should be a valid integer"),
]


def test_contradictions_are_reported_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, options, reason in CONTRADICTIONS:
        config = write(tmp_path / "config.yaml", sections(**changes))
        message = error_line(capsys, checkpoint, "--out", tmp_path / "m.safetensors", f"config={config}", *options)
        assert reason in message
    assert not (tmp_path / "m.safetensors").exists()


def test_files_that_are_missing_or_damaged_are_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    assert "none.yaml" in error_line(capsys, checkpoint, "--out", out, f"config={tmp_path / 'none.yaml'}")
    assert str(tmp_path) in error_line(capsys, checkpoint, "--out", out, f"config={tmp_path}")
    for name in ("none.pth", "none.pth.tar", "none.pt"):
        assert f"no such file: {tmp_path / name}" in error_line(capsys, tmp_path / name, "--out", out)
    (tmp_path / "half.pth.tar").write_bytes(checkpoint.read_bytes()[:10_000])
    assert "half.pth.tar as a PyTorch checkpoint: not a file of torch.save" in error_line(
        capsys, tmp_path / "half.pth.tar", "--out", out
    )
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    assert "it holds 'torch.nn.modules.linear.Linear', which is refused" in error_line(
        capsys, tmp_path / "whole.pth", "--out", out
    )
    torch.save({"encoder.0.weight": torch.ones(3)}, tmp_path / "other.pth")
    assert "weights of no known system (encoder.0.weight" in error_line(capsys, tmp_path / "other.pth", "--out", out)
    assert not out.exists()


# ---- the YAML


def test_sections_are_merged_and_the_last_value_of_a_key_counts(tmp_path: Path) -> None:
    tree = sections(test_h=97, base_size=1024)
    path = write(tmp_path / "config.yaml", tree)
    options = read({"config": str(path)})
    assert (options.layers, options.classes, options.base_size) == (50, 21, 512)
    assert (options.train_crop, options.test_crop) == ((89, 73), (73, 89))
    flat = {key: value for section in tree.values() for key, value in section.items()}
    assert read({"config": write(path, flat)}) == options
    assert read({"TRAIN": {"layers": 50}, "TEST": {"base_size": 512, "layers": 101}}).layers == 101


def test_options_outrank_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml", sections(mask_h=None, arch="psa"))
    options = read({"config": str(path), "arch": "psp", "mask_h": "59", "TEST": {"base_size": 256}})
    assert (options.arch, options.mask_h, options.base_size) == ("psp", 59, 256)  # mask_h is empty in the file


def test_the_keys_of_a_psanet_leave_nothing_to_assume(tmp_path: Path) -> None:
    path = write(tmp_path / "ade20k_psanet50.yaml", sections(**PSA, classes=150))
    done = conversion(empty_arrays(shapes_of(PSANet.Config(), 150)), options={"config": path})
    assert [text for text in done.assumptions if "original's default" in text] == []
    assert done.segmenter.label_space.names[0] == "wall"
    config = done.segmenter.model.config
    assert isinstance(config, PSANet.Config)
    assert (config.psa_type, config.mask_size, config.shrink_factor) == ("bidirectional", (59, 59), 2)


MASKS: list[tuple[dict[str, Any], str]] = [  # keys of the file, reason
    ({"layers": 101}, "layers=101, but its weights are those of layers=50"),
    (
        {"train_h": 705, "train_w": 705},
        "3481 weights for each place: train_h, train_w = 705, 705 and .* describe a mask of 89 x 89",
    ),
    (
        {"shrink_factor": 1},
        "3481 weights for each place: train_h, train_w = 465, 465 and .* describe a mask of 117 x 117",
    ),
    ({"compact": 1}, "3481 weights for each place: train_h, .* describe a mask of 30 x 30"),
    ({"mask_h": 61, "mask_w": 57}, "3481 weights for each place: mask_h, mask_w describe a mask of 61 x 57"),
    (
        {"mask_h": 59, "mask_w": 59, "train_h": 449},
        r"train_h, train_w = 449, 465 and .* have room for a mask of 57 x 59 at most, but .* are \(59, 59\)",
    ),
    ({"psa_type": 0}, r"psa_type=0, but its weights are those of two directions \(psa_type=2\)"),
]


def test_a_mask_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    weights = empty_arrays(shapes_of(PSANet.Config()))
    for changes, reason in MASKS:
        path = write(tmp_path / "config.yaml", sections(**{**PSA, **changes}))
        assert_refused(weights, reason, {"config": path})


NOT_CONFIGS = {  # text: reason
    "a: [": "not YAML",
    "- 1": "expected sections DATA, .* with keys in them, got list",
    "just text": "got str",
    "": "got NoneType",
    "1: 2": "no model depends on an option 1",
    "{[1]: 2}": "line 1: a key must be text or a number, not a list",
    "TRAIN: 3": "no model depends on an option 'TRAIN'",
    "LR: 1": "no model depends on an option 'LR'",
    "!!python/object/apply:os.getcwd []": "not YAML of plain values",
    "\x00": "not YAML",
    "\udcfa\udcfe\udcfa": "not UTF-8 text",  # bytes that are not UTF-8
}


def test_files_other_than_configs_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, reason in NOT_CONFIGS.items():
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ConfigError, match=rf"config\.yaml: .*{reason}") as error:
            read({"config": path})
        assert "\n" not in str(error.value)
