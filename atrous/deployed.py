"""A network as other programs run it: bytes of an image in, labels at the image's size out, in one graph.

Padding, normalisation, upsampling, cropping and the arg-max are inside, with the conventions of `inference`.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from atrous.errors import ConfigError
from atrous.layers.folding import fold
from atrous.layers.quantization import Int8Conv
from atrous.layers.resize import resize
from atrous.models import Model
from atrous.types import NO_MAP, Facts, Outputs, Size

IMAGES = "images"  # the input: [B, H, W, 3] uint8, RGB
LABELS, LOGITS, CLASSES, PROBABILITIES = "labels", "logits", "classes", "probabilities"
CENTER, OFFSET = "center", "offset"
HEADS = (LOGITS, CENTER, OFFSET, CLASSES)  # what inference reads
Decoder: TypeAlias = Callable[[Tensor, Outputs], Tensor]  # [B, H, W], from classes and heads at the image's size
TRACED = (70, 99)  # height and width that no part of a network has
SMALL = (1, 3, 65, 65)
HALF = 0.5  # a scale, to learn whether a network's outputs depend on it


class Deployed(nn.Module):
    """[B, H, W, 3] uint8 -> a tensor for each of `names`.

    `labels` [B, H, W] (uint8 for up to 256 classes, else int32), a map [B, H, W] of each of `decoders` and, on request,
    `probabilities` [B, C, H, W]; `logits` and a panoptic network's `center` and `offset` on the network's own grid;
    `classes` [B, C] of a classifier.
    """

    mean: Tensor  # [3, 1, 1]

    def __init__(
        self,
        model: Model,
        *,
        probabilities: bool = False,
        pads: bool = True,
        decoders: Mapping[str, Decoder] | None = None,
    ) -> None:
        super().__init__()
        self.facts = model.facts
        self.pads = pads and self.facts.convention == "aligned_corners"
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        fold(self.network)
        self.network.rearrange()
        self.register_buffer("mean", model.shift.detach().clone())
        self.network.shift = torch.zeros_like(model.shift)  # images are centred here, so that 0 pads them
        self.decoders = dict(decoders or {})
        self.names = names_of(model, tuple(self.decoders), probabilities=probabilities)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        height, width = images.shape[1:3]
        frame = frame_of((height, width), self.facts, pads=self.pads)
        centred = images.permute(0, 3, 1, 2).to(torch.float32) - self.mean
        if self.pads:
            centred = F.pad(centred, (0, frame[1] - width, 0, frame[0] - height))
        outputs: Outputs = self.network(centred)
        maps = dict(maps_of(outputs))
        if LABELS in self.names:
            full = {name: self._at_image(x, frame, (height, width)) for name, x in maps.items()}
            maps[LABELS] = full[LOGITS].argmax(1).to(torch.uint8 if self.facts.num_classes <= 256 else torch.int32)
            maps[PROBABILITIES] = full[LOGITS].softmax(1) if PROBABILITIES in self.names else full[LOGITS]
            maps |= {name: decode(maps[LABELS], outputs_of(full)) for name, decode in self.decoders.items()}
        return tuple(maps[name] for name in self.names)

    def _at_image(self, x: Tensor, frame: Size, size: Size) -> Tensor:
        return resize(x, frame, self.facts.convention)[:, :, : size[0], : size[1]]


def frame_of(size: Size, facts: Facts, *, pads: bool) -> Size:
    """The size of the images that the network itself sees, as `inference.pad_to_grid` pads them."""
    if not pads:
        return size
    rows, columns = ((side + facts.output_stride - 2) // facts.output_stride * facts.output_stride + 1 for side in size)
    return rows, columns


def maps_of(outputs: Outputs) -> Mapping[str, Tensor]:
    """What inference reads of a network's outputs, by the names that they have in files."""
    semantic = outputs.semantic if outputs.semantic.ndim == 4 else None
    maps = {LOGITS: semantic, CENTER: outputs.center, OFFSET: outputs.offset, CLASSES: outputs.classes}
    return {name: x for name, x in maps.items() if x is not None}


