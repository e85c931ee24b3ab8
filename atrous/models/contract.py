"""What a model is: a frozen `Config` and a network from images to `Outputs`, without loss or post-processing."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones import AnyBackboneConfig, BackboneConfig, build_backbone
from atrous.errors import ConfigError
from atrous.layers.aspp import ASPP, RATES, ASPPConfig
from atrous.layers.conv import HEAD_NORM, Activation
from atrous.layers.decoder import Decoder, DecoderConfig, Kind, build_conv
from atrous.layers.drop_path import DropPath
from atrous.layers.resize import Convention, resize, scale_dimension
from atrous.settings import MAX_CLASSES, Scales, Settings, Side
from atrous.types import RGB, Facts, Outputs

Size = tuple[Side, Side]  # height, width
PRETRAINED = {"none": None, "imagenet": "imagenet", "false": None, "true": "imagenet"}  # words for what isn't a file


class ModelConfig(Settings):
    """The settings that all models share; a model narrows `name` to its own and adds what its paper adds."""

    needs_c5: ClassVar[bool] = True  # a network that ends with an earlier stage won't do

    name: str
    """The architecture; docs/models.md compares them."""
    backbone: AnyBackboneConfig
    """The network that computes the features: a name, or a mapping with its settings."""
    output_stride: Literal[8, 16, 32] = 16
    """Pixels per cell of the backbone's last map: smaller is finer, slower, needs more memory."""
    num_classes: int | None = Field(default=None, ge=2, le=MAX_CLASSES)
    """Classes that the network tells apart; none: as many as the data has."""
    pretrained: Annotated[str, Field(min_length=1)] | None = None
    """What a training's backbone begins with: imagenet, or a file as in train.init; none: random."""

    @field_validator("pretrained", mode="before")
    @classmethod
    def _in_a_word(cls, value: Any) -> Any:  # noqa: ANN401 - any YAML value
        return PRETRAINED.get(value.lower(), value) if isinstance(value, str) else value

    @property
    def architecture(self) -> Self:
        """Without what only the start of a training reads: a model and its file hold this."""
        return self if self.pretrained is None else self.model_copy(update={"pretrained": None})

    @model_validator(mode="before")
    @classmethod
    def _name_default_backbone(cls, settings: Any) -> Any:  # noqa: ANN401 - any YAML value
        """Settings of a backbone without a name belong to the default backbone."""
        default = cls.model_fields["backbone"].default
        backbone = settings.get("backbone") if isinstance(settings, dict) else None
        if isinstance(backbone, dict) and "name" not in backbone and isinstance(default, BackboneConfig):
            return {**settings, "backbone": {**backbone, "name": default.name}}
        return settings

    @model_validator(mode="after")
    def _backbone_has_this_stride(self) -> Self:
        strides = self.backbone.output_strides
        if self.output_stride not in strides:
            known = " or ".join(map(str, strides))
            raise ValueError(f"{self.backbone.name} has output_stride {known}, not {self.output_stride}")
        if self.needs_c5 and self.backbone.deepest != "c5":
            raise ValueError(f"{self.name} needs a whole backbone: set backbone.last_stage=c5")
        return self

    @property
    def convention(self) -> Convention:
        """How its logits are aligned with the image."""
        return "aligned_corners"

    @property
    def logits_stride(self) -> int:
        """How many image pixels lie between neighbouring logits."""
        return self.output_stride

    def at_output_stride(self, output_stride: int) -> dict[str, Any]:
        """The settings, not yet validated, of the same model at another output stride.

        Rates that are set are scaled; default rates follow. Raises ConfigError if a rate would not be whole.
        """
        if output_stride != self.output_stride and self.backbone.own_rates is not None:
            raise ConfigError(
                f"output_stride={output_stride}: the backbone has rates of its own, {self.backbone.own_rates}, which "
                f"are those of output_stride={self.output_stride} alone"
            )
        return {**self.model_dump(), "output_stride": output_stride}


class MapConfig(ModelConfig):
    """The settings of models whose logits are a map of the image."""

    align_corners: bool = True  # True: TF DeepLab and semseg; False: torchvision
    """How logits are upsampled: corner pixels coincide, or (false) outer edges do."""

    @property
    def convention(self) -> Convention:
        return "aligned_corners" if self.align_corners else "half_pixel"


