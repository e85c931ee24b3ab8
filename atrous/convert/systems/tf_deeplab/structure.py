"""The names of a graph's layers, by the order and shapes of its convolutions: converters rename and drop them.

A backbone's layers are those of a network of our own that takes its kernels in the same order, from the same inputs; a
head's layers follow from what they take.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from atrous.backbones import BACKBONES, BackboneConfig, build_backbone
from atrous.convert.arrays import Shape
from atrous.convert.flow.operations import Operation, Operations, flow_of
from atrous.convert.flow.traced import recorded
from atrous.convert.flow.values import Flow, Layer, Value, components, layer_key
from atrous.convert.systems.tf_deeplab.layout import TENSORFLOW
from atrous.convert.systems.tf_deeplab.network import planned, widths_near
from atrous.convert.systems.tf_deeplab.scopes import NAS, ROOTS, backbone_rules
from atrous.types import Size

LAST = 1280  # channels of the last convolution of MobileNet-EdgeTPU at any width, as published
TRACED = (257, 257)  # what a backbone computes doesn't depend on the images' size
HEADS = re.compile(
    r"aspp\d+(_(depth|point)wise)?|image_pooling|concat_projection|(decoder|meta_architecture)/.+|logits/.+"
)
LEAST = {"resnet_v1_18": 20, "resnet_v1_50": 53, "resnet_v1_101": 104, "xception": 80}  # layers of a backbone
DEPTHWISE, POINTWISE = "depthwise_weights", "weights"
C5 = "c5"


class Kernel(NamedTuple):
    shape: Shape  # in TensorFlow's order of axes
    is_depthwise: bool


Kernels = Mapping[str, Kernel]  # by the name of the weights


def are_known(scopes: Sequence[str]) -> bool:
    """Whether these are names of TensorFlow DeepLab's layers, each of one layer."""
    roots = {root.scope for root in ROOTS.values()}
    return len(set(scopes)) == len(scopes) and all(
        scope.partition("/")[0] in roots or HEADS.fullmatch(scope) for scope in scopes
    )


def names_by_structure(graph: Operations, kernels: Kernels, size: Size) -> dict[str, str]:
    """TensorFlow DeepLab's name of each layer's weights, by that in the file; none: no network has these layers."""
    for config, stride in _candidates(kernels):
        template = _template(config, stride)
        match = _matched(graph, kernels, template, size)
        if len(match.names) < len(template.layers):
            continue
        head = _head_names(match.flow, kernels, template, ROOTS[config.name].scope)
        if len(match.names) + len(head) == len(match.flow.layers):
            return match.names | head
    return {}


# ---- the backbone


class Template(NamedTuple):
    layers: dict[str, tuple[str, Kernel]]  # the key of the input, and the kernel, by the name of the weights
    places: dict[str, str]  # what a head takes, by the key: c5, and a decoder's taps


class Match(NamedTuple):
    flow: Flow  # under the names of the backbone, and the file's where there is none
    names: dict[str, str]


def _candidates(kernels: Kernels) -> Iterator[tuple[BackboneConfig, int]]:
    """The backbones, with an output stride, whose kernels all occur."""
    present = Counter(kernels.values())
    stem = next((kernel.shape[-1] for kernel in kernels.values() if kernel.shape[2] == 3), 0)
    for row in _rows(kernels):
        for fields in _settings(row, stem):
            config = BACKBONES[row].Config.model_validate({"name": row, **fields})
            stride = config.output_strides[-1]
            if not Counter(_kernels_of(config, stride).values()) - present:
                yield from ((config, one) for one in config.output_strides)


def _rows(kernels: Kernels) -> Iterator[str]:
    """Those that may be: to build a network takes a while."""
    is_separable = any(kernel.is_depthwise for kernel in kernels.values())
    for row, root in ROOTS.items():
        least = next((count for family, count in LEAST.items() if row.startswith(family)), 0)
        if root.rules is not NAS and least <= len(kernels) and is_separable != row.startswith("resnet"):
            yield row


def _settings(row: str, stem: int) -> Iterator[Mapping[str, object]]:
    fields = BACKBONES[row].Config.model_fields
    for width in widths_near(row, stem) if "depth_multiplier" in fields else ():
        for name, values in {"divisible_by": (None, 8), "last_channels": (None, LAST)}.items():
            if name in fields:
                yield from ({"depth_multiplier": width, name: value} for value in values)
        if not {"divisible_by", "last_channels"} & fields.keys():
            yield {"depth_multiplier": width}
    if "depth_multiplier" not in fields:
        yield {}


def _kernels_of(config: BackboneConfig, stride: int) -> dict[str, Kernel]:
    shapes = planned(config, stride).shapes
    return {name: Kernel(shape, name.endswith(DEPTHWISE)) for name, shape in shapes.items() if len(shape) == 4}


@lru_cache(maxsize=64)
def _template(config: BackboneConfig, stride: int) -> Template:
    with torch.device("meta"):
        network = build_backbone(config, stride).eval()
    flow, features = recorded(network, TENSORFLOW.names(network, backbone_rules(config.name)), TRACED)
    kernels = _kernels_of(config, stride)
    layers = {name: (runs[0].input.key, kernels[name]) for name, runs in flow.layers.items()}
    return Template(layers, {x.key: name for name, x in features.items() if name == C5 or name.startswith("low_level")})


