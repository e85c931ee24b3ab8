"""What several tests share: a model small enough to train in a second, a finished run of it, datasets on disk."""

import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image as PILImage
from torch import Tensor

from atrous import segmenter, train
from atrous.config import Config, load, override
from atrous.data.label_space import LabelSpace
from atrous.inference import InferenceConfig
from atrous.models import Model
from atrous.run_folder import RunFolder
from atrous.segmenter import Segmenter
from atrous.types import Image
from tests.runs import QUIET

SHARED = Path(__file__).parents[2] / "shared"
RECIPE = "synthetic/deeplab_v3plus_tiny"
NARROW = ("model.aspp.channels=8", "model.decoder.channels=8", "model.decoder.low_level_channels=4")  # a DeepLab v3+
SMALL_MODEL = ("model.pretrained=none", "model.backbone.depth_multiplier=0.1", *NARROW)  # with MobileNetV2
SMALL_PANOPTIC = (  # of a Panoptic-DeepLab
    "model.pretrained=none",
    "model.backbone=resnet_tiny",
    *(
        f"model.{branch}.{name}=8"
        for branch in ("semantic", "instance")
        for name in ("aspp_channels", "decoder_channels", "head_channels")
    ),
    "model.semantic.low_level_channels=4,4",
    "model.instance.low_level_channels=4,4",
)
MOBILENET = ("model.backbone=mobilenet_v2", "model.backbone.depth_multiplier=0.1")
TINY = (
    "model.pretrained=none",
    "model.backbone=resnet_tiny",  # a fifth of MobileNetV2's layers: a training takes two thirds of the time
    *NARROW,
    "data.size=64,96",
    "data.num_train=12",
    "data.num_val=3",
    "augment.crop=49,65",
    "optim.warmup_steps=0",
    "train.batch=2",
    "train.steps=4",
    "train.eval_every=4",
    "train.save_every=2",
    "train.log_every=1",
)

# A deadline measures how busy the machine is: tests run beside one another, and times belong in benchmarks/.
settings.register_profile("atrous", deadline=None)
settings.load_profile("atrous")

OPERATORS: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # a definition lives as long as this


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest come first, then the other slow ones: at the end, a long one would leave all workers but one idle."""
    items.sort(key=lambda item: (not has_more_time(item), item.get_closest_marker("slow") is None))


def has_more_time(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("timeout")
    return marker is not None and marker.args[0] > float(item.config.getini("timeout"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """A second thread costs the tests' small tensors more than it saves, and on one thread sums are reproducible."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Tests send it, and a shell lets what it starts in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def timm() -> Any:  # noqa: ANN401 - a module that need not be installed
    """timm, also beside a torchvision whose compiled part doesn't load: timm only needs its operators' names."""
    return imported_timm()


def imported_timm() -> Any:  # noqa: ANN401
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except ImportError:
        pass
    return pytest.importorskip("timm", reason="timm is not installed: pip install '.[timm]'")


@pytest.fixture
def tiny() -> Callable[..., Config]:
    return tiny_config


def tiny_config(*overrides: str) -> Config:
    """The tiny recipe, smaller still, with overrides."""
    return override(load(RECIPE, TINY), overrides, RECIPE)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of four steps with validations after the second and the fourth. For reading only."""
    return train.train(tiny_config("train.eval_every=2"), tmp_path_factory.mktemp("finished") / "run", console=QUIET)


@pytest.fixture
def small() -> Segmenter:
    return small_segmenter()


def small_segmenter() -> Segmenter:
    """The recipe's network for three classes, each likely somewhere, with a full header."""
    config = tiny_config(*MOBILENET)
    space = LabelSpace(names=("sky", "road", "car"), colors=((0, 0, 255), (99, 99, 99), (255, 0, 0)), ignore=9)
    created = segmenter.create(config.model, label_space=space)
    spread_classes(created.model, torch.from_numpy(noise()).permute(2, 0, 1)[None])
    results = {"scores": {"miou": 0.5}, "protocol": {"flip": "yes"}}
    return created.with_header(
        inference=InferenceConfig(flip=True), training=config, results=results, origin={"source": "model.pth"}
    )


@torch.no_grad()
def spread_classes(model: Model, images: Tensor) -> None:
    """Let every class be the likeliest somewhere in the images, as random weights seldom do."""
    torch.nn.init.normal_(model.get_parameter("classify.weight"), generator=torch.Generator().manual_seed(0))
    deviation, mean = torch.std_mean(model(images).semantic, (0, 2, 3))
    model.get_parameter("classify.weight").div_(deviation.view(-1, 1, 1, 1))
    model.get_parameter("classify.bias").copy_(-mean / deviation)


def noise(height: int = 40, width: int = 50) -> Image:
    """An image of random pixels, the same at each call."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder_data(tmp_path: Path) -> Path:
    """A dataset of the `folder` layout: 6 + 2 images of two classes, the right half of each brighter."""
    return write_folder_data(tmp_path / "mydata")


def write_folder_data(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for index in range(count):
            mask = np.zeros((40, 60), np.uint8)
            mask[:, 30:] = 1
            noise = rng.integers(0, 80, (40, 60, 3), dtype=np.uint8)
            save(root / "images" / split / f"{index}.png", noise + mask[..., None] * np.uint8(150))
            save(root / "masks" / split / f"{index}.png", mask)
    (root / "classes.yaml").write_text("names: [left, right]\n")
    return root


def save(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(pixels).save(path)
