"""An experiment as one value: joins the sections that the components own, and reads recipes and overrides."""

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from atrous import other_words, trees
from atrous.backbones import BACKBONES, PREFIXES, BackboneConfig
from atrous.data import FORMATS, AnyDataConfig, description
from atrous.data.augment_config import AugmentConfig
from atrous.data.recognising import recognised
from atrous.errors import ConfigError, listing, warn_once
from atrous.files import user_path
from atrous.inference import InferenceConfig
from atrous.models import MODELS, AnyModelConfig, format_1, task_of
from atrous.optim import OptimConfig
from atrous.recipes import hint
from atrous.recipes import recipes as recipes
from atrous.settings import MAX_COUNT, Count, Seed, Settings
from atrous.tasks import TASKS
from atrous.trees import TreeError, kind_of, parse_yaml, read_yaml

Tree = dict[str, Any]  # a configuration before it is checked

# Sections that come in several kinds; a key says which. Below the top level, its value may stand for the section.
KINDS: dict[str, tuple[str, Mapping[str, type[Settings]]]] = {
    "model": ("name", {name: model.Config for name, model in MODELS.items()}),
    "model.backbone": ("name", {name: backbone.Config for name, backbone in BACKBONES.items()}),
    "data": ("format", {name: layout.config for name, layout in FORMATS.items()}),
}
PREFIXED: dict[str, Mapping[str, type[Settings]]] = {  # further kinds, by how their names begin, such as timm:resnet50
    "model.backbone": {prefix: backbone.Config for prefix, backbone in PREFIXES.items()},
}


def kind_named(section: str, name: object) -> type[Settings] | None:
    """The settings of a section of this kind; None if there is no such kind."""
    if section not in KINDS or not isinstance(name, str):
        return None
    others = PREFIXED.get(section, {}).items()
    return KINDS[section][1].get(name) or next((kind for prefix, kind in others if name.startswith(prefix)), None)


AUTO = "auto"  # train.batch and train.micro_batch: as many images as fit the memory


