"""PSANet (Zhao et al., ECCV 2018): Point-wise Spatial Attention Network for Scene Parsing."""

from typing import Literal

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.layers.conv import TORCH_NORM, ConvNorm
from atrous.layers.fcn_head import FCNHead
from atrous.layers.resize import image_size, resize
from atrous.models.contract import MapConfig, Model, Size
from atrous.ops import Direction, point_wise_attention
from atrous.settings import Channels
from atrous.types import Outputs

DIRECTIONS: dict[str, tuple[Direction, ...]] = {
    "collect": ("collect",),
    "distribute": ("distribute",),
    "bidirectional": ("collect", "distribute"),
}


class PSANet(Model):
    """Figures 3 and 5 of the paper: what each position receives from all others, concatenated with c5.

    An over-complete mask is cut around its middle where the map is small; where the map is larger than the mask
    reaches, the rest has weight 0 before the softmax. A compact mask fits maps of one size: whatever the image's size,
    it attends on a map of the mask's size, which is the shrunk c5 itself for a crop of the training's size.
    """

    class Config(MapConfig):
        name: Literal["psanet"] = "psanet"
        backbone: AnyBackboneConfig = ResNet.Config(name="resnet50s")
        output_stride: Literal[8, 16, 32] = 8  # section 4.1
        psa_type: Literal["collect", "distribute", "bidirectional"] = "bidirectional"  # section 3.2
        """Each position collects from all others, distributes to them, or both."""
        compact: bool = False
        """Masks are indexed by position, not by distance: they are smaller."""
        mask_size: Size | None = None  # (59, 59), compact (30, 30)
        """Rows and columns of a mask; none: as for a crop of 465 pixels."""
        shrink_factor: int = Field(2, ge=1, le=64)  # as in the authors' program
        """Factor by which the map that attends is shrunk: larger is faster and coarser."""
        psa_softmax: bool = True  # as in the authors' program
        """Normalise the weights of each target's sources by a softmax."""
        normalization_factor: PositiveFloat = 1.0  # as in the authors' program
        """Divides what a position receives."""
        psa_channels: Channels = 512  # figure 3
        """Channels to which the features are reduced before the attention."""
        projection_padding: Literal[0, 1] = 0  # 1 in mmsegmentation
        """Rows and columns of zeros around what positions receive, before it is resized to c5."""
        head_channels: Channels = 512  # as in the authors' program
        """Channels of the 3x3 convolution before the logits."""
        auxiliary_channels: Channels = 256  # as in the authors' program
        """Channels of the training-only head on the fourth stage."""
        dropout: float = Field(0.1, ge=0, lt=1)  # as in the authors' program
        """Share of whole maps dropped before the logits."""

        @model_validator(mode="after")
        def _mask_has_a_middle(self) -> "PSANet.Config":
            if not self.compact and not all(side % 2 for side in self.mask):
                rows, columns = self.mask
                raise ValueError(f"mask_size {rows},{columns}: sides must be odd, such as 59,59")
            return self

        @property
        def mask(self) -> Size:
            return self.mask_size or ((30, 30) if self.compact else (59, 59))

        def map_size(self, height: int, width: int) -> Size:
            """The size of the map that attends, for a c5 of height x width."""
            if self.compact:
                return self.mask
            return (height - 1) // self.shrink_factor + 1, (width - 1) // self.shrink_factor + 1

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        c4, c5 = (self.backbone.channels[stage] for stage in ("c4", "c5"))
        directions = DIRECTIONS[config.psa_type]
        self.attention = nn.ModuleDict({direction: _attention(c5, direction, config) for direction in directions})
        self.projection = ConvNorm(config.psa_channels * len(directions), c5, norm=TORCH_NORM)
        self.head = FCNHead(2 * c5, config.head_channels, num_classes, dropout=config.dropout)
        self.auxiliary = FCNHead(c4, config.auxiliary_channels, num_classes, dropout=config.dropout)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("head", "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("auxiliary",)

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        c5 = features["c5"]
        size = self.config.map_size(*image_size(c5))
        received = torch.cat([attention(c5, size) for attention in self.attention.values()], 1)
        received = F.pad(received, [self.config.projection_padding] * 4)
        received = resize(self.projection(received / self.config.normalization_factor), c5.shape[-2:])
        return Outputs(
            semantic=self.head(torch.cat([c5, received], 1)), heads={"auxiliary": self.auxiliary(features["c4"])}
        )


class Attention(nn.Module):
    """[B, inp, h, w] -> [B, out, *size]: one direction of figure 3. `mask_size` of a compact mask is the map's."""

    def __init__(
        self, inp: int, out: int, direction: Direction, mask_size: Size, *, compact: bool, softmax: bool
    ) -> None:
        super().__init__()
        self.direction, self.softmax = direction, softmax
        self.mask_size = None if compact else mask_size
        self.reduce = ConvNorm(inp, out, norm=TORCH_NORM)
        self.adapt = ConvNorm(out, out, norm=TORCH_NORM)
        self.mask = nn.Conv2d(out, mask_size[0] * mask_size[1], 1, bias=False)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        features = resize(self.reduce(x), size)
        adapted = self.adapt(features).contiguous(memory_format=torch.channels_last)  # and so is the large mask
        return point_wise_attention(features, self.mask(adapted), self.mask_size, self.direction, softmax=self.softmax)


def _attention(inp: int, direction: Direction, config: PSANet.Config) -> Attention:
    return Attention(
        inp, config.psa_channels, direction, config.mask, compact=config.compact, softmax=config.psa_softmax
    )
