"""timm's networks with maps at strides 16 and 32 (https://github.com/huggingface/pytorch-image-models).

Their rates follow from timm's own `output_stride`. How each is used is tried on tensors without memory, since timm's
tables don't say it: which output strides it has, and which sizes of images.
"""

import difflib
import importlib
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones.contract import OUTPUT_STRIDES, STRIDES, Backbone, BackboneConfig, ImageNet, Pretrained
from atrous.errors import ConfigError, listing
from atrous.types import RGB, Size

PREFIX = "timm:"
STAGES = {stride: name for name, stride in STRIDES.items() if name.startswith("c")}
TAPS = {"c2": "low_level", "c3": "low_level_8", "c4": "low_level_16"}
NATIVE = 32  # output stride of a network as it is
TRIED: tuple[Size, ...] = ((65, 97), (224, 320))  # of images
UNSUPPORTED = (TypeError, AssertionError, NotImplementedError, ValueError, RuntimeError)  # timm's for an argument
NUM_LISTED = 8  # names in an error
NUM_DIFFERENT, WIDTH_LISTED = 3, 120  # weights in an error; characters of PyTorch's about one
T = TypeVar("T")


class Use(NamedTuple):
    """How a network is built and called."""

    arguments: Mapping[str, Any]  # for timm.create_model
    stages: tuple[str, ...]  # of the maps that it returns
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    is_nhwc: bool  # maps are [B, h, w, K]
    multiple: int  # of which the sides of its images must be


