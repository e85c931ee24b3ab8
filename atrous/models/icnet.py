"""ICNet (Zhao et al. 2017, arXiv:1704.08545): Real-Time Semantic Segmentation on High-Resolution Images."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.icnet import ICNetBackbone
from atrous.layers.conv import TORCH_NORM, ConvNorm, classifier
from atrous.layers.resize import resize
from atrous.models.contract import MapConfig, Model
from atrous.ops import grid_means
from atrous.settings import Bins, Channels
from atrous.types import Outputs


def summed_pyramid(x: Tensor, bins: Sequence[int]) -> Tensor:
    """[B, K, h, w] -> the same, `x` plus its means over grids of `bins` x `bins` cells, resized to `x`."""
    return x + sum(resize(grid_means(x, side), x.shape[-2:]) for side in bins)


class CascadeFeatureFusion(nn.Module):
    """Coarse features, resized to the fine ones, through an atrous 3x3, plus fine features through a 1x1."""

    def __init__(self, coarse: int, fine: int, out: int) -> None:
        super().__init__()
        self.coarse = ConvNorm(coarse, out, 3, norm=TORCH_NORM, rate=2, act="none")
        self.fine = ConvNorm(fine, out, norm=TORCH_NORM, act="none")

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # [B, K, h, w], [B, K', h', w'] -> [B, out, h', w']
        y: Tensor = self.coarse(resize(coarse, fine.shape[-2:])) + self.fine(fine)
        return y.relu_()


class ICNet(Model):
    """The image cascade: c5 at stride 32, pooled, is refined with c4 and then with c3; all three levels have logits.

    The original doubles the size of each level before its classifier. With aligned corners a zoom and a 1x1 commute,
    and two zooms are one: on sizes of 32k + 1 our logits at strides 32, 16 and 8 equal its logits at 16, 8 and 4.
    """

    class Config(MapConfig):
        name: Literal["icnet"] = "icnet"
        backbone: AnyBackboneConfig = ICNetBackbone.Config(name="icnet_resnet50")
        output_stride: Literal[32] = 32
        """Of the smallest image's map: the three levels are at strides 32, 16 and 8."""
        bins: Bins = (1, 2, 3, 6)  # as in the authors' program
        """Grids of the means in the pyramid: 2 is 2 x 2 parts of the image; []: no pyramid."""
        pyramid_channels: Channels = 256  # as in the authors' program
        """Channels of the pyramid's result."""
        fusion_channels: Channels = 128  # as in the authors' program
        """Channels in which the levels are joined."""

        @property
        def logits_stride(self) -> int:
            return 8

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, deep, fused = self.backbone.channels, config.pyramid_channels, config.fusion_channels
        self.pyramid = ConvNorm(channels["c5"], deep, norm=TORCH_NORM)
        self.fuse_c4 = CascadeFeatureFusion(deep, channels["c4"], fused)
        self.fuse_c3 = CascadeFeatureFusion(fused, channels["c3"], fused)
        self.cascade = nn.ModuleList([classifier(deep, num_classes), classifier(fused, num_classes)])
        self.classify = classifier(fused, num_classes)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("cascade", "classify")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("cascade_0", "cascade_1")  # coarsest first

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        coarse = self.pyramid(summed_pyramid(features["c5"], self.config.bins))
        middle = self.fuse_c4(coarse, features["c4"])
        fine = self.fuse_c3(middle, features["c3"])
        levels = zip(self.heads, self.cascade, (coarse, middle), strict=True)
        return Outputs(semantic=self.classify(fine), heads={name: classify(x) for name, classify, x in levels})
