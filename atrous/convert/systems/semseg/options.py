"""The keys of semseg's YAML files, and its networks' arguments, that a model or its test depends on, by their names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from atrous.convert.filling import require_known, validated
from atrous.settings import Settings

Size = tuple[int, int]  # height, width
SECTIONS = ("DATA", "TRAIN", "Distributed", "TEST")
CONFIG = "config"  # a path: one of the original's YAML files, whose keys count where no option says otherwise
OTHERS = (  # of a whole file, of no matter here
    *("data_root", "train_list", "val_list", "test_list", "sync_bn", "ignore_label", "aux_weight", "weight", "resume"),
    *("scale_min", "scale_max", "rotate_min", "rotate_max", "train_gpu", "workers", "batch_size", "batch_size_val"),
    *(
        "base_lr",
        "epochs",
        "start_epoch",
        "power",
        "momentum",
        "weight_decay",
        "manual_seed",
        "print_freq",
        "save_freq",
    ),
    *("save_path", "evaluate", "dist_url", "dist_backend", "multiprocessing_distributed", "world_size", "rank"),
    *("split", "has_prediction", "index_start", "index_step", "test_gpu", "model_path", "save_folder", "colors_path"),
    *("names_path", "use_apex", "opt_level", "keep_batchnorm_fp32", "loss_scale", "pretrained"),
)


class Options(Settings):
    """None: as the weights say, or else what the original's networks have by default."""

    arch: Literal["psp", "psa"] | None = None
    layers: Literal[50, 101, 152] | None = None
    classes: PositiveInt | None = None
    zoom_factor: Literal[1, 2, 4, 8] = 8  # no matter: logits are upsampled where they are used, with aligned corners
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
    def _as_the_original_writes_them(cls, tree: Any) -> Any:  # noqa: ANN401
        """An empty key is none, but for a factor, where it has a meaning; names of classes for those of networks."""
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
    """A single number stands for a list of one; text is read as that of any other setting is."""
    if isinstance(value, str):
        return f"[{value.strip('[]() ')}]"
    return [value] if isinstance(value, int | float) else value


def _both(height: int | None, width: int | None) -> Size | None:
    """One side alone stands for both."""
    known = height or width
    return None if known is None else (height or known, width or known)


def read_options(given: Mapping[str, Any], label: str) -> Options:
    """The sections of a YAML file, or its keys, or `config` and what is to differ. Raises ValueError in one line."""
    given = _flat(given)
    file = given.pop(CONFIG, None)
    known = (*Options.model_fields, *OTHERS, CONFIG)
    require_known(given, known, label)
    if file is not None:
        inside = _flat(_read(Path(file)))
        require_known(inside, known, str(file))
        given = {**inside, **given}
    return validated(Options, {name: value for name, value in given.items() if name not in OTHERS}, label)


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Of a key in several sections the last counts, as in the original."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= value if name in SECTIONS and isinstance(value, dict) else {name: value}
    return flat


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileNotFoundError(f"{CONFIG}={path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: no YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: sections {', '.join(SECTIONS)} with keys in them, not {type(tree).__name__}")
    return tree