def _matched(graph: Operations, kernels: Kernels, template: Template, size: Size) -> Match:
    """Each convolution is the template's that takes the same and has the same kernel; the first, of several."""
    waiting: defaultdict[tuple[str, Kernel], list[str]] = defaultdict(list)
    for name, place in template.layers.items():
        waiting[place].append(name)
    names: dict[str, str] = {}

    def name_of(operation: Operation, x: Value) -> str:
        queue = waiting[x.key, kernels[operation.weights]] if operation.weights in kernels else []
        if operation.weights not in names and queue:
            names[operation.weights] = queue.pop(0)
        return names.get(operation.weights, operation.weights)

    flow = flow_of(graph, size, name_of)
    return Match(flow, names)


# ---- the head


class Part(NamedTuple):
    """A layer of the head, under the file's name."""

    name: str
    layer: Layer
    kernel: Kernel
    takes: frozenset[str]  # names of layers and places

    @property
    def is_pooled(self) -> bool:
        return self.layer.input.op.startswith("mean")

    @property
    def is_point(self) -> bool:
        return self.layer.kernel == (1, 1) and not self.kernel.is_depthwise


def _head_names(flow: Flow, kernels: Kernels, template: Template, root: str) -> dict[str, str]:
    parts = _parts(flow, kernels, template)
    if not parts:
        return {}
    is_classifier = parts[-1].is_pooled and len(parts) <= 2
    scopes = _classifier(parts, root) if is_classifier else _segmenting(parts)
    return {
        part.name: f"{scopes[part.name]}/{DEPTHWISE if part.kernel.is_depthwise else POINTWISE}"
        for part in parts
        if part.name in scopes
    }


def _parts(flow: Flow, kernels: Kernels, template: Template) -> list[Part]:
    places = {layer_key(name): name for name in flow.layers} | template.places
    rest = {name: runs[0] for name, runs in flow.layers.items() if name not in template.layers}
    return [
        Part(
            name,
            layer,
            kernels[name],
            frozenset(places[x.key] for x in components(layer.input, ends=places) if x.key in places),
        )
        for name, layer in rest.items()
        if name in kernels
    ]


def _classifier(parts: list[Part], root: str) -> dict[str, str]:
    """The layer that widens c5, if there is one, and the logits."""
    *widen, logits = parts
    is_slim = root.startswith("Mobilenet")
    last = f"{root}/Logits/Conv2d_1c_1x1" if is_slim else f"{root}/logits"
    return {**{part.name: f"{root}/Conv_1" for part in widen}, logits.name: last}


def _segmenting(parts: list[Part]) -> dict[str, str]:
    scopes: dict[str, str] = {}
    if all(part.takes == {C5} and not part.is_pooled for part in parts):  # DeepLab v2
        return {part.name: "logits/semantic" + (f"_{i}" if i else "") for i, part in enumerate(parts)}
    branches = _branches(parts)
    for part in parts:
        taken = {scopes.get(name, name) for name in part.takes}
        scope = _scope(part, taken, branches, is_last=part is parts[-1])
        if scope is not None and scope not in scopes.values():
            scopes[part.name] = scope
    return scopes


def _branches(parts: list[Part]) -> dict[str, int]:
    """The numbers of ASPP's atrous branches, in the order in which they are joined."""
    joined = next((part.layer.input.inputs for part in parts if part.layer.input.op == "concat"), ())
    order = [one.key for x in joined for one in (x, *x.inputs)]
    by_key = {layer_key(part.name): part for part in parts}
    atrous = [by_key[key] for key in order if key in by_key and not _is_first(by_key[key])]
    numbered = {part.name: number for number, part in enumerate(atrous, 1)}
    return numbered | {
        name: number for part in atrous for name in part.takes - {C5} for number in [numbered[part.name]]
    }


def _is_first(part: Part) -> bool:
    """The pooled image, or the 1x1 branch."""
    return part.is_pooled or (part.is_point and part.takes == {C5})


def _scope(part: Part, taken: set[str], branches: Mapping[str, int], *, is_last: bool) -> str | None:
    number = branches.get(part.name)
    if part.takes == {C5}:
        kind = "_depthwise" if part.kernel.is_depthwise else ""
        return "image_pooling" if part.is_pooled else "aspp0" if part.is_point else f"aspp{number}{kind}"
    if number is not None:
        return f"aspp{number}_pointwise"
    if all(name.startswith("low_level") for name in taken):
        return "decoder/feature_projection0"
    if taken == {"aspp0", "image_pooling"} and part.layer.input.op == "mul":
        return "decoder/decoder_conv0"  # of LR-ASPP
    if "aspp0" in taken and part.layer.input.op == "concat" and "decoder/feature_projection0" not in taken:
        return "concat_projection"
    if is_last:
        return "logits/semantic"
    return _decoder_scope(part, taken)


def _decoder_scope(part: Part, taken: set[str]) -> str | None:
    stage = 0 if taken & {"decoder/feature_projection0", "decoder/decoder_conv0_depthwise"} else 1
    if part.kernel.is_depthwise:
        return f"decoder/decoder_conv{stage}_depthwise"
    if part.is_point:
        return f"decoder/decoder_conv{stage}_pointwise"
    return f"decoder/decoder_conv0/decoder_conv0_{stage + 1}"
