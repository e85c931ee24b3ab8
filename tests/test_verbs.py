"""The verbs as functions in Python: called on the package, from a thread, and beside their use as modules."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import atrous
from atrous import evaluate, train, verbs
from atrous.commands.train import default_folder
from atrous.errors import ConfigError
from atrous.run_folder import RunFolder
from tests.conftest import SMALL_MODEL, write_folder_data
from tests.convert.sources import semseg_shapes, write_pth
from tests.runs import QUIET

SMALL = dict(text.split("=") for text in SMALL_MODEL)
QUICK: dict[str, Any] = {"augment.crop": (33, 49), "train.batch": 2, "train.steps": 2, "train": {"eval_every": 2}}


def trained(data: Path, out: Path) -> RunFolder:
    run: RunFolder = atrous.train(  # type: ignore[operator]
        "folder/deeplab_v3plus", out=out, workers=0, device="cpu", console=QUIET, **SMALL, **QUICK, data={"root": data}
    )
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Trained from another thread, as a notebook's executor or a web service would."""
    place, runs = tmp_path_factory.mktemp("verbs"), []
    data = write_folder_data(place / "MYDATA")
    thread = threading.Thread(target=lambda: runs.append(trained(data, place / "run")))
    thread.start()
    thread.join()
    assert runs, "the training failed in its thread"
    return runs[0]


def test_train_does_what_the_verb_does(run: RunFolder) -> None:
    best = atrous.load(run.best)
    assert best.training is not None
    assert best.training.train.steps == 2 and best.training.augment.crop == (33, 49)
    assert run.report.is_file()


def test_evaluate_does_what_the_verb_does(run: RunFolder, tmp_path: Path) -> None:
    evaluation = atrous.evaluate(  # type: ignore[operator]
        run.best,
        json=tmp_path / "a.json",
        report=str(tmp_path / "a.html"),
        workers=0,
        console=QUIET,
        evaluate={"flip": True},
    )
    stored = json.loads((tmp_path / "a.json").read_text())
    assert stored["scores"] == evaluation.to_tree()["scores"]
    assert evaluation.protocol["flipped too"] == "yes"
    assert (tmp_path / "a.html").is_file()


def test_convert_does_what_the_verb_does(tmp_path: Path) -> None:
    write_pth(tmp_path / "weights.pth", semseg_shapes())
    segmenter = atrous.convert(tmp_path / "weights.pth", out=tmp_path / "a.safetensors")  # type: ignore[operator]
    assert atrous.load(tmp_path / "a.safetensors").classes == segmenter.classes
    with pytest.raises(ValueError, match="weights of no known system"):
        atrous.convert({"unknown": np.zeros(3, np.float32)}, out=tmp_path / "b.safetensors")  # type: ignore[operator]
    assert not (tmp_path / "b.safetensors").exists()


def test_verbs_are_modules_too() -> None:
    """`from atrous import train` is used as a module, and `atrous.train(...)` as a function, in any order."""
    assert train.train.__module__ == "atrous.train" and callable(train)
    assert evaluate.run.__module__ == "atrous.evaluate" and callable(evaluate)
    assert atrous.train is train and atrous.evaluate is evaluate
    assert atrous.convert.convert.__module__ == "atrous.convert.run"
    assert {"train", "evaluate", "convert"} <= set(dir(atrous))


def test_settings_are_written_as_python_has_them() -> None:
    settings = {
        "data.root": Path("MYDATA"),
        "train": {"steps": 300, "init": None},
        "evaluate.flip": True,
        "augment.crop": (33, 49),
        "model.backbone": "resnet50s",
    }
    assert list(verbs.overrides(settings)) == [
        "data.root=MYDATA",
        "train.steps=300",
        "train.init=null",
        "evaluate.flip=true",
        "augment.crop=[33, 49]",
        "model.backbone=resnet50s",
    ]


def test_mistakes_are_those_of_the_verb(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.step"):
        atrous.train("folder/deeplab_v3plus", out=tmp_path / "run", **{"train.step": 3})  # type: ignore[operator]
    with pytest.raises(ConfigError, match="an override has the form"):
        atrous.train("folder/deeplab_v3plus", out=tmp_path / "run", steps=3)  # type: ignore[operator]
    with pytest.raises(FileNotFoundError):
        atrous.evaluate(tmp_path / "nowhere.safetensors")  # type: ignore[operator]
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_folder_is_where_the_verb_puts_it() -> None:
    assert default_folder("folder/deeplab_v3plus", is_recipe=True, resume=False) == Path("runs/folder/deeplab_v3plus")
    assert default_folder("a/mine.yaml", is_recipe=False, resume=False) == Path("runs/mine")


def test_a_device_may_be_an_object(tmp_path: Path) -> None:
    assert verbs._name(torch.device("cpu")) == "cpu"
    assert verbs._name(None) is None
