"""What a model is: a frozen `Config` and a network from images to `Outputs`, without loss or post-processing."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from atrous.backbones import Options, build_backbone, check_backbone
from atrous.layers.aspp import ASPP, RATES, Squeeze, Window
from atrous.layers.conv import HEAD_NORM, Activation, Norm
from atrous.layers.decoder import Decoder, Kind, Merge
from atrous.layers.drop_path import DropPath
from atrous.layers.resize import Convention, resize, scale_dimension
from atrous.settings import Settings
from atrous.types import RGB, Facts, Outputs

Size = tuple[PositiveInt, PositiveInt]  # height, width


class ModelConfig(Settings):
    """The settings that all models share; a model narrows `name` to its own and adds what its paper adds."""

    name: str
    backbone: str  # a row of BACKBONES
    output_stride: Literal[8, 16, 32] = 16  # of c5; may differ between training and evaluation, with the same weights
    num_classes: int | None = Field(default=None, ge=2)  # None: as many as the label space has

    depth_multiplier: float = Field(default=1.0, gt=0)  # width of a MobileNet or a NAS net, as a part of the paper's
    divisible_by: PositiveInt | None = None  # of a MobileNet's widths; None: 8 at full width, else 1 (TF DeepLab)
    multi_grid: tuple[PositiveInt, ...] | None = None  # factor on the rate of each unit of the last stage
    bounded: bool = False  # Xception: no activation above 6, for 8-bit arithmetic; heads, too
    classification_head: bool = False  # NAS nets: with the layers that ImageNet's classes were told from
    remove_stride_32: bool = False  # NAS nets: the path stays at stride 16 where it would go to 32
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # NAS nets: share of paths dropped in the last cell, in training

    merges: ClassVar[bool] = True  # has nothing but maps of logits, which several scales can be merged into

    align_corners: bool = True  # of logits when they are upsampled (TensorFlow's DeepLab, semseg); False: torchvision

    image_pyramid: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)  # scales (arXiv:1606.00915, section 4.1.2)
    merge: Literal["max", "mean"] = "max"  # of the logits of these scales

    @model_validator(mode="after")
    def _backbone_exists(self) -> "ModelConfig":
        check_backbone(self.backbone, self.output_stride, self.options)
        return self

    @model_validator(mode="after")
    def _pyramid_can_be_merged(self) -> "ModelConfig":
        if self.image_pyramid != (1.0,) and not self.merges:
            raise ValueError(f"image_pyramid {self.image_pyramid} is not for {self.name}, which has several outputs")
        return self

    @property
    def options(self) -> Options:
        return Options(*(getattr(self, name) for name in Options._fields))

    @property
    def act(self) -> Activation:  # of the heads
        return "relu6" if self.bounded else "relu"

    @property
    def convention(self) -> Convention:
        return "aligned_corners" if self.align_corners else "half_pixel"

    @property
    def logits_stride(self) -> int:
        """How many image pixels lie between neighbouring logits."""
        return self.output_stride


class PyramidConfig(ModelConfig):
    """The settings of atrous spatial pyramid pooling."""

    rates: tuple[PositiveInt, ...] | None = None  # None: (6, 12, 18) at output stride 16, section 3.3; (): no 3x3
    aspp_channels: PositiveInt = 256  # section 3.3
    separable: bool = True  # the 3x3 of pyramid and decoder; DeepLab v3's are not, its authors' program's are
    dropout: float = Field(0.1, ge=0, lt=1)  # after the pyramid, as the authors' program
    image_level: bool = True  # the mean of the whole image as a branch
    pooling_window: Size | None = None  # in pixels of the image: what the mean is taken over; None: all of it
    pooling_stride: Size = (1, 1)  # in cells of c5
    projection: bool = True  # the 1x1 behind the branches
    squeeze: Squeeze = "none"  # the image's mean is a factor on the result, not a branch (arXiv:1905.02244)
    norm_eps: PositiveFloat = HEAD_NORM.eps  # of the pyramid's batch norms

    @property
    def head_norm(self) -> Norm:
        return HEAD_NORM._replace(eps=self.norm_eps)

    def aspp(self, inp: int) -> ASPP:
        return ASPP(
            inp,
            self.aspp_channels,
            RATES[self.output_stride] if self.rates is None else self.rates,
            separable=self.separable,
            dropout=self.dropout,
            image_level=self.image_level,
            pooling_stride=self.pooling_stride,
            projection=self.projection,
            squeeze=self.squeeze,
            act=self.act,
            norm=self.head_norm,
        )


class DecoderConfig(ModelConfig):
    """The settings of the decoder of DeepLab v3+."""

    decoder_strides: tuple[Literal[4, 8, 16], ...] = (4,)  # of the low-level features that join, coarsest first
    low_level_channels: PositiveInt = 48  # table 1
    decoder_channels: PositiveInt = 256  # table 2
    decoder_separable: bool | None = None  # None: as `separable`
    decoder_merge: Merge = "concat"  # sum: one convolution, added to the projected low-level features
    decoder_logits: bool = False  # the decoder's 1x1 convolutions make the logits; `decoder_channels` does not count

    @model_validator(mode="after")
    def _strides_fall(self) -> "DecoderConfig":
        if list(self.decoder_strides) != sorted(set(self.decoder_strides), reverse=True):
            raise ValueError(f"decoder_strides {self.decoder_strides}: coarsest first, such as (8, 4)")
        if self.decoder_logits and not self.decoder_strides:
            raise ValueError("decoder_logits without decoder_strides: there is no decoder to make them")
        return self

    @property
    def logits_stride(self) -> int:
        return min(self.decoder_strides, default=self.output_stride)

    def decoder(self, inp: int, channels: dict[str, int], num_classes: int) -> Decoder:
        separable = getattr(self, "separable", True) if self.decoder_separable is None else self.decoder_separable
        kind: Kind = "logits" if self.decoder_logits else "separable" if separable else "dense"
        return Decoder(
            inp,
            channels,
            self.decoder_strides,
            low_level_channels=self.low_level_channels,
            out=num_classes if self.decoder_logits else self.decoder_channels,
            kind=kind,
            merge=self.decoder_merge,
            act=self.act,
        )


class Model(nn.Module, ABC):
    """Takes RGB in 0..255, `uint8` or float, of any size, normalises inside, and returns logits at its own grid."""

    Config: ClassVar[type[ModelConfig]]
    task: ClassVar[str] = "semantic"  # a row of TASKS
    config: ModelConfig
    shift: Tensor  # [3, 1, 1]
    scale: Tensor  # [3, 1, 1]

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"{num_classes} classes: a model must choose between at least two")
        self.config = config
        self.num_classes = num_classes
        self.backbone = build_backbone(config.backbone, config.output_stride, config.options)
        self.register_buffer("shift", torch.tensor(self.backbone.mean).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(self.backbone.std).view(3, 1, 1))

    @property
    def align_corners(self) -> bool:
        """How its logits are to be upsampled."""
        return self.config.align_corners

    @property
    def mean(self) -> RGB:
        """The colour that becomes 0 after normalisation: what images are padded with."""
        red, green, blue = self.shift.flatten().tolist() if not self.shift.is_meta else self.backbone.mean
        return red, green, blue

    @property
    def facts(self) -> Facts:
        return Facts(
            self.task,
            self.num_classes,
            self.mean,
            self.config.output_stride,
            self.config.logits_stride,
            self.config.convention,
        )

    @property
    def logit_modules(self) -> tuple[str, ...]:
        """The parts whose shape depends on the number of classes."""
        return ("classify",)

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of `Outputs.heads`, which `loss.weights` weights."""
        scales = self.config.image_pyramid
        return tuple(f"scale_{index}" for index in range(len(scales))) if len(scales) > 1 else ()

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        """`scale` as `at_scale` has it. Raises ValueError if the images aren't [B, 3, H, W]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [B, 3, H, W], RGB in 0..255, not {list(images.shape)}")
        if self.config.image_pyramid == (1.0,):
            return self.at_scale(images, scale)
        return self._merged(images, scale)

    def _merged(self, images: Tensor, scale: float) -> Outputs:
        """Each scale's logits brought to the grid of the largest (at least that of scale 1), and their max or mean."""
        scales = self.config.image_pyramid
        finest = max(1.0, *scales) / self.config.logits_stride
        grid = [scale_dimension(side, finest) for side in images.shape[-2:]]
        pyramid = []
        for one in scales:
            size = [scale_dimension(side, one) for side in images.shape[-2:]]
            view = resize(images.to(self.shift.dtype), size)
            pyramid.append(resize(self.at_scale(view, one * scale).semantic, grid))
        stacked = torch.stack(pyramid)
        merged = stacked.amax(0) if self.config.merge == "max" else stacked.mean(0)
        heads = dict(zip(self.heads, pyramid, strict=True)) if len(pyramid) > 1 else {}
        return Outputs(semantic=merged, heads=heads)

    @abstractmethod
    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        """One pass; `scale` is what the images have been scaled by: windows in pixels of the image scale with it."""

    def normalized(self, images: Tensor) -> Tensor:
        return (images.to(self.shift.dtype) - self.shift) / self.scale

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The backbone's taps of the normalised images."""
        features: dict[str, Tensor] = self.backbone(self.normalized(images))
        return features

    def pooling_window(self, scale: float) -> Window | None:
        """What image pooling takes the mean over, in cells of c5; None: everything."""
        window: Size | None = getattr(self.config, "pooling_window", None)
        if window is None:
            return None
        height, width = (
            scale_dimension(scale_dimension(side, scale), 1 / self.config.output_stride) for side in window
        )
        return height, width

    def set_progress(self, progress: float) -> None:
        """How far a training is, 0 to 1: more paths are dropped the further it is."""
        for module in self.modules():
            if isinstance(module, DropPath):
                module.progress = progress


def image_size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
