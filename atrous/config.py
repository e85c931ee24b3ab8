"""An experiment as one value: joins the sections that the components own, and reads recipes and overrides."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from atrous import other_words, trees
from atrous.backbones import BackboneConfig
from atrous.config_errors import explain
from atrous.config_kinds import KINDS, kind_named, kinds_of_task
from atrous.data import FORMATS, AnyDataConfig, description
from atrous.data.augment_config import AugmentConfig
from atrous.data.recognising import recognised
from atrous.errors import ConfigError, nearest, shown, warn_once
from atrous.files import user_path
from atrous.inference import InferenceConfig
from atrous.models import MODELS, AnyModelConfig, format_1, task_of
from atrous.optim import OptimConfig
from atrous.recipes import hint
from atrous.recipes import recipes as recipes
from atrous.settings import Settings
from atrous.tasks import TASKS
from atrous.train_config import AUTO, TrainConfig
from atrous.trees import Tree, TreeError, kind_of, parse_yaml, read_yaml

ALTERNATIVES = {"train.steps": "epochs", "train.epochs": "steps"}  # the field that each one takes the place of
BEGINNINGS = {  # the same for fields of two sections: what a training begins with
    ("train", "init"): (("model", "pretrained"),),
    ("model", "pretrained"): (("train", "init"), ("train", "reuse")),
}


class Config(Settings):
    """Everything that an experiment depends on; stored in the run's folder and in the model file."""

    model: AnyModelConfig
    """Architecture and backbone of the network."""
    data: AnyDataConfig
    """Images and labels: their layout, folder, splits and class names."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of the training images, and the crop."""
    loss: SerializeAsAny[Settings] = Field(default_factory=Settings, validate_default=True)
    """What the training minimises; its settings follow from the model's task."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and learning rate."""
    train: TrainConfig = TrainConfig()
    """Length, batch, initial weights and saves of the training."""
    evaluate: InferenceConfig = InferenceConfig()
    """How images are shown to the network when they are validated, evaluated and predicted."""
    decode: SerializeAsAny[Settings] = Field(default_factory=Settings, validate_default=True)
    """From the network's output to labels; its settings follow from the model's task."""

    @field_validator("loss", "decode", mode="before")
    @classmethod
    def _of_the_task(cls, settings: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any YAML value
        return section_of_task(settings, info)

    @field_validator("train")
    @classmethod
    def _begins_with_one(cls, settings: TrainConfig, info: ValidationInfo) -> TrainConfig:
        model = info.data.get("model")
        if settings.init is not None and model is not None and model.pretrained is not None:
            raise ValueError(
                f"init={settings.init} and model.pretrained={model.pretrained} both say what the training begins with; "
                "set one of them"
            )
        return settings


def section_of_task(settings: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any YAML value
    """For field validators: the section as the settings that belong to the model's task."""
    if "model" not in info.data or not isinstance(settings, dict | Settings):
        return settings
    kind = kinds_of_task(task_of(info.data["model"]))[str(info.field_name)]
    if isinstance(settings, kind):
        return settings
    return kind.model_validate(settings.model_dump() if isinstance(settings, Settings) else settings)


def load(source: str, overrides: Sequence[str] = ()) -> Config:
    """The config of a recipe, by name, or of a YAML file, with `section.field=value` overrides on top.

    Raises ConfigError, or FileNotFoundError for the file.
    """
    tree = read_tree(source)
    _refuse_dataset(tree, source)
    return check(merge(tree, parse_overrides(overrides)), source=source, overrides=overrides)


def _refuse_dataset(tree: Tree, source: str) -> None:
    """The YAML of an Ultralytics dataset has paths where an experiment has settings."""
    if "names" in tree and isinstance(tree.get("train"), str | list):
        folder = Path(source).parent / str(tree.get("path") or "")
        raise ConfigError(
            f"{source} describes a dataset, not an experiment; if its labels are masks: "
            f"atrous train folder/deeplab_v3plus data.root={folder}"
        )


def override(config: Config, overrides: Sequence[str], source: str) -> Config:
    """`config`, as read from `source`, with `section.field=value` overrides on top."""
    return check(merge(to_tree(config), parse_overrides(overrides)), source=source, overrides=overrides)


def check(tree: Tree, *, source: str, overrides: Sequence[str] = ()) -> Config:
    """The tree as a Config. Raises ConfigError in one line: the key, what is wrong, what would be right, and where.

    data.format=auto becomes the layout of data.root, which is said.
    """
    try:
        return Config.model_validate(_recognised({}, tree))
    except ValidationError as error:
        raise ConfigError(explain(error, known_keys(tree), source, overrides)) from None


def _recognised(below: Tree, above: Tree) -> Tree:
    """`above` with the layout that the folder has, where it sets data.format=auto, or a folder and nothing else."""
    section, old = above.get("data"), below.get("data")
    settings = {**(old if isinstance(old, dict) else {}), **(section if isinstance(section, dict) else {})}
    if not isinstance(section, dict) or settings.get("format", "auto") != "auto" or not settings.get("root"):
        return above
    name = recognised(Path(str(settings["root"])), FORMATS)
    _say_what_is_seen(name, {**settings, "format": name})
    return {**above, "data": {**section, "format": name}}


def _say_what_is_seen(name: str, settings: Tree) -> None:
    kind = FORMATS[name].config
    with suppress(ValidationError):  # said of the whole config
        known = {key: value for key, value in settings.items() if key in kind.model_fields}
        text = description(kind.model_validate(known))
        warn_once(text, text)


# ---- YAML in and out


def find(source: str, folder: Path = Path()) -> Path:
    """The file of a recipe, by its name or by a path relative to `folder` or to the working directory.

    Raises FileNotFoundError with the nearest known name.
    """
    for path in (recipes().get(source, folder / source), user_path(source)):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no such recipe or YAML file: {source}{hint(source)}")


def read_tree(source: str, chain: tuple[Path, ...] = ()) -> Tree:
    """A YAML file as a tree, merged over the tree of its `base:`, which is a recipe or a file relative to it.

    Raises ConfigError if it is not a YAML file of sections, or FileNotFoundError.
    """
    path = _find_base(source, chain) if chain else find(source)
    if path.resolve() in [step.resolve() for step in chain]:
        raise ConfigError(f"{path}: `base` leads back to itself: {' -> '.join(str(step) for step in (*chain, path))}")
    tree = _sections(path)
    base = tree.pop("base", None)
    tree = format_1.upgraded_experiment(tree) if format_1.is_experiment(tree) else tree
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base={shown(base)}: must be the name of a recipe or the path of a YAML file")
    return merge(read_tree(base, (*chain, path)), tree)


def _find_base(source: str, chain: tuple[Path, ...]) -> Path:
    try:
        return find(source, chain[-1].parent)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{chain[-1]}: base: {error}") from None


def _sections(path: Path) -> Tree:
    """What a YAML file holds. `train.steps: 5` is understood as `train: {steps: 5}`. Raises ConfigError."""
    try:
        tree = read_yaml(path)
    except TreeError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        what = "an empty file" if tree is None else kind_of(tree)
        raise ConfigError(f"{path}: must be a mapping of sections such as `train:`, got {what}")
    return _nested(tree, path)


def _nested(tree: Mapping[Any, Any], path: Path, section: str = "") -> Tree:
    """The tree without dots in the names of sections and of their fields. Raises ConfigError for other names."""
    nested: Tree = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise ConfigError(f"{path}: {section}{key}: unknown key; it must be a name such as train")
        inner = _nested(value, path, f"{key}.") if not section and _is_section(value) else value
        *above, name = key.split(".")
        for part in reversed(above):
            inner, name = {name: inner}, part
        nested = _joined(nested, {name: inner}, path, section)
    return nested


def _joined(one: Tree, other: Tree, path: Path, place: str) -> Tree:
    """Both trees' keys; only sections may be in both."""
    joined = dict(one)
    for key, value in other.items():
        old = joined.get(key)
        if key in joined and not (_is_section(old) and _is_section(value)):
            raise ConfigError(f"{path}: {place}{key} is given twice")
        joined[key] = _joined(old, value, path, f"{place}{key}.") if isinstance(old, dict) else value
    return joined


def parse_overrides(overrides: Sequence[str]) -> Tree:
    """`["train.steps=5", ...]` as a tree. Its values are still text, since only the fields know their types.

    Later values win. Raises ConfigError for an override that is not of this form.
    """
    tree: Tree = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, _ = key.partition(".")
        if not (equals and dot and section):
            meaning = other_words.hint(key, value) or (nearest(key, known_keys({})) if equals else "")
            form = "an override has the form section.field=value, such as train.steps=1000"
            raise ConfigError(f"{text!r}: {form}{meaning}")
        tree = _put(tree, key.split("."), None if value in ("null", "none", "None") else value)
    return tree


def _put(tree: Tree, keys: Sequence[str], value: Any, section: str = "") -> Tree:  # noqa: ANN401 - any YAML value
    """The tree with `value` at the path `keys`, next to the values of earlier overrides."""
    key, *rest = keys
    place = f"{section}.{key}" if section else key
    old, new = _as_section(place, tree.get(key)), _as_section(place, value)
    if rest:
        new = _put(old if isinstance(old, dict) else {}, rest, value, place)
    elif isinstance(old, dict) and isinstance(new, dict):
        new = {**old, **new}
    return {**tree, key: new}


def merge(below: Tree, above: Tree, section: str = "") -> Tree:
    """`above` merged over `below`, key by key. A section that changes its kind keeps the settings that both kinds have.

    A mapping whose keys are numbers, such as class names, is a single value.
    """
    merged = dict(below) if section else _without_replaced(below, above)
    above = above if section else _recognised(below, above)
    for key, value in above.items():
        place = f"{section}.{key}" if section else key
        old, new = _as_section(place, merged.get(key)), _as_section(place, value)
        if (place, value) == ("train.batch", AUTO):  # the number below stays that of the images
            key, value, new = "micro_batch", AUTO, AUTO
        if place in ALTERNATIVES and value is not None:
            merged.pop(ALTERNATIVES[place], None)
        is_section = _is_section(old) and _is_section(new)
        merged[key] = merge(_of_kind(place, old, new), new, place) if is_section else value
    return merged


def _without_replaced(below: Tree, above: Tree) -> Tree:
    """`below` without the source of initial weights in whose place `above` sets another."""
    tree = dict(below)
    for (section, key), replaced in BEGINNINGS.items():
        settings = above.get(section)
        if isinstance(settings, dict) and settings.get(key) not in (None, "none"):
            for other, name in replaced:
                old = tree.get(other)
                tree |= {other: {k: v for k, v in old.items() if k != name}} if isinstance(old, dict) else {}
    return tree


def _is_section(value: Any) -> bool:  # noqa: ANN401 - any YAML value
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _as_section(place: str, value: Any) -> Any:  # noqa: ANN401 - any YAML value
    """`resnet50s` for a backbone is `{name: resnet50s}`."""
    if place not in KINDS or "." not in place or not isinstance(value, str):
        return value
    return _flow_mapping(value) if value.startswith("{") else {KINDS[place][0]: value}


def _flow_mapping(text: str) -> Any:  # noqa: ANN401 - any YAML value
    try:
        return parse_yaml(text)
    except TreeError:
        return text


def _of_kind(section: str, old: Tree, new: Tree) -> Tree:
    key, _ = KINDS.get(section, ("", {}))
    name = new.get(key)
    kind = kind_named(section, name)
    if kind is None or name == old.get(key):
        return old
    return {field: value for field, value in old.items() if field in kind.model_fields}


def in_steps(config: Config, num_images: int, images_per_step: int) -> Config:
    """The config with its length in steps, where it is given in epochs: the last step completes the last epoch."""
    if config.train.epochs is None:
        return config
    steps = math.ceil(round(config.train.epochs * num_images / images_per_step, 6))
    after = config.train.quantize_after
    if after is not None and after >= steps:
        length = f"the training's {steps} steps ({config.train.epochs:g} epochs)"
        raise ConfigError(f"train.quantize_after={after} must be less than {length}")
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps, "epochs": None})})