class ImagePyramidConfig(MapConfig):
    """The settings of models that can merge the logits of several scales: they have no other outputs."""

    half_pixel_centers: bool = True  # False: TensorFlow 1 without align_corners
    """How pixels lie where corners aren't aligned: outer edges coincide, or (false) upper left corners."""
    image_pyramid: Scales = (1.0,)  # arXiv:1606.00915, section 4.1.2
    """Sizes at which the network itself sees each image, also in training; each costs a pass."""
    merge: Literal["max", "mean"] = "max"
    """How the logits of these sizes are joined."""
    pyramid_align_corners: bool = True
    """How images and logits are resized between these sizes: corner pixels coincide, or (false) outer edges do."""

    @property
    def convention(self) -> Convention:
        return super().convention if self.align_corners or self.half_pixel_centers else "legacy"


class ASPPModelConfig(ImagePyramidConfig):
    """The settings of models with atrous spatial pyramid pooling."""

    aspp: ASPPConfig = ASPPConfig()
    """Atrous spatial pyramid pooling: the context module."""

    def at_output_stride(self, output_stride: int) -> dict[str, Any]:
        settings = super().at_output_stride(output_stride)
        if self.aspp.rates is not None:
            settings["aspp"]["rates"] = scaled_rates(self.aspp.rates, self.output_stride, output_stride)
        return settings


class Model(nn.Module, ABC):
    """Takes RGB in 0..255, `uint8` or float, of any size, normalises inside, and returns logits at its own grid."""

    Config: ClassVar[type[ModelConfig]]
    task: ClassVar[str] = "semantic"  # a row of TASKS
    config: ModelConfig
    shift: Tensor  # [3, 1, 1]
    scale: Tensor  # [3, 1, 1]
    arithmetic: torch.dtype | None = None  # of all layers, if it isn't that of `shift`

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ConfigError(f"num_classes must be at least 2, got {num_classes}: a model chooses between classes")
        self.config = config.architecture
        self.num_classes = num_classes
        self.backbone = build_backbone(config.backbone, config.output_stride)
        self.register_buffer("shift", torch.tensor(self.backbone.mean).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(self.backbone.std).view(3, 1, 1))
        self.mean = _color(torch.tensor(self.backbone.mean, device="cpu"))  # what images are padded with
        self.register_load_state_dict_post_hook(read_mean)  # type: ignore[no-untyped-call]

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
        """The parts that compute logits: their shapes depend on the number of classes."""
        return ("classify",)

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of `Outputs.heads`, and so of `loss.weights`."""
        return ()

    @abstractmethod
    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        """`scale` is the factor by which the images were resized: windows in pixels of the image scale with it.

        Raises ConfigError if the images are not [B, 3, H, W].
        """

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The backbone's features of the normalised images."""
        features: dict[str, Tensor] = self.backbone(self.normalized(images))
        return features

    def normalized(self, images: Tensor) -> Tensor:
        require_images(images)
        normalized = (images.to(self.shift.dtype) - self.shift) / self.scale
        return normalized if self.arithmetic is None else normalized.to(self.arithmetic)

    def rearrange(self) -> None:
        """Once norms are folded: replace parts by what computes the same faster, for prediction alone."""

    def set_progress(self, progress: float) -> None:
        """Set how far the training has come, 0 to 1: more paths are dropped towards its end."""
        for module in self.modules():
            if isinstance(module, DropPath):
                module.progress = progress


def read_mean(model: nn.Module, _: object = None) -> None:
    """Read the mean from the weights, once: each read of a GPU's memory would wait for its work to finish."""
    assert isinstance(model, Model)
    if not model.shift.is_meta:
        model.mean = _color(model.shift)


def _color(values: Tensor) -> RGB:
    red, green, blue = values.flatten().tolist()
    return red, green, blue


