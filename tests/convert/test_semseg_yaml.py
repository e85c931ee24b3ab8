"""semseg's own files, from the command line: a `.pth` of its training, and a YAML file that tells of the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import atrous
from atrous import cli
from atrous.convert import convert
from atrous.convert.systems.semseg.options import read_options
from atrous.models import build
from atrous.models.psanet import PSANet
from atrous.models.pspnet import PSPNet
from tests.reference.semseg import Arrays, Shape, empty_weights, listing, seeded_weights

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


def written(path: Path, tree: object) -> Path:
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def shapes_of(config: PSPNet.Config | PSANet.Config, num_classes: int = 21) -> dict[str, Shape]:
    with torch.device("meta"):
        return listing(build(config, num_classes))


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


def image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def run(*arguments: str | Path) -> int:
    return cli.run(["convert", *map(str, arguments)])


def line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a wrong call."""
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("atrous: ")
    assert said.count("\n") == 1, said
    return said


# ---- the command line


def test_a_training_of_the_original_becomes_a_model_file(
    narrow: Arrays, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = written(tmp_path / "voc2012_pspnet50.yaml", sections()), tmp_path / "m.safetensors"
    assert run(checkpoint, "--out", out, f"config={config}", "scales=0.5,1", "use_ppm=false") == 0
    said = capsys.readouterr().out
    assert "semseg: pspnet, resnet50s, output stride 8, 21 classes" in said
    assert f"{len(narrow)} variables used, 1 not: num_batches_tracked" in said
    assert "default" not in said
    segmenter = atrous.load(out)
    inference = segmenter.inference
    assert (inference.mode, inference.window, inference.base_size) == ("sliding", (73, 89), 512)
    assert (inference.scales, inference.flip) == ((0.5, 1.0), True)
    assert segmenter.label_space.names[20] == "tvmonitor"
    with torch.no_grad():
        assert torch.equal(
            segmenter.model(image(41, 57)).semantic, convert(narrow, system="semseg").model(image(41, 57)).semantic
        )


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"layers": 101}, [], "layers=101, but its weights are those of layers=50"),
        ({}, ["layers=101"], "layers=101, but its weights are those of layers=50"),
        ({"classes": 19}, [], "classes=19, but its weights are those of classes=21"),
        ({"arch": "psa"}, [], "arch=psa, but its weights are those of arch=psp"),
        ({"layer": 50}, [], "layer is no flag that a model depends on; did you mean layers?"),
        ({}, ["layer=50"], "layer is no flag that a model depends on; did you mean layers?"),
        ({"train_h": "tall"}, [], "train_h='tall': Input should be a valid integer"),
    ],
)
def test_what_contradicts_the_weights_is_told_in_a_line(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: list[str],
    reason: str,
) -> None:
    config = written(tmp_path / "config.yaml", sections(**changes))
    said = line(capsys, checkpoint, "--out", tmp_path / "m.safetensors", f"config={config}", *options)
    assert reason in said
    assert not (tmp_path / "m.safetensors").exists()


def test_files_that_are_missing_or_damaged_are_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    assert "none.yaml" in line(capsys, checkpoint, "--out", out, f"config={tmp_path / 'none.yaml'}")
    assert str(tmp_path) in line(capsys, checkpoint, "--out", out, f"config={tmp_path}")
    for name in ("none.pth", "none.pth.tar", "none.pt"):
        assert f"no such file: {tmp_path / name}" in line(capsys, tmp_path / name, "--out", out)
    (tmp_path / "half.pth.tar").write_bytes(checkpoint.read_bytes()[:10_000])
    assert "half.pth.tar as a PyTorch checkpoint: no file of torch.save" in line(
        capsys, tmp_path / "half.pth.tar", "--out", out
    )
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    assert "it holds 'torch.nn.modules.linear.Linear', which is refused" in line(
        capsys, tmp_path / "whole.pth", "--out", out
    )
    torch.save({"encoder.0.weight": torch.ones(3)}, tmp_path / "other.pth")
    assert "variables of no known system (encoder.0.weight" in line(capsys, tmp_path / "other.pth", "--out", out)
    assert not out.exists()


# ---- the YAML


def test_sections_are_one_and_of_a_key_in_two_the_later_counts(tmp_path: Path) -> None:
    tree = sections(test_h=97, base_size=1024)
    path = written(tmp_path / "config.yaml", tree)
    read = read_options({"config": str(path)}, "given")
    assert (read.layers, read.classes, read.base_size) == (50, 21, 512)
    assert (read.train_crop, read.test_crop) == ((89, 73), (73, 89))
    flat = {key: value for section in tree.values() for key, value in section.items()}
    assert read_options({"config": written(path, flat)}, "given") == read


def test_single_options_count_more_than_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "config.yaml", sections(mask_h=None, arch="psa"))
    read = read_options({"config": str(path), "arch": "psp", "mask_h": "59", "TEST": {"base_size": 256}}, "given")
    assert (read.arch, read.mask_h, read.base_size) == ("psp", 59, 256)  # a key that is empty there can be given


def test_psanets_keys_tell_the_network(tmp_path: Path) -> None:
    path = written(tmp_path / "ade20k_psanet50.yaml", sections(**PSA))
    segmenter = convert(empty_weights(shapes_of(PSANet.Config())), options={"config": path})
    config = segmenter.model.config
    assert isinstance(config, PSANet.Config)
    assert (config.psa_type, config.mask_size, config.shrink_factor) == ("bidirectional", (59, 59), 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layers": 101}, "layers=101, but its weights are those of layers=50"),
        ({"train_h": 705, "train_w": 705}, "3481 weights for each place: a mask of 89 x 89 by train_h, train_w = 705"),
        ({"shrink_factor": 1}, "3481 weights for each place: a mask of 117 x 117 by train_h, train_w = 465, 465"),
        ({"compact": 1}, "3481 weights for each place: a mask of 30 x 30"),
        ({"mask_h": 61, "mask_w": 57}, "3481 weights for each place: a mask of 61 x 57 by mask_h, mask_w"),
        (
            {"mask_h": 59, "mask_w": 59, "train_h": 449},
            r"a mask of 57 x 59 is all that train_h, train_w = 449, 465 .* room for, mask_h, mask_w = \(59, 59\) are",
        ),
        ({"psa_type": 0}, r"psa_type=0, but its weights are those of two directions \(psa_type=2\)"),
    ],
)
def test_a_mask_that_cannot_fit_is_told(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = written(tmp_path / "config.yaml", sections(**{**PSA, **changes}))
    with pytest.raises(ValueError, match=reason) as error:
        convert(empty_weights(shapes_of(PSANet.Config())), options={"config": path})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["a: [", "- 1", "just text", "", "1: 2", "{[1]: 2}", "TRAIN: 3", "!!python/object/apply:os.getcwd []", "\x00"],
)
def test_files_that_are_no_configuration_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="config") as error:
        read_options({"config": path}, "given")
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\xfa\x00")
    with pytest.raises(ValueError, match=r"config\.yaml: no YAML"):
        read_options({"config": path}, "given")