def to_tree(config: BaseModel) -> Tree:
    tree: Tree = json.loads(config.model_dump_json())
    return tree


def to_yaml(config: BaseModel) -> str:
    return trees.to_yaml(to_tree(config))


def schema() -> Tree:
    """The JSON schema with which an editor completes and checks a recipe."""
    tree = Config.model_json_schema()
    for section in ("loss", "decode"):
        kinds = [kinds_of_task(name)[section].model_json_schema() for name in TASKS]
        tree["properties"][section] = {"anyOf": kinds}
    tree["properties"]["base"] = {"type": "string", "description": "the recipe that this one derives from"}
    tree["required"] = []
    return tree


def differences(one: Config, other: Config) -> Iterator[tuple[str, Any, Any]]:
    """(section.field, value in one, value in the other) wherever they differ."""
    left, right = to_tree(one), to_tree(other)
    for section in left:
        yield from _differences(section, left[section], right[section])


def _differences(place: str, left: Any, right: Any) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401 - any YAML value
    if isinstance(left, dict) and isinstance(right, dict):
        for key in {**left, **right}:
            yield from _differences(f"{place}.{key}", left.get(key), right.get(key))
    elif left != right:
        yield place, left, right


def known_keys(tree: Tree) -> list[str]:
    """Every `section.field` that this tree may have, for the kinds of its sections."""
    keys = list(Config.model_fields)
    for section, field in {**Config.model_fields, **_fields_of_task(tree)}.items():
        keys += _keys_within(section, field, tree.get(section))
    return keys


def _fields_of_task(tree: Tree) -> dict[str, FieldInfo]:
    model = tree.get("model")
    name = str(model.get("name")) if isinstance(model, dict) else ""
    if name not in MODELS:
        return {}
    return {section: FieldInfo(annotation=kind) for section, kind in kinds_of_task(MODELS[name].task).items()}


def _keys_within(section: str, field: FieldInfo, part: Any) -> Iterator[str]:  # noqa: ANN401 - any YAML value
    kind = _kind_of(section, field, part) if section in KINDS else field.annotation
    if isinstance(kind, type) and issubclass(kind, Settings):
        for name, inner in kind.model_fields.items():
            yield f"{section}.{name}"
            yield from _keys_within(f"{section}.{name}", inner, part.get(name) if isinstance(part, dict) else None)


def _kind_of(section: str, field: FieldInfo, part: Any) -> type[Settings] | None:  # noqa: ANN401 - any YAML value
    key, _ = KINDS[section]
    default = field.default.name if isinstance(field.default, BackboneConfig) else ""
    return kind_named(section, str(part.get(key, default) if isinstance(part, dict) else part or default))
