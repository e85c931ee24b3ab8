"""Every command and all Python of docs/converting.md, on small files made here."""

import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file

from atrous import cli
from tests.conftest import save
from tests.convert.sources import (
    archive_name,
    half_width,
    semseg_shapes,
    serve,
    write_archive,
    write_deeplab2,
    write_graph,
    write_pth,
    write_tflite,
    write_training,
)
from tests.reference import keras, torchvision
from tests.reference.pytorch_programs import golden, seeded_weights

KERAS = "deeplabv3_mobilenetv2_tf_dim_ordering_tf_kernels.h5"
PAGE = (Path(__file__).parents[2] / "docs" / "converting.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with the files that the page names, and a mirror of the zoo."""
    write_training(tmp_path / "train_logdir")
    write_archive(tmp_path / archive_name(), tmp_path / "train_logdir")
    write_graph(tmp_path / "frozen_inference_graph.pb")
    write_tflite(tmp_path / "model.tflite")
    write_deeplab2(tmp_path)
    write_pth(tmp_path / "train_epoch_50.pth", semseg_shapes())
    write_pth(tmp_path / "resnet18-f37072fd.pth", torchvision.classifier("resnet18", 5))
    write_pth(tmp_path / "pspnet_r50-d8_cityscapes.pth", torchvision.pspnet("resnet50", (32, 32, 64), width=8))
    write_pth(tmp_path / "best_deeplabv3plus_mobilenet_voc_os16.pth", golden("vainf_v3plus_mobilenet_os16").shapes)
    write_pth(tmp_path / "last.ckpt", golden("smp_v3plus_mobilenet_v2").shapes)
    (tmp_path / "deeplabv3_mobilenet_v2").mkdir()
    arrays = seeded_weights(golden("huggingface_dm05_os16").shapes)
    save_file(arrays, tmp_path / "deeplabv3_mobilenet_v2" / "model.safetensors")
    settings = json.dumps({"depth_multiplier": 0.5, "output_stride": 16})
    (tmp_path / "deeplabv3_mobilenet_v2" / "config.json").write_text(settings)
    both = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    torch.save({"state_dict": both, "state_dict_ema": both}, tmp_path / "averaged.pth")
    keras.write_named(tmp_path / KERAS, keras.seeded_weights("bonlime_mobilenetv2_alpha05"))
    config = {"TRAIN": {"arch": "psp", "layers": 50, "train_h": 89, "train_w": 89, "use_ppm": False}}
    (tmp_path / "voc2012_pspnet50.yaml").write_text(yaml.safe_dump(config))
    save(tmp_path / "photos" / "street.png", np.zeros((65, 65, 3), np.uint8))
    (tmp_path / "labels.txt").write_text("\n".join(f"thing {index}" for index in range(21)), encoding="utf-8")
    np.savez(tmp_path / "variables.npz", allow_pickle=False, **half_width())
    monkeypatch.chdir(tmp_path)
    with serve(tmp_path) as address:
        monkeypatch.setenv("ATROUS_ZOO", address)
        monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
        yield tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="LiteRT is not installed: pip install '.[litert]'")
def test_the_commands_run_and_print_what_the_page_shows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 22
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "atrous"
        assert cli.run(arguments) == 0, command
    printed = capsys.readouterr().out
    (example,) = blocks("text")
    assert example in printed
    assert (folder / "predicted" / "masks" / "street.png").exists()


def test_the_python_runs(folder: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)
    assert (folder / "mine.safetensors").exists()