class TrainConfig(Settings):
    steps: Count = 30_000
    """Updates of the weights in the whole training."""
    epochs: float | None = Field(None, gt=0, le=100_000)
    """Passes over the training images, in place of `steps`; none: `steps` counts."""
    batch: int = Field(8, ge=1, le=2**16)
    """Images that one process takes in one pass; fewer need less memory."""
    accumulate: Count = 1
    """Passes whose gradients are summed into one update: a larger batch without more memory."""
    micro_batch: Count | Literal["auto"] | None = None
    """Images that go through the network at once, where a whole `batch` doesn't fit; auto: as many as fit."""
    seed: Seed = 0
    """Starting point of everything random: equal seeds give equal trainings."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each process holds all weights; fsdp: they share them out, which needs less memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the passes; bf16 is faster and needs less memory on recent GPUs."""
    activation_checkpointing: bool = False
    """Compute the backbone's activations again in the backward pass: less memory, more time, the same numbers."""
    batch_norm: Literal["tuned", "frozen"] = "tuned"
    """frozen: keep the statistics of the batch norms, for small batches; scales and shifts still learn."""
    batch_norm_momentum: float | None = Field(None, gt=0, le=1)
    """Weight of the newest batch in the statistics of batch norms; none: each layer's own."""
    init: Annotated[str, Field(min_length=1)] | None = None
    """Begin with the weights of this model file, or of anything that `atrous convert` reads."""
    reuse: Literal["all", "all_but_logits", "backbone", "matching"] = "all"
    """Which weights of `init` to take; all_but_logits where the classes differ, matching for whatever fits."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of averaged weights, which are then evaluated and saved, such as 0.999; none: no averaging."""
    quantize_after: int | None = Field(None, ge=0, le=MAX_COUNT)
    """Steps before the network learns 8-bit arithmetic, for `atrous export --int8`; none: never."""
    save_every: Count = 500
    """Steps between two saves: what a kill can lose at most."""
    eval_every: Count | None = 1000
    """Steps between two validations; none: only after the last step, as where `atrous evaluate --watch` runs."""
    patience: Count | None = None
    """Validations without a better score after which the training ends early; none: all steps are done."""
    log_every: Count = 10
    """Steps between two lines of progress."""
    tensorboard: bool = False
    """Also write TensorBoard's event files into the run's folder; needs the extra tensorboard."""
    profile_steps: tuple[Count, Count] | None = None
    """First and last step that PyTorch's profiler records, such as 10,15; none: it doesn't run."""

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> "TrainConfig":
        if self.profile_steps is not None and self.profile_steps[0] > self.profile_steps[1]:
            raise ValueError(f"profile_steps={list(self.profile_steps)}: the last one comes before the first one")
        if self.patience is not None and self.eval_every is None:
            raise ValueError(f"patience={self.patience} needs eval_every: it counts validations")
        return self

    @model_validator(mode="after")
    def _quantizes_in_time(self) -> "TrainConfig":
        if self.quantize_after is None:
            return self
        if self.epochs is None and self.quantize_after >= self.steps:
            raise ValueError(
                f"quantize_after={self.quantize_after} must be less than steps={self.steps}: no step would be left to "
                "learn from rounded values"
            )
        if self.parallel == "fsdp":
            raise ValueError("quantize_after needs parallel=ddp: processes that share weights out can't round them")
        return self

    @model_validator(mode="before")
    @classmethod
    def _automatic_batch(cls, settings: Any) -> Any:  # noqa: ANN401 - any YAML value
        """`batch: auto` leaves the number of images as it is, and finds how many go through the network at once."""
        if not isinstance(settings, dict) or settings.get("batch") != AUTO:
            return settings
        return {"micro_batch": AUTO, **{name: value for name, value in settings.items() if name != "batch"}}

    @property
    def parts(self) -> int:
        """Passes that a batch is computed in."""
        return 1 if self.micro_batch in (None, AUTO) else -(-self.batch // int(self.micro_batch))

    @model_validator(mode="after")
    def _reuse_needs_init(self) -> "TrainConfig":
        if self.reuse != "all" and self.init is None:
            raise ValueError(f"reuse={self.reuse} needs init, the file that the weights come from")
        return self


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


def kinds_of_task(name: str) -> dict[str, type[Settings]]:
    """The sections whose settings follow from the model's task."""
    return {"loss": TASKS[name].loss, "decode": TASKS[name].decoding}


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
        raise ConfigError(explain(error, tree, source, overrides)) from None


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
        raise ConfigError(f"{path}: base={_brief(base)}: must be the name of a recipe or the path of a YAML file")
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


# ---- errors in one line

EXPERIMENT = "training"  # the section of a model's header that holds a whole experiment
MAX_SHOWN = 60  # characters of a value
MANY = 40  # names in an error of one line
EXPLANATIONS = {  # pydantic's type of an error -> what is expected
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_unicode": "must be text of whole characters",
    "invalid_key": "a key must be a name",
    "tuple_type": "must be a list such as [1, 2]",
    "dict_type": "must be a list or a mapping",
    "model_type": "must be a mapping of settings",
    "model_attributes_type": "must be a mapping of settings",
    "path_type": "must be a path",
    "too_long": "wrong number of values: at most {max_length}, got {actual_length}",
    "too_short": "wrong number of values: at least {min_length}, got {actual_length}",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
}


def explain(error: ValidationError, tree: Tree, source: str, overrides: Sequence[str], *, section: str = "") -> str:
    """The first error in one line, with the number of others; `section` names the only section that was checked."""
    above = (section,) if section else ()
    errors = [{**one, "loc": (*above, *one["loc"])} for one in _innermost(error.errors())]
    line, places = _explain_one(errors[0], tree), {_key(one) for one in errors}
    key = line.partition(":")[0].partition("=")[0]
    names = [text.partition("=")[0] for text in overrides]
    is_override = any(name.startswith(key) or key.startswith(f"{name}.") for name in names)
    place = "on the command line" if is_override else f"in {source}"
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return f"{line} ({place}){more}"


def brief(error: ValidationError, tree: Tree, *, section: str = "") -> str:
    """The first error as `key=value: reason`, for settings that come from neither a recipe nor the command line."""
    first = _innermost(error.errors())[0]
    place = (section, *first["loc"]) if section else first["loc"]
    if len(place) > 1 and place[0] == EXPERIMENT:
        return f"{EXPERIMENT}.{_explain_one({**first, 'loc': place[1:]}, tree[EXPERIMENT])}"
    return _explain_one({**first, "loc": place}, tree)


def _innermost(errors: Sequence[Any]) -> list[Any]:
    """Leave out errors that follow from others: a tuple that is too short because an item is wrong."""
    outer = {one["loc"][:length] for one in errors for length in range(len(one["loc"]))}
    return [one for one in errors if one["loc"] not in outer]


def _explain_one(details: Any, tree: Tree) -> str:  # noqa: ANN401
    kind, context = details["type"], details.get("ctx", {})
    path = _without_kind([str(part) for part in details["loc"]])
    key = _shortened(".".join(path))
    if kind == "extra_forbidden":
        path = [*path, *_single_keys(details["input"])]
        return f"{_shortened('.'.join(path))}: unknown key{_suggestion(path, tree)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _unknown_kind(key, details["input"])
    if kind == "missing" and len(path) > 1 and path[-1].isdigit():
        return f"{'.'.join(path[:-1])}: wrong number of values: at least {int(path[-1]) + 1}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key}: {context['error']}"
    reason = EXPLANATIONS[kind].format(**context) if kind in EXPLANATIONS else details["msg"]
    return f"{key}={_brief(details['input'])}: {reason}"


def _key(details: Any) -> str:  # noqa: ANN401
    return ".".join(_without_kind([str(part) for part in details["loc"]]))


def _unknown_kind(section: str, part: Any) -> str:  # noqa: ANN401 - any YAML value
    key, kinds = KINDS[section]
    place = section if "." in section else f"{section}.{key}"
    if isinstance(part, dict) and key not in part:
        return f"{place} is missing; known: {', '.join(kinds)}"
    value = str(part[key]) if isinstance(part, dict) else str(getattr(part, key, part))
    what = key if section == "data" else section.rpartition(".")[2]
    return f"{place}={_shortened(value)}: unknown {what}{nearest(value, kinds) or '; known: ' + listing(kinds, MANY)}"


def _single_keys(value: Any) -> Iterator[str]:  # noqa: ANN401 - any YAML value
    """The rest of an override's path below an unknown key."""
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        yield str(key)


def _suggestion(path: Sequence[str], tree: Tree) -> str:
    """What an unknown key may mean: its current name, a similar name in its section, or the same name elsewhere."""
    known, key = known_keys(tree), ".".join(path)
    if any(part.isdigit() for part in path) or len(key) > MAX_SHOWN:
        return ""
    if len(path) == 1:
        return nearest(key, [name for name in known if name.rpartition(".")[2] == key] or list(Config.model_fields))
    renamed = format_1.new_names(*path) if len(path) == 2 else []
    current = [name for name in renamed if name in known or path[0] == "loss"]
    if current:
        return f"; did you mean {current[0]}?"
    if meaning := other_words.hint(path[-1]):
        return meaning
    section = (renamed[0] if renamed else key).rpartition(".")[0]
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    if "." not in section or not siblings:
        fields = [name for name in known if "." in name]
        return nearest(key, fields) or nearest(key, list(siblings.values()))
    close = difflib.get_close_matches(path[-1], list(siblings), n=1)
    if close:
        return f"; did you mean {siblings[close[0]]}?"
    elsewhere = [name for name in known if name.rpartition(".")[2] == path[-1]]
    return nearest(key, elsewhere) if elsewhere else f"; known: {', '.join(siblings.values())}"


def _brief(value: object) -> str:
    return _shortened(value if isinstance(value, str) else json.dumps(value, default=str))


def _shortened(text: str) -> str:
    short = text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
    return short if short.isprintable() else short.encode("unicode_escape").decode()


def _without_kind(path: list[str]) -> list[str]:
    """Leave out what pydantic adds: the kinds of sections, the branches of unions."""
    places: list[str] = []
    for part in path:
        _, kinds = KINDS.get(".".join(places), ("", {}))
        if part not in kinds:
            places.append(part)
    parent = ".".join(places[:-1])
    if "." in parent and places[-1] == KINDS.get(parent, ("", {}))[0]:
        places.pop()  # users write `model.backbone=...`
    return [part for index, part in enumerate(places) if index < 2 or part.isdigit() or part.isidentifier()]


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


def nearest(word: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """`; did you mean ...?` with the nearest known word, or all of them if none is similar and there are few."""
    names = list(known)
    ends = [name for name in names if name.rpartition(".")[2] == word.rpartition(".")[2]]
    close = ends or difflib.get_close_matches(word[:MAX_SHOWN], names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 12 else ""
