"""torchvision's and mmsegmentation's networks, layer by layer, from what is published about them alone."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1
BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
RATES = (12, 24, 36)
Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Arrays = dict[str, NDArray[np.float32]]


# ---- names and shapes


def conv(name: str, out: int, inp: int, kernel: int = 1, *, bias: bool = False) -> Shapes:
    return {f"{name}.weight": (out, inp, kernel, kernel)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (width,) for leaf in leaves} | {f"{name}.num_batches_tracked": ()}


def resnet(backbone: str, stem: tuple[int, ...] = (), prefix: str = "") -> Shapes:
    """A single 7x7, or 3x3 convolutions of the widths in `stem`."""
    shapes = _stem(stem, prefix)
    is_deep = backbone not in ("resnet18", "resnet34")
    inp = stem[-1] if stem else 64
    for layer, count in enumerate(BLOCKS[backbone], 1):
        for block in range(count):
            shapes |= _unit(f"{prefix}layer{layer}.{block}", inp, 32 << layer, deep=is_deep)
            inp = (32 << layer) * (4 if is_deep else 1)
    return shapes


def _stem(stem: tuple[int, ...], prefix: str) -> Shapes:
    if not stem:
        return conv(f"{prefix}conv1", 64, 3, 7) | norm(f"{prefix}bn1", 64)
    shapes: Shapes = {}
    for index, (inp, out) in enumerate(zip((3, *stem), stem, strict=False)):
        shapes |= conv(f"{prefix}stem.{3 * index}", out, inp, 3) | norm(f"{prefix}stem.{3 * index + 1}", out)
    return shapes


def _unit(name: str, inp: int, width: int, *, deep: bool) -> Shapes:
    kernels, widths = ((1, 3, 1), (width, width, 4 * width)) if deep else ((3, 3), (width, width))
    shapes: Shapes = {}
    for index, (kernel, first, out) in enumerate(zip(kernels, (inp, *widths), widths, strict=False), 1):
        shapes |= conv(f"{name}.conv{index}", out, first, kernel) | norm(f"{name}.bn{index}", out)
    if inp != widths[-1]:
        shapes |= conv(f"{name}.downsample.0", widths[-1], inp) | norm(f"{name}.downsample.1", widths[-1])
    return shapes


def classifier(backbone: str, num_classes: int = 1000) -> Shapes:
    width = 512 if backbone in ("resnet18", "resnet34") else 2048
    return resnet(backbone) | {"fc.weight": (num_classes, width), "fc.bias": (num_classes,)}


def fcn_head(name: str, inp: int, num_classes: int) -> Shapes:
    mid = inp // 4
    return conv(f"{name}.0", mid, inp, 3) | norm(f"{name}.1", mid) | conv(f"{name}.4", num_classes, mid, bias=True)


def fcn(backbone: str, num_classes: int = 21, *, auxiliary: bool = True) -> Shapes:
    second = fcn_head("aux_classifier", 1024, num_classes) if auxiliary else {}
    return resnet(backbone, prefix="backbone.") | fcn_head("classifier", 2048, num_classes) | second


def deeplab_v3(backbone: str, num_classes: int = 21, *, auxiliary: bool = True) -> Shapes:
    second = fcn_head("aux_classifier", 1024, num_classes) if auxiliary else {}
    shapes = resnet(backbone, prefix="backbone.")
    for index in range(4):
        shapes |= conv(f"classifier.0.convs.{index}.0", 256, 2048, 3 if index else 1)
        shapes |= norm(f"classifier.0.convs.{index}.1", 256)
    shapes |= conv("classifier.0.convs.4.1", 256, 2048) | norm("classifier.0.convs.4.2", 256)
    shapes |= conv("classifier.0.project.0", 256, 1280) | norm("classifier.0.project.1", 256)
    shapes |= conv("classifier.1", 256, 256, 3) | norm("classifier.2", 256)
    return shapes | conv("classifier.4", num_classes, 256, bias=True) | second


def pspnet(backbone: str, stem: tuple[int, ...], num_classes: int = 19, width: int = 512) -> Shapes:
    """mmsegmentation's, whose heads are `width` and half as wide."""
    shapes = resnet(backbone, stem, "backbone.")
    for index in range(4):
        shapes |= conv(f"decode_head.psp_modules.{index}.1.conv", 512, 2048)
        shapes |= norm(f"decode_head.psp_modules.{index}.1.bn", 512)
    shapes |= conv("decode_head.bottleneck.conv", width, 4096, 3) | norm("decode_head.bottleneck.bn", width)
    shapes |= conv("auxiliary_head.convs.0.conv", width // 2, 1024, 3) | norm("auxiliary_head.convs.0.bn", width // 2)
    shapes |= conv("decode_head.conv_seg", num_classes, width, bias=True)
    return shapes | conv("auxiliary_head.conv_seg", num_classes, width // 2, bias=True)


def random_weights(shapes: Mapping[str, Shape]) -> Arrays:
    """Activations keep their magnitude, and batch norms have an effect."""
    generator = torch.Generator().manual_seed(0)
    arrays = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, tensor in arrays.items():
        leaf = name.rpartition(".")[2]
        if tensor.ndim > 1:
            tensor *= (1.5 / tensor[0].numel()) ** 0.5
        elif leaf == "running_var":
            tensor.mul_(0.2).exp_()
        else:
            tensor.mul_(0.1).add_(float(leaf == "weight"))
    return {name: tensor.numpy() for name, tensor in arrays.items()}


# ---- forward


class Logits(NamedTuple):
    """At the size of the image."""

    main: Tensor
    auxiliary: Tensor | None


class ReferenceNetwork:
    """Segmentation networks at output stride 8: the first unit of a stage keeps the rate of the stage before."""

    def __init__(self, weights: Arrays, backbone: str, stem: tuple[int, ...] = (), *, aligned: bool = False) -> None:
        self.weights = {name: torch.from_numpy(array) for name, array in weights.items()}
        self.blocks, self.stem, self.aligned = BLOCKS[backbone], stem, aligned

    def classes(self, image: Tensor) -> Tensor:  # [B, 3, H, W] in 0..255 -> [B, C]
        *_, c5 = self.stages("", image, strides=(1, 2, 2, 2), rates=(1, 1, 1, 1))
        return F.linear(c5.mean((2, 3)), self.weights["fc.weight"], self.weights["fc.bias"])

    def fcn(self, image: Tensor) -> Logits:
        *_, c4, c5 = self.stages("backbone.", image)
        return self.enlarged(image, self.head("classifier", c5), c4)

    def deeplab_v3(self, image: Tensor) -> Logits:
        *_, c4, c5 = self.stages("backbone.", image)
        maps = [self.conv_norm("classifier.0.convs.0.0", "classifier.0.convs.0.1", c5)]
        for index, rate in enumerate(RATES, 1):
            name = f"classifier.0.convs.{index}"
            maps.append(self.conv_norm(f"{name}.0", f"{name}.1", c5, padding=rate, dilation=rate))
        mean = self.conv_norm("classifier.0.convs.4.1", "classifier.0.convs.4.2", F.adaptive_avg_pool2d(c5, 1))
        maps.append(self.resize(mean, c5))
        y = self.conv_norm("classifier.0.project.0", "classifier.0.project.1", torch.cat(maps, 1))
        y = self.conv_norm("classifier.1", "classifier.2", y, padding=1)
        return self.enlarged(image, self.conv("classifier.4", y), c4)

    def pspnet(self, image: Tensor) -> Logits:
        *_, c4, c5 = self.stages("backbone.", image)
        maps = [c5]
        for index, bins in enumerate((1, 2, 3, 6)):
            name = f"decode_head.psp_modules.{index}.1"
            maps.append(self.resize(self.conv_norm(f"{name}.conv", f"{name}.bn", F.adaptive_avg_pool2d(c5, bins)), c5))
        y = self.conv_norm("decode_head.bottleneck.conv", "decode_head.bottleneck.bn", torch.cat(maps, 1), padding=1)
        second = self.conv_norm("auxiliary_head.convs.0.conv", "auxiliary_head.convs.0.bn", c4, padding=1)
        second = self.resize(self.conv("auxiliary_head.conv_seg", second), image)
        return Logits(self.resize(self.conv("decode_head.conv_seg", y), image), second)

    def enlarged(self, image: Tensor, main: Tensor, c4: Tensor) -> Logits:
        has_second = "aux_classifier.0.weight" in self.weights
        second = self.resize(self.head("aux_classifier", c4), image) if has_second else None
        return Logits(self.resize(main, image), second)

    def head(self, name: str, x: Tensor) -> Tensor:
        return self.conv(f"{name}.4", self.conv_norm(f"{name}.0", f"{name}.1", x, padding=1))

    def resize(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=self.aligned)

    def conv(self, name: str, x: Tensor, **how: int) -> Tensor:
        y: Tensor = F.conv2d(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), **how)
        return y

    def conv_norm(self, conv: str, norm: str, x: Tensor, *, relu: bool = True, **how: int) -> Tensor:
        mean, var, weight, bias = (
            self.weights[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        y = F.batch_norm(self.conv(conv, x, **how), mean, var, weight, bias, eps=1e-5)
        return y.relu() if relu else y

    def stages(
        self,
        prefix: str,
        image: Tensor,
        strides: tuple[int, ...] = (1, 2, 1, 1),
        rates: tuple[int, ...] = (1, 1, 2, 4),
    ) -> Iterator[Tensor]:
        mean, std = (torch.tensor(color).view(3, 1, 1) * 255 for color in (MEAN, STD))
        x = F.max_pool2d(self.opened(prefix, (image.float() - mean) / std), 3, 2, 1)
        before = 1
        for layer, (count, stride, rate) in enumerate(zip(self.blocks, strides, rates, strict=True), 1):
            for block in range(count):
                first = block == 0
                x = self.unit(f"{prefix}layer{layer}.{block}", x, stride if first else 1, before if first else rate)
            before = rate
            yield x

    def opened(self, prefix: str, x: Tensor) -> Tensor:
        if not self.stem:
            return self.conv_norm(f"{prefix}conv1", f"{prefix}bn1", x, stride=2, padding=3)
        for index in range(3):
            name = f"{prefix}stem."
            x = self.conv_norm(f"{name}{3 * index}", f"{name}{3 * index + 1}", x, stride=1 if index else 2, padding=1)
        return x

    def unit(self, name: str, x: Tensor, stride: int, rate: int) -> Tensor:
        if f"{name}.conv3.weight" in self.weights:
            y = self.conv_norm(f"{name}.conv1", f"{name}.bn1", x)
            y = self.conv_norm(f"{name}.conv2", f"{name}.bn2", y, stride=stride, padding=rate, dilation=rate)
            y = self.conv_norm(f"{name}.conv3", f"{name}.bn3", y, relu=False)
        else:
            y = self.conv_norm(f"{name}.conv1", f"{name}.bn1", x, stride=stride, padding=1)
            y = self.conv_norm(f"{name}.conv2", f"{name}.bn2", y, padding=1, relu=False)
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", x, relu=False, stride=stride)
        return (x + y).relu()
