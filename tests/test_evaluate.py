"""Every figure with its protocol; the same figures however they are got."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from atrous import data, evaluate, segmenter
from atrous.config import Config
from atrous.distributed import World
from atrous.segmenter import Segmenter

CPU = World(0, 1, torch.device("cpu"))
QUIET = Console(quiet=True)


@pytest.fixture
def model(tiny: Callable[..., Config], tmp_path: Path) -> Path:
    config = tiny()
    made = segmenter.create(config.model, label_space=data.label_space(config.data))
    torch.nn.init.normal_(list(made.model.parameters())[-2], std=1.0)
    path = tmp_path / "model.safetensors"
    Segmenter(made.model, made.label_space, config.evaluate, config).save(path)
    return path


def test_json_and_report_hold_the_figures_and_the_protocol(model: Path, tmp_path: Path) -> None:
    found = evaluate.run(model, json_path=tmp_path / "r.json", report_path=tmp_path / "r.html", console=QUIET)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["miou"] == found["miou"]
    assert set(written["per_class"]) == set(segmenter.load(model).label_space.names)
    assert written["protocol"]["data"] == "synthetic, split val"
    assert written["protocol"]["image"] == "whole image"
    assert written["environment"]["torch"] == torch.__version__
    assert f"{found['miou']:.3f}" in (tmp_path / "r.html").read_text()


def test_the_figures_are_those_of_predicting_each_image(model: Path) -> None:
    loaded = segmenter.load(model)
    assert loaded.training is not None
    samples = data.samples(loaded.training.data, "val")
    counts = np.zeros((8, 8), np.int64)
    for sample in (samples[index] for index in range(len(samples))):
        semantic, predicted = np.asarray(sample.semantic), loaded.predict(sample.image).semantic
        known = semantic != loaded.label_space.ignore
        np.add.at(counts, (semantic[known], predicted[known]), 1)
    found = evaluate.run(model, console=QUIET)
    assert found["confusion"] == counts.tolist()
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert found["miou"] == pytest.approx(np.mean(counts.diagonal()[union > 0] / union[union > 0]))


def test_the_protocol_can_be_changed_and_says_so(model: Path) -> None:
    overrides = [
        "evaluate.mode=sliding",
        "evaluate.window=49,65",
        "evaluate.flip=true",
        "evaluate.scales=0.5,1",
        "evaluate.output_stride=8",
    ]
    protocol = evaluate.run(model, overrides, console=QUIET)["protocol"]
    assert protocol["image"] == "windows of 49 x 65, 33% overlap"
    assert (protocol["scales"], protocol["mirrored too"], protocol["output stride"]) == ("0.5, 1", "yes", "8")


def test_the_originals_canvas_and_a_crf_are_told_in_the_protocol(model: Path) -> None:
    overrides = ["evaluate.mode=canvas", "evaluate.window=49,65", "evaluate.crf=v1_large_fov"]
    found = evaluate.run(model, overrides, console=QUIET)
    assert found["protocol"]["image"] == "shrunk, where it is larger, onto a canvas of 49 x 65"
    assert found["protocol"]["CRF"] == "v1_large_fov"
    assert found["confusion"] != evaluate.run(model, overrides[:2], console=QUIET)["confusion"]


def test_a_class_that_is_nowhere_is_left_out_and_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = segmenter.load(model)
    total = torch.diag(torch.tensor([5, 5, 5, 5, 5, 5, 5, 0]))
    evaluation = evaluate.Evaluation(total, [], [], evaluate.protocol(loaded, total, 1, 0, "drawn"))
    found = evaluate.results(evaluation, loaded.label_space, CPU.device)
    assert found["miou"] == 1.0
    assert found["absent"] == ["person"]
    assert "left out: person" in found["protocol"]["mean over"]
    evaluate.print_table(found, Console(width=200))
    assert "absent" in capsys.readouterr().out


def test_batch_norm_and_dropout_are_as_before_afterwards(model: Path) -> None:
    loaded = segmenter.load(model)
    assert loaded.training is not None
    loaded.model.train()
    loaded.model.backbone.eval()
    modes = [module.training for module in loaded.model.modules()]
    evaluate.evaluate(loaded, data.samples(loaded.training.data, "val"), world=CPU)
    assert [module.training for module in loaded.model.modules()] == modes


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model.output_stride=8"], "only the settings of data and evaluate"),
        (["data.format=camvid", "data.root=nowhere"], "is 8, but the label space has 11 classes"),
        (["data.names=sky,building,road,pavement,tree,pole,car,person"], "class 4 is 'vegetation' in .* but 'tree'"),
        (["data.val=nowhere"], "nowhere"),
        (["evaluate.scales=[]"], r"evaluate\.scales"),
        (["evaluate.overlap=1"], "less than 1"),
    ],
)
def test_what_does_not_fit_is_refused(model: Path, overrides: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        evaluate.run(model, overrides, console=QUIET)


def test_a_model_without_an_experiment_asks_for_data(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    segmenter.create("deeplab_v3", num_classes=8).save(path)
    with pytest.raises(ValueError, match=r"names no data set; give data\.format"):
        evaluate.run(path, console=QUIET)
    overrides = ["data.format=synthetic", "data.num_val=1", "data.size=64,96"]
    assert evaluate.run(path, overrides, console=QUIET)["images"] == 1