def outputs_of(maps: Mapping[str, Tensor]) -> Outputs:
    """The reverse."""
    return Outputs(maps.get(LOGITS, NO_MAP), maps.get(CLASSES), maps.get(CENTER), maps.get(OFFSET))


def names_of(model: Model, decoded: tuple[str, ...] = (), *, probabilities: bool) -> tuple[str, ...]:
    """The outputs' names, labels first."""
    with torch.inference_mode():
        maps = maps_of(model(torch.zeros(SMALL, device=model.shift.device)))
    if LOGITS in maps:
        return (LABELS, *decoded, *maps, *([PROBABILITIES] if probabilities else []))
    if probabilities:
        raise ConfigError(f"--probabilities: a {model.task} network has no class map")
    return tuple(maps)


def depends_on_scale(model: Model) -> bool:
    """Whether its outputs change with the scale that it is told, as where windows of its means scale with images."""
    images = torch.linspace(0, 255, torch.Size(SMALL).numel(), device=model.shift.device).view(SMALL)
    with torch.inference_mode():
        own, scaled = (maps_of(model(images, scale)) for scale in (1.0, HALF))
    return any(not torch.equal(x, scaled[name]) for name, x in own.items())


class Export(BaseModel):
    """What is said of an exported graph in its file's metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    facts: Facts
    outputs: tuple[str, ...]
    pads: bool  # images to the grid
    is_scaled: bool  # the outputs would depend on the scale, which is 1


class Deployment(NamedTuple):
    """What a runtime writes to a file."""

    module: Deployed
    size: Size | None  # of images; None: any
    metadata: Mapping[str, str]
    program: ExportedProgram | None = None  # the graph, where a runtime has changed it

    @property
    def names(self) -> tuple[str, ...]:
        return self.module.names

    def computed(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the graph gives in PyTorch for images [B, H, W, 3]."""
        module = self.module if self.program is None else self.program.module(check_guards=False)
        outputs: tuple[Tensor, ...] = module(images)
        return outputs


def export_of(module: Deployed, model: Model, size: Size | None) -> Export:
    is_int8 = any(isinstance(part, Int8Conv) for part in module.modules())
    facts = module.facts._replace(size=size, on_grid=module.pads, int8=is_int8)
    return Export(facts=facts, outputs=module.names, pads=module.pads, is_scaled=depends_on_scale(model))


class Named(nn.Module):
    """The same outputs by their names, for a format that has no others."""

    def __init__(self, module: Deployed) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.module.names, self.module(images), strict=True))


def traced(deployment: Deployment, *, named: bool = False) -> ExportedProgram:
    """The graph, for one image of the fixed size, or for any number of images of any size.

    Raises ConfigError for a network whose graph depends on the size.
    """
    if deployment.program is not None:
        return deployment.program
    batch, size = (2, TRACED) if deployment.size is None else (1, deployment.size)
    images = torch.zeros(batch, *size, 3, dtype=torch.uint8)
    dynamic = {IMAGES: dict.fromkeys(range(3), Dim.DYNAMIC) if deployment.size is None else None}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # PyTorch's own, about its own
        try:
            program = torch.export.export(
                Named(deployment.module) if named else deployment.module,
                (images,),
                dynamic_shapes=dynamic,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        except Exception as error:  # of the tracer: each part has its own
            raise ConfigError(_why(deployment, error)) from error
    return _without_assertions(program)


def _without_assertions(program: ExportedProgram) -> ExportedProgram:
    """The tracer asserts of sizes what it found true of those that it saw, such as that an image was padded."""
    for node in reversed(list(program.graph.nodes)):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _why(deployment: Deployment, error: Exception) -> str:
    network = deployment.module.network.config.name
    reason = " ".join(str(error).split())[:200]
    if deployment.size is None:
        return f"{network}: its graph can't be exported for images of any size; try --size 513,513 ({reason})"
    return f"{network}: its graph can't be exported ({reason})"
