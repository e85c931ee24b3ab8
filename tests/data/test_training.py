"""Each real folder can be learnt from: a few steps of a tiny model on a few images of it."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

import atrous.data
from atrous import train
from atrous.config import Config
from atrous.data.contract import DataConfig
from atrous.errors import AtrousWarning
from atrous.types import Sample
from tests.conftest import SHARED
from tests.data.conftest import labelme_shape, noise_image, save, square, write, write_labelme_file
from tests.runs import QUIET, losses

DATA = SHARED / "data"
ALL = "data.train=. data.val=."
REAL = {  # folder: the settings that it needs besides data.format=auto
    "PennFudanPed": "",
    "VOCdevkit": "",
    "ade20k_samples": ALL,
    "camvid": "",
    "cityscapes": "data.val=train",
    "coco_panoptic_samples": "data.train=examples data.val=examples",
    "coco_stuff_samples": "",
    "deeplab2_testdata/data": "data.train=dummy data.val=dummy",
    "labelme_examples/instance_segmentation": "data.train=data_annotated data.val=data_annotated",
    "labelme_examples/instance_segmentation/data_dataset_coco": "data.train=annotations data.val=annotations",
    "labelme_examples/instance_segmentation/data_dataset_voc": ALL,
    "labelme_examples/semantic_segmentation/data_annotated": ALL,
}
STUFF = "data.names=" + json.dumps({value: f"class_{value}" for value in range(182)}).replace('"', "")
Tiny = Callable[..., Config]


def few(monkeypatch: pytest.MonkeyPatch, number: int = 3) -> None:
    """The first images of a split alone."""
    samples = atrous.data.samples

    def first(config: DataConfig, split: str, needs: Collection[str] | None = None) -> Sequence[Sample]:
        return samples(config, split, needs)[:number]

    monkeypatch.setattr("atrous.data.samples", first)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::atrous.errors.AtrousWarning")
@pytest.mark.parametrize("folder", REAL)
def test_real_folders_train(folder: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {DATA / folder}")
    few(monkeypatch)
    names = [STUFF] if folder == "coco_stuff_samples" else []
    settings = ["data.format=auto", f"data.root={DATA / folder}", *REAL[folder].split(), *names]
    run = train.train(tiny(*settings, "train.steps=20", "train.eval_every=20"), tmp_path / "run", console=QUIET)
    rows = losses(run)
    assert len(rows) == 20
    assert all(row["loss"] < 20 for row in rows)


def write_mix(root: Path) -> dict[str, Any]:
    """Two folders of labelme's, of which one calls a car otherwise."""
    parts: dict[str, Any] = {}
    for part, name in (("ours", "car"), ("theirs", "auto")):
        for split in ("train", "val"):
            for number in range(3):
                path = root / part / split / f"{number}.json"
                write_labelme_file(path, labelme_shape(name, square(2, 1, 3 + number)))
                save(path.with_suffix(".png"), noise_image(8, 12, number))
        write(root / part / "labels.txt", f"_background_\n{name}\n")
        parts[part] = {"root": str(root / part), "weight": 1}
    parts["theirs"]["map"] = {"_background_": "_background_", "car": "auto"}
    return parts


def test_a_mix_trains_and_is_resumed_exactly(tiny: Tiny, tmp_path: Path) -> None:
    parts = json.dumps(write_mix(tmp_path))
    steps = ("train.steps=6", "train.eval_every=6", "optim.lr=0.0001", "optim.schedule=constant")
    settings = ("data.format=mix", f"data.parts={parts}", *steps)
    with pytest.warns(AtrousWarning):  # of what is recognised
        config = tiny(*settings)
        whole = train.train(config, tmp_path / "whole", console=QUIET)
        train.train(tiny(*settings, "train.steps=3"), tmp_path / "parts", console=QUIET)
        again = train.train(config, tmp_path / "parts", console=QUIET, resume=True)
    assert [row["loss"] for row in losses(again)] == [row["loss"] for row in losses(whole)]
