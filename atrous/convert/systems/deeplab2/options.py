"""What weights of deeplab2 can't tell: its textproto, as a file or as text, the data set, the crop."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from atrous.convert.options import require_known
from atrous.convert.readers.textproto import parse
from atrous.convert.system import OptionTree
from atrous.convert.systems.deeplab2.messages import Evaluator, Experiment, Model, read
from atrous.errors import ConfigError
from atrous.files import user_path
from atrous.settings import Settings
from atrous.types import Size

TEXTS = (
    "config",
    "config_text",
    "evaluator",
)  # a path; the same as text, or its model_options alone; evaluator_options
LARGEST = 16 << 20  # bytes of a file


class Options(Settings):
    """None: as the weights say, or else the original's default."""

    model: Model | None = None
    evaluator: Evaluator | None = None
    dataset: str | None = None
    crop_size: tuple[PositiveInt, PositiveInt] | None = None  # of the training: height, width
    batchnorm_epsilon: PositiveFloat | None = None
    output_stride: Literal[8, 16, 32] | None = None


PLAIN = ("dataset", "crop_size", "output_stride")


def unpacked(tree: OptionTree, label: str) -> dict[str, Any]:
    """The texts as values. An option takes precedence over the same in a textproto."""
    require_known(tree, (*TEXTS, *PLAIN), label)
    options = _from_experiment(_experiment(tree, label), label)
    if (text := tree.get("evaluator")) is not None:
        options["evaluator"] = _read_evaluator(_text(text, "evaluator", label))
    options |= {name: tree[name] for name in PLAIN if tree.get(name) is not None}
    if "crop_size" in options:
        options["crop_size"] = _both_sides(options["crop_size"], label)
    return options


def _experiment(tree: OptionTree, label: str) -> Experiment | None:
    if tree.get("config") is not None and tree.get("config_text") is not None:
        raise ConfigError(f"{label}: config and config_text are two forms of one option")
    if tree.get("config") is not None:
        path = user_path(tree["config"])
        return _read_experiment(_file_text(path), str(path))
    if tree.get("config_text") is not None:
        return _read_experiment(_text(tree["config_text"], "config_text", label), "config_text")
    return None


def _read_experiment(text: str, label: str) -> Experiment:
    """A whole textproto, or its model_options alone."""
    message = parse(text, label)
    if message.keys() & Experiment.model_fields.keys():
        return read(Experiment, message, label)
    return Experiment(model_options=read(Model, message, label))


def _read_evaluator(text: str) -> Evaluator | None:
    """The content of evaluator_options, or a textproto that has them."""
    message = parse(text, "evaluator")
    if message.keys() & Experiment.model_fields.keys():
        return read(Experiment, message, "evaluator").evaluator_options
    return read(Evaluator, message, "evaluator")


def _file_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"config={path}: too large for a textproto")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileNotFoundError(f"config={path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config={path}: not a textproto: it isn't UTF-8") from None


def _text(value: object, name: str, label: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{label}: {name} must be a text, got {type(value).__name__}")
    return value


def _from_experiment(experiment: Experiment | None, label: str) -> dict[str, Any]:
    if experiment is None:
        return {}
    training, evaluation = experiment.train_dataset_options, experiment.eval_dataset_options
    trainer = experiment.trainer_options
    options = {
        "model": experiment.model_options,
        "evaluator": experiment.evaluator_options,
        "dataset": training.dataset or evaluation.dataset,
        "crop_size": training.crop_size or evaluation.crop_size or None,
        "batchnorm_epsilon": None if trainer is None else trainer.solver_options.batchnorm_epsilon,
    }
    return {name: value for name, value in options.items() if value is not None}


def _both_sides(crop: Any, label: str) -> Size:  # noqa: ANN401
    """One number stands for height and width."""
    sides = crop.tolist() if isinstance(crop, np.ndarray | np.generic) else crop
    if isinstance(sides, str):
        sides = [int(side) if side.strip().isdecimal() else side for side in sides.strip("[]()").split(",")]
        sides = sides * 2 if len(sides) == 1 else sides
    sides = [sides, sides] if isinstance(sides, int) else sides
    is_pair = isinstance(sides, list | tuple) and len(sides) == 2
    if not is_pair or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(f"{label}: crop_size must be a number or height,width, such as 641,1025, got {crop}")
    height, width = sides
    return height, width