class ImagePyramidModel(Model):
    """A model that may see its images at several scales and merge their logits (arXiv:1606.00915, section 4.1.2)."""

    config: ImagePyramidConfig

    @property
    def heads(self) -> tuple[str, ...]:
        scales = self.config.image_pyramid
        return tuple(f"scale_{index}" for index in range(len(scales))) if len(scales) > 1 else ()

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        if self.config.image_pyramid == (1.0,):
            return self.at_scale(images, scale)
        return self._merged(images, scale)

    def _merged(self, images: Tensor, scale: float) -> Outputs:
        """The max or mean of all scales' logits, each resized to the grid of the largest (at least that of scale 1)."""
        require_images(images)
        scales, is_aligned = self.config.image_pyramid, self.config.pyramid_align_corners
        view = _aligned_view if is_aligned else _half_pixel_view
        convention: Convention = "aligned_corners" if is_aligned else "half_pixel"
        maps = [self.at_scale(view(images.to(self.shift.dtype), one), one * scale).semantic for one in scales]
        if is_aligned or 1.0 not in scales:
            finest = max(1.0, *scales) / self.config.logits_stride
            grid = [scale_dimension(side, finest) for side in images.shape[-2:]]
        else:
            grid = list(maps[scales.index(1.0)].shape[-2:])
        pyramid = [resize(one, grid, convention) for one in maps]
        stacked = torch.stack(pyramid)
        merged = stacked.amax(0) if self.config.merge == "max" else stacked.mean(0)
        heads = dict(zip(self.heads, pyramid, strict=True)) if len(pyramid) > 1 else {}
        return Outputs(semantic=merged, heads=heads)

    @abstractmethod
    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        """One pass at one scale; `scale` is that of `forward`."""


def _aligned_view(images: Tensor, scale: float) -> Tensor:
    return resize(images, [scale_dimension(side, scale) for side in images.shape[-2:]])


def _half_pixel_view(images: Tensor, scale: float) -> Tensor:
    """Pixels lie exactly `scale` apart, also where a side times `scale` isn't whole, as in PyTorch."""
    return F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False) if scale != 1 else images


# ---- parts that several models build


def build_aspp(config: ASPPConfig, inp: int, *, output_stride: int, act: Activation) -> ASPP:
    return ASPP(
        inp,
        config.channels,
        RATES[output_stride] if config.rates is None else config.rates,
        separable=config.separable,
        dropout=config.dropout,
        image_level=config.image_level,
        pooling_stride=config.pooling_stride,
        projection=config.projection,
        projection_kernel=config.projection_kernel,
        bare_depthwise=config.bare_depthwise,
        squeeze=config.squeeze,
        act=act,
        norm=HEAD_NORM._replace(eps=config.norm_eps),
    )


def build_decoder(
    config: DecoderConfig,
    inp: int,
    channels: Mapping[str, int],  # of the backbone
    num_classes: int,
    *,
    separable: bool,  # if the config does not say
    act: Activation,
) -> Decoder:
    return Decoder(
        inp,
        channels,
        config.strides,
        low_level_channels=config.low_level_channels,
        out=num_classes if config.logits else config.channels,
        kind="logits" if config.logits else _kind(config, separable=separable),
        merge=config.merge,
        num_convolutions=config.num_convolutions,
        dropout=config.dropout,
        convention=config.convention,
        act=act,
        norm=HEAD_NORM._replace(eps=config.norm_eps),
    )


def build_refinement(config: DecoderConfig, inp: int, out: int, *, separable: bool, act: Activation) -> nn.Module:
    """A 3x3 convolution of the decoder's kind."""
    norm = HEAD_NORM._replace(eps=config.norm_eps)
    return build_conv(inp, out, 3, _kind(config, separable=separable), act, norm)


def _kind(config: DecoderConfig, *, separable: bool) -> Kind:
    is_separable = separable if config.separable is None else config.separable
    return "dense" if not is_separable else "bare" if config.bare_depthwise else "separable"


def scaled_rates(rates: Sequence[int], output_stride: int, new: int) -> tuple[int, ...]:
    """The rates whose taps lie on the same pixels of the image. Raises ConfigError if one would not be whole."""
    scaled = [rate * output_stride / new for rate in rates]
    if any(rate != int(rate) for rate in scaled):
        raise ConfigError(f"rates {tuple(rates)} at output stride {output_stride} have no whole counterpart at {new}")
    return tuple(int(rate) for rate in scaled)


def require_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ConfigError(f"images must be [B, 3, H, W], RGB in 0..255, got {list(images.shape)}")
