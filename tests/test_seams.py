"""A new task, model, runtime, backbone family or layout is one file and one line in its table, and nothing else.

The additions below are made to a copy of the package, and used there from the command line.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import atrous

PACKAGE = Path(atrous.__file__).parent


class Addition(NamedTuple):
    file: str  # the new file, in the package
    text: str
    table: str  # the file with the table
    head: str  # the line that opens the table
    row: str
    source: str  # what the row needs imported


TASK = Addition(
    "tasks/shares.py",
    '''
"""How large a share of the image each class has."""

import torch
from atrous.settings import Settings
from atrous.tasks.contract import Figures, Labels, Metric, Result, Table, Task


class LossConfig(Settings):
    strength: float = 1.0


class DecodeConfig(Settings):
    floor: float = 0.0


class Objective:
    def __init__(self, config, num_classes):
        self.config, self.num_classes = config, num_classes

    def targets(self, batch):
        one_hot = torch.nn.functional.one_hot(batch.semantic.long(), 256)[..., : self.num_classes]
        return {"shares": one_hot.float().mean((1, 2))}

    def counts(self, targets, step):
        return None

    def terms(self, outputs, targets, counts, step):
        return {"shares": self.config.strength * (outputs.classes.softmax(1) - targets["shares"]).square().mean()}


def objective(config, facts, heads, data):
    return Objective(config, data.space.num_classes)


def decode(seen, space, config):
    return [Labels(classes=shares.clamp_min(config.floor)) for shares in seen.outputs.classes.softmax(1)]


def statistic(labels, sample, space):
    truth = torch.bincount(torch.from_numpy(sample.semantic).flatten(), minlength=256)[: space.num_classes]
    return torch.cat([(labels.classes - truth / truth.sum()).abs(), torch.ones(1)])


def report(total, space):
    errors = (total[:-1] / total[-1]).tolist()
    rows = {name: (error,) for name, error in zip(space.names, errors)}
    return Figures({"closeness": 1 - sum(errors) / len(errors)}, {"closeness": "closeness"}, Table(("error",), rows))


SHARES = Task(
    loss=LossConfig,
    decoding=DecodeConfig,
    objective=objective,
    decode=decode,
    metrics={"closeness": Metric(statistic, report)},
    paint=lambda image, labels, space, alpha: image,
    panels=lambda sample, labels, space: [("Picture", sample.image)],
    legend={},
    results={"shares": Result(".txt", lambda labels, space: repr(labels.classes.tolist()).encode())},
    needs=("semantic",),
)
''',
    "tasks/__init__.py",
    "TASKS: dict[str, Task] = {",
    '"shares": SHARES,',
    "from atrous.tasks.shares import SHARES",
)

MODEL = Addition(
    "models/pooled.py",
    '''
"""The mean of c5, and a layer on it."""

from typing import Literal

from torch import nn
from atrous.backbones import AnyBackboneConfig
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.models.contract import Model, ModelConfig
from atrous.types import Outputs


class Pooled(Model):
    task = "shares"

    class Config(ModelConfig):
        name: Literal["pooled"] = "pooled"
        backbone: AnyBackboneConfig = MobileNetV2.Config()

    def __init__(self, config, num_classes):
        super().__init__(config, num_classes)
        self.classify = nn.Linear(self.backbone.channels["c5"], num_classes)

    def forward(self, images, scale=1.0):
        return Outputs(classes=self.classify(self.features(images)["c5"].mean((2, 3))))
''',
    "models/__init__.py",
    "MODELS: dict[str, type[Model]] = {",
    '"pooled": Pooled,',
    "from atrous.models.pooled import Pooled",
)

FAMILY = Addition(
    "backbones/plain.py",
    '''
"""Five strided convolutions."""

from typing import Literal

from torch import nn
from atrous.backbones.contract import Backbone, BackboneConfig


class Plain(Backbone):
    mean, std = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)

    class Config(BackboneConfig):
        name: Literal["plain_5"]
        width: int = 8

        @property
        def output_strides(self):
            return (32,)

    def __init__(self, config, output_stride):
        super().__init__(config, output_stride)
        sizes = [3] + [config.width] * 5
        pairs = zip(sizes, sizes[1:])
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in pairs)
        self.channels = {f"c{i}": config.width for i in range(1, 6)}
        self.strides = {f"c{i}": 2**i for i in range(1, 6)}

    def forward(self, images):
        features = {}
        for i, stage in enumerate(self.stages, start=1):
            images = features[f"c{i}"] = stage(images)
        return features
''',
    "backbones/__init__.py",
    "FAMILIES: dict[str, type[Backbone]] = {",
    '"plain": Plain,',
    "from atrous.backbones.plain import Plain",
)

LAYOUT = Addition(
    "data/stripes.py",
    '''
"""Images whose left half is one class and whose right half is another."""

from typing import Literal

import numpy as np
from atrous.data.contract import DataConfig, Layout
from atrous.data.label_space import LabelSpace
from atrous.types import Sample


class Config(DataConfig):
    format: Literal["stripes"] = "stripes"
    count: int = 4


def label_space(config):
    return LabelSpace(names=("left", "right"))


def samples(config, split):
    semantic = np.repeat([[0, 1]], 24, axis=1).repeat(48, axis=0).astype(np.uint8)
    image = np.repeat(semantic[..., None] * np.uint8(200), 3, axis=2)
    return [Sample(f"{split}_{index}", image, semantic) for index in range(config.count)]


LAYOUT = Layout(Config, samples, label_space)
''',
    "data/__init__.py",
    "FORMATS: dict[str, Layout] = {",
    '"stripes": stripes.LAYOUT,',
    "from atrous.data import stripes",
)

RUNTIME = Addition(
    "runtimes/constant.py",
    '''
"""A file of JSON: metadata, and the same logits for every pixel."""

import json

import torch
from atrous.runtimes.contract import Runtime
from atrous.types import Facts, Outputs


class Constant:
    def __init__(self, facts, logits):
        self.facts, self.logits = facts, logits

    def __call__(self, images, scale=1.0):
        grid = [-(-side // 16) for side in images.shape[-2:]]
        return Outputs(torch.tensor(self.logits).view(1, -1, 1, 1).expand(len(images), -1, *grid))


def open_file(path, config, num_classes, device):
    return Constant(Facts(*json.loads(path.read_text())["facts"]), json.loads(path.read_text())["logits"])


CONSTANT = Runtime(".constant", lambda path: json.loads(path.read_text())["metadata"], open_file)
''',
    "runtimes/__init__.py",
    "RUNTIMES: dict[str, Runtime] = {",
    '"constant": CONSTANT,',
    "from atrous.runtimes.constant import CONSTANT",
)

WRITER = Addition(
    "runtimes/boxed.py",
    '''
"""A zip archive with the metadata, and the graph as PyTorch has it."""

import io
import json
import zipfile

import torch
from atrous.deployed import traced
from atrous.runtimes.contract import Runtime, Signature, opened


def write(deployment, path):
    graph = io.BytesIO()
    torch.export.save(traced(deployment, named=True), graph)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("box.json", json.dumps(dict(deployment.metadata)))
        archive.writestr("graph", graph.getvalue())


def read_metadata(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("box.json"))


def open_file(path, config, num_classes, device):
    with zipfile.ZipFile(path) as archive:
        module = torch.export.load(io.BytesIO(archive.read("graph"))).module()

    def run(images, names):
        outputs = module(torch.from_numpy(images).byte())
        return [outputs[name].numpy() for name in names]

    return opened(path, read_metadata(path), Signature((64, 96), {"labels": None, "logits": num_classes}), run)


BOXED = Runtime(".box", read_metadata, open_file, write=write, recognises=lambda start: b"box.json" in start)
''',
    "runtimes/__init__.py",
    "RUNTIMES: dict[str, Runtime] = {",
    '"boxed": BOXED,',
    "from atrous.runtimes.boxed import BOXED",
)

TRAINING = (
    "augment.crop=33,33",
    "train.batch=2",
    "train.steps=2",
    "train.eval_every=2",
    "train.log_every=1",
    "optim.warmup_steps=0",
)
SMALL = ("data.size=64,96", "data.num_train=4", "data.num_val=2", "model.backbone.depth_multiplier=0.1")
RECIPE = "synthetic/deeplab_v3plus_tiny"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package and all additions: in each table one line, and its import."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "atrous", ignore=shutil.ignore_patterns("__pycache__"))
    for addition in (TASK, MODEL, FAMILY, LAYOUT, RUNTIME, WRITER):
        (folder / "atrous" / addition.file).write_text(addition.text)
        table = folder / "atrous" / addition.table
        text = table.read_text()
        assert text.count(addition.head) == 1
        changed = text.replace(addition.head, f"{addition.source}\n{addition.head}\n    {addition.row}")
        table.write_text(changed)
    return folder


def run(package: Path, *commands: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    """The commands of `atrous`, one after the other in one process; the highest exit code is the process's."""
    script = (
        "import json, sys, torch; torch.set_num_threads(1); from atrous import cli; codes = "
        "[cli.run(command) for command in json.loads(sys.argv[1])]; print('codes', codes); sys.exit(max(codes))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(package)},
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_task_and_its_model(package: Path) -> None:
    best = "shares/best.safetensors"
    settings = ("model.name=pooled", "loss.strength=2", "decode.floor=0.01", *SMALL, *TRAINING)
    done = run(
        package,
        ("train", RECIPE, *settings, "--out", "shares", "--workers", "0"),
        ("evaluate", best, "--json", "shares.json", "--report", "shares.html", "--workers", "0"),
        ("recipes", "--schema", "schema.json"),
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (package / "shares" / "metrics.jsonl").read_text().splitlines()]
    assert [list(row["scores"]) for row in rows if "scores" in row] == [["closeness"]]
    figures = json.loads((package / "shares.json").read_text())
    assert 0 < figures["scores"]["closeness"] < 1
    assert "error" in figures["classes"]["road"]
    assert "closeness 0." in done.stdout
    page = (package / "shares.html").read_text()
    assert "closeness" in page and "Picture" in page and "Confusion" not in page
    assert '"strength"' in (package / "schema.json").read_text()
    (package / "image.png").write_bytes(next((PACKAGE.parent / "docs" / "images").glob("*")).read_bytes())
    done = run(package, ("predict", best, "image.png", "--out", "predicted"))
    assert done.returncode == 0, done.stderr
    assert len(json.loads((package / "predicted" / "shares" / "image.txt").read_text())) == 8
    assert (package / "predicted" / "overlays" / "image.jpg").exists()


def test_settings_of_another_task_are_refused(package: Path) -> None:
    done = run(package, ("train", RECIPE, "model.name=pooled", "loss.hard_pixels=0.5", "--out", "refused"))
    assert done.returncode == 2
    assert "loss.hard_pixels: unknown key" in done.stderr
    assert "loss.strength" in done.stderr


def test_a_backbone_family_and_a_layout(package: Path) -> None:
    settings = ("model.name=deeplab_v3", "model.output_stride=32", "data.format=stripes", *TRAINING)
    own = ("model.backbone=plain_5", "model.backbone.width=6", "data.count=3")
    done = run(
        package,
        ("train", RECIPE, *settings, *own, "--out", "stripes", "--workers", "1"),
        ("train", RECIPE, *settings, *own, "model.backbone.widht=7", "--out", "refused"),
        ("train", RECIPE, "model.name=fcn", *settings[1:], *own, "--out", "fcn", "--workers", "0"),
        ("recipes", "--schema", "schema_of_families.json"),
    )
    assert "codes [0, 2, 0, 0]" in done.stdout, done.stderr
    assert '"plain_5"' in (package / "schema_of_families.json").read_text()
    assert "fcn, plain_5" in done.stdout
    assert "model.backbone.widht: unknown key; did you mean model.backbone.width?" in done.stderr
    assert "plain_5" in done.stdout and "stripes: 3 images" in done.stdout


def test_a_runtime(package: Path) -> None:
    segmenter = atrous.create("deeplab_v3", backbone="mobilenet_v2", num_classes=8)
    stored = {
        "metadata": {"atrous_format": "2", **segmenter.header.to_metadata()},
        "facts": segmenter.network.facts,
        "logits": [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    }
    (package / "model.constant").write_text(json.dumps(stored))
    data = ("data.format=synthetic", "data.num_val=2", "data.size=64,96")
    done = run(
        package,
        ("evaluate", "model.constant", *data, "evaluate.flip=true", "--json", "constant.json", "--report", "c.html"),
        ("evaluate", "model.constant", *data, "evaluate.output_stride=8"),
    )
    assert "codes [0, 2]" in done.stdout, done.stderr
    figures = json.loads((package / "constant.json").read_text())
    predicted = [sum(column) for column in zip(*figures["confusion"], strict=True)]
    assert [index for index, pixels in enumerate(predicted) if pixels] == [2]
    assert "an exported network has no model" in done.stderr


def test_a_runtime_that_writes(package: Path) -> None:
    model = package / "boxed.safetensors"
    atrous.create("deeplab_v3", backbone="mobilenet_v2", num_classes=8).save(model)
    data = ("data.format=synthetic", "data.num_val=2", "data.size=64,96")
    done = run(
        package,
        ("export", model.name, "--to", "boxed", "--size", "64,96"),
        ("evaluate", "boxed.box", *data, "evaluate.mode=whole", "--json", "boxed.json", "--workers", "0"),
        ("export", model.name, "--to", "box"),
        ("export", "--help"),
    )
    assert "codes [0, 0, 2, 0]" in done.stdout, done.stderr
    assert "wrote boxed.box" in done.stdout and "boxed" in done.stdout.partition("--to")[2]
    assert json.loads((package / "boxed.json").read_text())["protocol"]["runtime"] == "boxed"
    assert "--to box: expected boxed, onnx" in done.stderr
