"""LR-ASPP (Howard et al. 2019, arXiv:1905.02244): Searching for MobileNetV3, section 6.4."""

from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.mobilenet_v3 import MobileNetV3
from atrous.layers.aspp import ASPP, window_at
from atrous.layers.conv import HEAD_NORM
from atrous.layers.decoder import Decoder
from atrous.layers.resize import image_size
from atrous.models.contract import ImagePyramidConfig, ImagePyramidModel, Size
from atrous.settings import Channels
from atrous.types import Outputs


class LRASPP(ImagePyramidModel):
    """Figure 10: c5 through a 1x1, scaled by the pooled image; its logits plus those of the features at stride 8."""

    class Config(ImagePyramidConfig):
        name: Literal["lraspp"] = "lraspp"
        backbone: AnyBackboneConfig = MobileNetV3.Config(name="mobilenet_v3_large_seg")
        output_stride: Literal[8, 16, 32] = 32  # table 7
        head_channels: Channels = 128  # table 7
        """Channels of the pooled and gated features; more is slower."""
        pooling_window: Size | None = (769, 769)  # 25 x 25 cells at output stride 32, as in the released models
        """Height and width of the mean's window in pixels; none: the whole image."""
        pooling_stride: Size = (4, 5)  # as in the released models
        """Steps between windows of the mean, down and across, in cells of the backbone's map."""
        squeeze: Literal["sigmoid", "hard_sigmoid", "hard_sigmoid_6"] = "hard_sigmoid"
        """The function of the gate that multiplies the features."""
        decoder_stride: Literal[4, 8, 16] = 8
        """Stride of the finer features that are joined."""
        decoder_align_corners: bool = True  # TF DeepLab; false in torchvision
        """How features are upsampled to the finer ones: corner pixels coincide, or (false) outer edges do."""
        norm_eps: PositiveFloat = HEAD_NORM.eps
        """What the batch norms of the head add to a variance, against division by 0."""

        @property
        def logits_stride(self) -> int:
            return self.decoder_stride

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, width = self.backbone.channels, config.head_channels
        self.aspp = ASPP(
            channels["c5"],
            width,
            (),
            pooling_stride=config.pooling_stride,
            projection=False,
            squeeze=config.squeeze,
            act=config.backbone.head_activation,
            norm=HEAD_NORM._replace(eps=config.norm_eps),
        )
        self.decoder = Decoder(
            width,
            channels,
            (config.decoder_stride,),
            low_level_channels=num_classes,
            out=num_classes,
            kind="logits",
            merge="sum",
            convention="aligned_corners" if config.decoder_align_corners else "half_pixel",
        )

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("decoder",)

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        window = window_at(self.config.pooling_window, scale, self.config.output_stride)
        x = self.aspp(features["c5"], window)
        return Outputs(semantic=self.decoder(x, features, image_size(images)))
