"""semseg's goldens, the formula for their weights, and its networks, written from the specification alone."""

import json
import zlib
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from atrous.convert.filling import original_shapes
from atrous.convert.layouts import PYTORCH
from atrous.convert.systems.semseg.names import rules
from atrous.models import Model
from atrous.ops import Direction, point_wise_attention_loop
from tests.reference.layers import Layers

GOLDENS = Path(__file__).parents[1] / "goldens" / "semseg"
CASES = sorted(path.stem.removeprefix("semseg_") for path in GOLDENS.glob("*.npz"))
Shape = tuple[int, ...]
Arrays = Mapping[str, NDArray[np.float32]]


class Golden(NamedTuple):
    image: Tensor  # [1, 3, H, W] uint8
    logits: Tensor  # [1, C, h, w], at the network's own grid
    labels: NDArray[np.uint8]  # [H, W] or [h, w]
    args: dict[str, Any]  # of the original's constructor
    shapes: dict[str, Shape]
    salt: int


@cache
def golden(case: str) -> Golden:
    with np.load(GOLDENS / f"semseg_{case}.npz") as file:
        meta = json.loads(str(file["meta"]))
        image = torch.from_numpy(file["image"]).permute(0, 3, 1, 2)
        logits, labels = torch.from_numpy(file["logits"]), file["labels"][0]
    shapes = {name: tuple(shape) for name, shape in meta["variables"]}
    return Golden(image, logits, labels, meta["args"], shapes, meta["salt"])


@lru_cache(maxsize=400)  # networks share their backbones' names
def seeded(name: str, shape: Shape, salt: int = 0) -> NDArray[np.float32]:
    """The formula of goldens/README.md."""
    random, leaf = np.random.RandomState((zlib.crc32(name.encode()) + salt) % 2**32), name.rpartition(".")[2]
    n: NDArray[np.float32] = random.standard_normal(shape).astype(np.float32)
    if len(shape) == 4:
        return n * np.float32(np.sqrt(1.5 / np.prod(shape[1:])))
    if leaf == "weight":
        return 1 + np.float32(0.1) * n
    return np.exp(np.float32(0.2) * n) if leaf == "running_var" else np.float32(0.1) * n


def seeded_weights(shapes: Mapping[str, Shape], salt: int = 0) -> Arrays:
    return {name: seeded(name, shape, salt) for name, shape in shapes.items()}


def listing(model: Model) -> dict[str, Shape]:
    """Name and shape of each weight, under semseg's names."""
    return original_shapes(model, rules(model.config), PYTORCH)


# ---- networks


class ReferenceNetwork(Layers):
    """The original's networks in inference, layer by layer, with weights by name."""

    def __init__(self, weights: Arrays, args: Mapping[str, Any]) -> None:
        super().__init__(weights)
        self.args = args

    def logits(self, image: Tensor) -> Tensor:  # [B, 3, H, W] in 0..255 -> [B, C, h, w]
        x = self.backbone(self.normalized(image))
        x = self.pyramid(x) if "bins" in self.args else self.attention(x)
        return self.conv("cls.4", self.conv_norm("cls.0", "cls.1", x, padding=1))

    def backbone(self, x: Tensor) -> Tensor:
        for index in range(3):
            x = self.conv_norm(f"layer0.{3 * index}", f"layer0.{3 * index + 1}", x, stride=1 if index else 2, padding=1)
        x = F.max_pool2d(x, 3, 2, 1)
        blocks = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[self.args["layers"]]
        for layer, count in enumerate(blocks, 1):
            for block in range(count):
                stride = 2 if layer == 2 and block == 0 else 1
                x = self.block(f"layer{layer}.{block}", x, stride, {3: 2, 4: 4}.get(layer, 1))
        return x

    def block(self, name: str, x: Tensor, stride: int, rate: int) -> Tensor:
        y = self.conv_norm(f"{name}.conv1", f"{name}.bn1", x)
        y = self.conv_norm(f"{name}.conv2", f"{name}.bn2", y, stride=stride, padding=rate, dilation=rate)
        y = self.conv_norm(f"{name}.conv3", f"{name}.bn3", y, relu=False)
        if name.endswith(".0"):
            x = self.conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", x, relu=False, stride=stride)
        return (x + y).relu()

    def pyramid(self, x: Tensor) -> Tensor:
        levels = [x]
        for index, bins in enumerate(self.args["bins"]):
            level = self.conv_norm(f"ppm.features.{index}.1", f"ppm.features.{index}.2", F.adaptive_avg_pool2d(x, bins))
            levels.append(F.interpolate(level, x.shape[-2:], mode="bilinear", align_corners=True))
        return torch.cat(levels, 1)

    def attention(self, x: Tensor) -> Tensor:
        args, size = self.args, x.shape[-2:]
        branches: dict[int, tuple[tuple[str, Direction], ...]] = {
            0: (("", "collect"),),
            1: (("", "distribute"),),
            2: (("", "collect"), ("_p", "distribute")),
        }
        received = [self.received(x, suffix, direction) for suffix, direction in branches[args["psa_type"]]]
        y = self.conv_norm("psa.proj.0", "psa.proj.1", torch.cat(received, 1))
        return torch.cat([x, F.interpolate(y, size, mode="bilinear", align_corners=True)], 1)

    def received(self, x: Tensor, suffix: str, direction: Direction) -> Tensor:
        args = self.args
        x = self.conv_norm(f"psa.reduce{suffix}.0", f"psa.reduce{suffix}.1", x)
        shrunk = [(side - 1) // args["shrink_factor"] + 1 for side in x.shape[-2:]]
        x = F.interpolate(x, shrunk, mode="bilinear", align_corners=True)
        mask = self.conv_norm(f"psa.attention{suffix}.0", f"psa.attention{suffix}.1", x)
        mask = self.conv(f"psa.attention{suffix}.3", mask)
        mask_size = None if args["compact"] else (args["mask_h"], args["mask_w"])
        softmax = args.get("psa_softmax", True)
        factor: float = args.get("normalization_factor", 1.0) or args["mask_h"] * args["mask_w"]
        return point_wise_attention_loop(x, mask, mask_size, direction, softmax=softmax) / factor
