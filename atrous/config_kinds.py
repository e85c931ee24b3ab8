"""The sections of an experiment that come in several kinds, and which settings each kind has."""

from collections.abc import Mapping

from atrous.backbones import BACKBONES, PREFIXES
from atrous.data import FORMATS
from atrous.models import MODELS
from atrous.settings import Settings
from atrous.tasks import TASKS

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


def kinds_of_task(name: str) -> dict[str, type[Settings]]:
    """The sections whose settings follow from the model's task."""
    return {"loss": TASKS[name].loss, "decode": TASKS[name].decoding}
