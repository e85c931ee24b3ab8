"""Dense prediction cell (Chen et al. 2018, arXiv:1809.04184): Searching for Efficient Multi-Scale Architectures."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.xception import Xception
from atrous.layers.conv import classifier
from atrous.layers.decoder import DecoderConfig
from atrous.layers.dense_prediction_cell import BEST, MAX_BRANCHES, Branch, DensePredictionCell
from atrous.layers.resize import image_size, scale_dimension
from atrous.models.contract import ImagePyramidConfig, ImagePyramidModel, Size, build_decoder
from atrous.settings import Channels
from atrous.types import Outputs


class DensePredictionCellNet(ImagePyramidModel):
    """A searched cell instead of ASPP, with the decoder of DeepLab v3+, or with none if `decoder.strides` is ()."""

    class Config(ImagePyramidConfig):
        name: Literal["dense_prediction_cell"] = "dense_prediction_cell"
        backbone: AnyBackboneConfig = Xception.Config(name="xception_71")  # section 5
        output_stride: Literal[8, 16] = 16
        cell: tuple[Branch, ...] = Field(BEST, min_length=1, max_length=MAX_BRANCHES)  # figure 5a
        """The operations of the cell, in order; each reads the features or an earlier one."""
        cell_channels: Channels = 256  # section 4.1
        """Channels of each operation and of the cell's result."""
        dropout: float = Field(0.1, ge=0, lt=1)  # as in the authors' program
        """Share of values dropped before the projection."""
        pooling_window: Size | None = None
        """Height and width in pixels that poolings divide by their grid; none: the whole image."""
        decoder: DecoderConfig = DecoderConfig()
        """The decoder, which joins finer features for sharp edges."""

        @property
        def logits_stride(self) -> int:
            return min(self.decoder.strides, default=self.output_stride)

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, width, act = self.backbone.channels, config.cell_channels, config.backbone.head_activation
        self.cell = DensePredictionCell(
            channels["c5"], width, config.cell, output_stride=config.output_stride, dropout=config.dropout
        )
        has_decoder = bool(config.decoder.strides)
        self.decoder = (
            build_decoder(config.decoder, width, channels, num_classes, separable=True, act=act)
            if has_decoder
            else None
        )
        out = config.decoder.channels if has_decoder else width
        self.classify = nn.Identity() if config.decoder.logits else classifier(out, num_classes)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("decoder",) if self.config.decoder.logits else ("classify",)

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features, image = self.features(images), image_size(images)
        window = self.config.pooling_window
        extent = image if window is None else (scale_dimension(window[0], scale), scale_dimension(window[1], scale))
        x = self.cell(features["c5"], extent)
        if self.decoder is not None:
            x = self.decoder(x, features, image)
        return Outputs(semantic=self.classify(x))
