"""The keys of semseg's YAML files, and arguments of its networks, that a model or its evaluation depends on."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from atrous.convert.options import require_known
from atrous.convert.system import OptionTree
from atrous.errors import ConfigError
from atrous.files import user_path
from atrous.settings import Settings
from atrous.trees import TreeError, read_yaml
from atrous.types import Size

SECTIONS = ("DATA", "TRAIN", "Distributed", "TEST")
CONFIG = "config"  # the path of one of the original's YAML files; options take precedence over its keys
OTHERS = (  # keys that no model depends on
    *("data_root", "train_list", "val_list", "test_list", "sync_bn", "ignore_label", "aux_weight", "weight", "resume"),
    *("scale_min", "scale_max", "rotate_min", "rotate_max", "train_gpu", "workers", "batch_size", "batch_size_val"),
    *("base_lr", "epochs", "start_epoch", "power", "momentum", "weight_decay", "manual_seed", "print_freq"),
    *(
        "save_freq",
        "save_path",
        "evaluate",
        "dist_url",
        "dist_backend",
        "multiprocessing_distributed",
        "world_size",
        "rank",
    ),
    *("split", "has_prediction", "index_start", "index_step", "test_gpu", "model_path", "save_folder", "colors_path"),
    *("names_path", "use_apex", "opt_level", "keep_batchnorm_fp32", "loss_scale", "pretrained"),
)


class Options(Settings):
    """None: as the weights say, or else the default of the original's networks."""

    arch: Literal["psp", "psa"] | None = None
    layers: Literal[50, 101, 152] | None = None
    classes: PositiveInt | None = None
    zoom_factor: Literal[1, 2, 4, 8] = 8  # no effect: logits are upsampled where they are used, with aligned corners
    dropout: float = Field(0.1, ge=0, lt=1)

    bins: tuple[PositiveInt, ...] | None = None  # (1, 2, 3, 6)
    use_ppm: bool | None = None

    psa_type: Literal[0, 1, 2] | None = None  # collect, distribute, both
    compact: bool | None = None  # False
    shrink_factor: PositiveInt | None = None  # 2
    mask_h: PositiveInt | None = None
    mask_w: PositiveInt | None = None
    normalization_factor: PositiveFloat | None = 1.0  # None: the number of weights in a mask
    psa_softmax: bool = True

    train_h: PositiveInt | None = None
    train_w: PositiveInt | None = None
    test_h: PositiveInt | None = None
    test_w: PositiveInt | None = None
    base_size: PositiveInt | None = None
    scales: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _from_the_originals_forms(cls, tree: Any) -> Any:  # noqa: ANN401
        """Empty keys are left out, except for the factor, where they have a meaning; `PSPNet` is `psp`."""
        if not isinstance(tree, dict):
            return tree
        tree = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in tree.items()}
        tree = {key: None if value == "" else value for key, value in tree.items()}
        tree = {key: value for key, value in tree.items() if value is not None or key == "normalization_factor"}
        if isinstance(tree.get("arch"), str):
            tree["arch"] = tree["arch"].lower().removesuffix("net")
        return tree | {key: _as_list(tree[key]) for key in ("bins", "scales") if key in tree}

    @property
    def train_crop(self) -> Size | None:
        return _both(self.train_h, self.train_w)

    @property
    def test_crop(self) -> Size | None:
        return _both(self.test_h, self.test_w) or self.train_crop


def _as_list(value: Any) -> Any:  # noqa: ANN401
    """A single number stands for a list of one; text becomes what `Settings` reads as a list."""
    if isinstance(value, str):
        return f"[{value.strip('[]() ')}]"
    return [value] if isinstance(value, int | float) else value


def _both(height: int | None, width: int | None) -> Size | None:
    """One side stands for both."""
    known = height or width
    return None if known is None else (height or known, width or known)


def unpacked(tree: OptionTree, label: str) -> dict[str, Any]:
    """The keys of a YAML file, in sections or flat, overridden by options. Raises ConfigError for unknown keys."""
    options, known = _flat(tree), (*Options.model_fields, *OTHERS, CONFIG)
    file = options.pop(CONFIG, None)
    require_known(options, known, label)
    if file is not None:
        keys = _flat(_read(user_path(file)))
        require_known(keys, known, str(file))
        options = {**keys, **options}
    return {name: value for name, value in options.items() if name not in OTHERS}


def _flat(tree: OptionTree) -> dict[str, Any]:
    """If a key is in several sections, the last one counts, as in the original."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= value if name in SECTIONS and isinstance(value, dict) else {name: value}
    return flat


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise FileNotFoundError(f"{CONFIG}={path}: cannot be read: {error.strerror}") from None
    except TreeError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        kind = type(tree).__name__
        raise ConfigError(f"{path}: expected sections {', '.join(SECTIONS)} with keys in them, got {kind}")
    return tree