class Timm(Backbone):
    """Stages are timm's feature maps, from which decoders tap too: `c4`, `c5` and what the network has before them.

    Images whose sides it can't take are padded at the bottom and on the right with their mean colour.
    """

    class Config(BackboneConfig):
        prefix: ClassVar[str] = PREFIX

        name: str
        """`timm:` and the name of timm's network, such as timm:convnextv2_tiny, also with the tag of its weights."""
        drop_path: float | None = Field(None, gt=0, lt=1)
        """Share of images for which training skips the last residual unit, earlier ones less often; none: 0."""

        @field_validator("name")
        @classmethod
        def _is_known(cls, name: str) -> str:
            require_known(name.removeprefix(PREFIX))
            return name

        @model_validator(mode="after")
        def _can_be_used(self) -> "Timm.Config":
            use(self.name, NATIVE, self.drop_path)  # which says why not
            return self

        @property
        def output_strides(self) -> tuple[int, ...]:
            return output_strides(self.name, self.drop_path)

        @property
        def imagenet(self) -> ImageNet:
            """Of the tag in its name, or timm's default; few are trained on other images."""
            tag = published_tag(self.name)
            if tag is None:
                return ImageNet(advice="timm publishes none of this network")
            network = self.name.removeprefix(PREFIX).partition(".")[0]
            return ImageNet(load=partial(published, self.name), name=f"timm's {network}.{tag}".removesuffix("."))

        def read(self, path: Path) -> Pretrained:
            overlay = {"file": str(path), "hf_hub_id": None, "url": None}
            return _weights(
                self.name, {"pretrained": True, "pretrained_cfg_overlay": overlay}, f"the weights in {path}"
            )

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        self.use = use(config.name, output_stride, config.drop_path)
        self.network = _built(config.name, self.use.arguments)
        self.mean, self.std = (_color(self.network, key) for key in ("mean", "std"))
        self.channels = _with_taps(dict(zip(self.use.stages, self.use.channels, strict=True)))
        self.strides = _with_taps(dict(zip(self.use.stages, self.use.strides, strict=True)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        maps = self.network(_padded(images, self.use.multiple))
        features = {}
        for stage, stride, x in zip(self.use.stages, self.use.strides, maps, strict=True):
            x = x.permute(0, 3, 1, 2) if self.use.is_nhwc else x
            features[stage] = x[..., : -(-height // stride), : -(-width // stride)]
        return _with_taps(features)


def _with_taps(stages: dict[str, T]) -> dict[str, T]:
    return stages | {tap: stages[stage] for stage, tap in TAPS.items() if stage in stages}


def _padded(images: Tensor, multiple: int) -> Tensor:
    """[B, 3, H, W] with zeros, which are the mean colour, after its last row and column."""
    below, beside = (-side % multiple for side in images.shape[-2:])
    return F.pad(images, (0, beside, 0, below)) if below or beside else images


def _color(network: nn.Module, key: str) -> RGB:
    """In 0..255; timm has them in 0..1."""
    cfg: Any = network.pretrained_cfg
    red, green, blue = (round(255 * value, 4) for value in cfg[key])
    return red, green, blue


# ---- timm itself


def package() -> Any:  # noqa: ANN401 - a module that need not be installed
    """timm. Raises ConfigError, with what to install, if it can't be imported."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        if error.name not in ("timm", "torchvision"):
            raise ConfigError(f"timm can't be imported: {error}") from error
        raise ConfigError(f"{PREFIX}NAME needs timm, which is not installed: pip install 'atrous[timm]'") from None
    except RuntimeError as error:  # of torchvision, whose compiled part was made for another PyTorch
        what = str(error).partition("\n")[0]
        raise ConfigError(f"timm can't be imported: {what}; install a torchvision that fits this torch") from error


def require_known(name: str) -> None:
    """Raises ConfigError, with the nearest names, unless timm has this network, and weights of this tag."""
    timm, (network, _, tag) = package(), name.partition(".")
    known = timm.list_models()
    if network not in known:
        close = difflib.get_close_matches(network, known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(PREFIX + one for one in close)}?" if close else "timm.list_models() has all"
        raise ConfigError(f"{PREFIX}{name[:60]}: timm {timm.__version__} has no network of this name; {hint}")
    tags = [one.partition(".")[2] for one in timm.list_models(f"{network}.*", pretrained=True)]
    if tag and tag not in tags:
        shown = ", ".join(tags[:NUM_LISTED]) or "none"
        raise ConfigError(
            f"{PREFIX}{name[:60]}: timm {timm.__version__} has no such weights of {network}; tags: {shown}"
        )


def _created(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own ways, which users of ours can't change
        network: nn.Module = package().create_model(name.removeprefix(PREFIX), features_only=True, **arguments)
    return network


def _built(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """With fresh weights. What a model file doesn't hold, such as tables of positions, has values even on `meta`."""
    network = _created(name, arguments)
    if torch.get_default_device().type != "meta" or not _constants(network):
        return network
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        network = _created(name, arguments)
    constants = {id(tensor) for tensor in _constants(network)}
    placed: nn.Module = network._apply(  # type: ignore[no-untyped-call]
        lambda tensor: tensor if id(tensor) in constants else tensor.to("meta")
    )
    return placed


def _constants(network: nn.Module) -> list[Tensor]:
    return [
        tensor
        for module in network.modules()
        for name, tensor in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
    ]


# ---- its weights


def published_tag(name: str) -> str | None:
    """The tag of the weights that timm loads for this name; None: it has none."""
    cfg = package().get_pretrained_cfg(name.removeprefix(PREFIX))
    return (cfg.tag or "") if cfg is not None and cfg.has_weights else None


def published(name: str) -> Pretrained:
    """What timm fetches and keeps. Raises OSError if it can't, and ConfigError if a weight stays random."""
    return _weights(name, {"pretrained": True}, "timm's weights")


def _weights(name: str, arguments: Mapping[str, Any], what: str) -> Pretrained:
    try:
        network, fresh = (_seeded(name, choice) for choice in (arguments, {}))
    except Exception as error:  # of the network, the hub's client, PyTorch, or a damaged file
        raise OSError(f"timm can't load {what} into {name.removeprefix(PREFIX)}: {_difference(error)}") from error
    random = [key for key, tensor in network.named_parameters() if _is_random(tensor, fresh.get_parameter(key))]
    if random:
        raise ConfigError(f"{name}: {what} lack {listing(random)}: they are another network's")
    state = {f"network.{key}": tensor for key, tensor in network.state_dict().items()}
    return Pretrained(state, _color(network, "mean"), _color(network, "std"))


def _difference(error: Exception) -> str:
    """PyTorch lists the weights that don't fit on lines of their own, after one that doesn't name any."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) < 2 or "loading state_dict" not in lines[0]:
        return _line(error)
    return f"its weights are another network's: {listing((_weight(line) for line in lines[1:]), NUM_DIFFERENT)}"


def _weight(line: str) -> str:
    shapes = re.match(r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", line)
    if shapes is None:
        return textwrap.shorten(line, WIDTH_LISTED, placeholder=" ...")
    name, theirs, ours = shapes.groups()
    return f"{name} {theirs} instead of {ours}"


def _seeded(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _created(name, {**_arguments(name, None), **arguments})


def _is_random(tensor: Tensor, fresh: Tensor) -> bool:
    return bool((tensor != tensor.flatten()[0]).any()) and torch.equal(tensor, fresh)


# ---- how to use a network


@cache
def output_strides(name: str, drop_path: float | None) -> tuple[int, ...]:
    """Those that its own arguments offer; () where it can't be used at all."""
    return tuple(stride for stride in OUTPUT_STRIDES if stride == NATIVE or _dilated(name, stride, drop_path))


def _dilated(name: str, output_stride: int, drop_path: float | None) -> bool:
    arguments = _arguments(name, drop_path)
    try:
        network = _sketched(name, {**arguments, "output_stride": output_stride})
    except UNSUPPORTED:
        return False
    expected = [min(stride, output_stride) for stride in _strides(_sketched(name, arguments))]
    return _strides(network) == expected


@cache
def use(name: str, output_stride: int, drop_path: float | None = None) -> Use:
    """How to use a network at an output stride. Raises ConfigError, with the reason, if it can't be used."""
    arguments = dict(_arguments(name, drop_path))
    stages = tuple(STAGES[stride] for stride in _strides(_sketched(name, arguments)))
    if output_stride != NATIVE:
        arguments["output_stride"] = output_stride
    network = _sketched(name, arguments)
    info, own = _feature_info(network), _own_size(network)
    is_nhwc = str(getattr(network, "output_fmt", "")).endswith("NHWC")
    plain = Use(arguments, stages, tuple(info.channels()), tuple(info.reduction()), is_nhwc, 1)
    reasons = []
    for multiple in dict.fromkeys((1, NATIVE, 2 * NATIVE, own)):
        candidate = plain._replace(multiple=multiple)
        if (reason := _misfit(network, candidate, TRIED)) is None:
            return candidate
        reasons.append(reason)
    is_fixed = _misfit(network, plain, ((own, own),)) is None
    raise ConfigError(f"{name} {f'takes images of one size only, {own} x {own}' if is_fixed else reasons[0]}")


@cache
def _arguments(name: str, drop_path: float | None) -> Mapping[str, Any]:
    """What timm needs to be told. Raises ConfigError for a network without maps, or with none to drop."""
    try:
        network = _sketched(name, {})
        strides = [level["reduction"] for level in _feature_info(network).info]
    except (*UNSUPPORTED, AttributeError) as error:
        raise ConfigError(f"{name} has no feature maps: {_line(error)}") from error
    indices = {stride: index for index, stride in enumerate(strides)}  # the last map of each stride
    if 16 not in indices or 32 not in indices:
        known = ", ".join(map(str, dict.fromkeys(strides)))
        raise ConfigError(f"{name} has feature maps at strides {known}; a backbone needs them at 16 and 32")
    arguments: dict[str, Any] = {"out_indices": tuple(index for stride, index in indices.items() if stride in STAGES)}
    if any(getattr(module, "strict_img_size", False) for module in network.modules()):
        arguments |= _supported(name, {"strict_img_size": False})  # else it takes images of one size
    if drop_path is not None:
        arguments |= _dropping(name, drop_path)
    return arguments


def _supported(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        _sketched(name, arguments)
    except UNSUPPORTED:
        return {}
    return arguments


def _dropping(name: str, drop_path: float) -> dict[str, Any]:
    arguments = _supported(name, {"drop_path_rate": drop_path})
    if not any(getattr(module, "drop_prob", None) for module in _sketched(name, arguments).modules()):
        raise ConfigError(f"drop_path={drop_path:g}: {name} has no paths that could be dropped; leave it out")
    return arguments


def _sketched(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network without weights, which takes no memory, for prediction."""
    return _sketch(name, tuple(sorted(arguments.items())))


@lru_cache(maxsize=8)
def _sketch(name: str, arguments: tuple[tuple[str, Any], ...]) -> nn.Module:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return _created(name, dict(arguments)).eval()


def _feature_info(network: nn.Module) -> Any:  # noqa: ANN401 - a class of timm
    return network.feature_info


def _strides(network: nn.Module) -> list[int]:
    strides: list[int] = _feature_info(network).reduction()
    return strides


def _own_size(network: nn.Module) -> int:
    cfg: Any = network.pretrained_cfg
    return int(cfg["input_size"][-1])


def _misfit(network: nn.Module, candidate: Use, sizes: Sequence[Size]) -> str | None:
    """What is wrong with its maps of images of these sizes; None: nothing."""
    for height, width in sizes:
        images = _padded(torch.empty(1, 3, height, width, device="meta"), candidate.multiple)
        try:
            with torch.no_grad(), torch.device("meta"):
                shapes = [tuple(x.shape) for x in network(images)]
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            return f"can't take images of {height} x {width}: {_line(error)}"
        expected = [_shape(candidate, index, images) for index in range(len(shapes))]
        if shapes != expected:
            return f"has maps {shapes[-1][1:]} of images of {height} x {width} where {expected[-1][1:]} are expected"
    return None


def _shape(candidate: Use, index: int, images: Tensor) -> tuple[int, ...]:
    height, width = (-(-side // candidate.strides[index]) for side in images.shape[-2:])
    channels = candidate.channels[index]
    return (1, height, width, channels) if candidate.is_nhwc else (1, channels, height, width)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
