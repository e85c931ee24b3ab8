"""Upgrades the settings of model files and runs of format 1, in which a model's settings were flat.

A tree is a configuration before it is checked. Trees of the current format pass through unchanged.
"""

from collections.abc import Mapping
from typing import Any

from atrous.backbones import BACKBONES

Tree = dict[str, Any]

# Every model had these, with these defaults, whatever its backbone.
BACKBONE: Mapping[str, Any] = {
    "depth_multiplier": 1.0,
    "divisible_by": None,
    "multi_grid": None,
    "bounded": False,
    "classification_head": False,
    "remove_stride_32": False,
    "drop_path": 0.0,
}
ASPP = {
    "rates": "rates",
    "aspp_channels": "channels",
    "separable": "separable",
    "dropout": "dropout",
    "image_level": "image_level",
    "pooling_window": "pooling_window",
    "pooling_stride": "pooling_stride",
    "projection": "projection",
    "squeeze": "squeeze",
    "norm_eps": "norm_eps",
}
DECODER = {
    "decoder_strides": "strides",
    "low_level_channels": "low_level_channels",
    "decoder_channels": "channels",
    "decoder_separable": "separable",
    "decoder_merge": "merge",
    "decoder_logits": "logits",
}
SECTIONS: Mapping[str, Mapping[str, Mapping[str, str]]] = {  # by model: section -> flat name -> name in the section
    "deeplab_v3": {"aspp": ASPP},
    "deeplab_v3plus": {"aspp": ASPP, "decoder": DECODER},
    "dense_prediction_cell": {"decoder": DECODER},
}
RENAMED = {"lraspp": {"aspp_channels": "head_channels"}}
UNUSED: Mapping[str, tuple[str, ...]] = {  # settings that a model had but never read
    **dict.fromkeys(
        ("fcn", "pspnet", "psanet", "icnet", "encnet", "ccnet", "danet", "ocnet"), ("image_pyramid", "merge")
    ),
    "image_classifier": ("image_pyramid", "merge", "align_corners"),
}

HEADS = {
    "auxiliary": 0.4,
    "cascade_0": 0.16,
    "cascade_1": 0.4,
    "presence": 0.2,
}  # the weights that the loss had by default


def upgraded(model: Tree) -> Tree:
    """The settings of a model."""
    name = str(model.get("name"))
    sections, renamed = SECTIONS.get(name, {}), RENAMED.get(name, {})
    moved = {*BACKBONE, *UNUSED.get(name, ()), *(flat for names in sections.values() for flat in names)}
    tree = {renamed.get(field, field): value for field, value in model.items() if field not in moved}
    for section, names in sections.items():
        fields = {new: model[flat] for flat, new in names.items() if flat in model}
        if fields:
            tree[section] = fields
    return tree | _backbone(model)


def upgraded_experiment(tree: Tree) -> Tree:
    """All sections of an experiment."""
    sections = {"model": upgraded, "loss": _loss}
    return {
        name: sections[name](section) if name in sections and isinstance(section, dict) else section
        for name, section in tree.items()
    }


def is_experiment(tree: Tree) -> bool:
    """Whether the experiment has format 1: it then has all flat settings of backbones."""
    model = tree.get("model")
    return isinstance(model, dict) and BACKBONE.keys() <= model.keys()


def upgraded_row(row: Tree) -> Tree:
    """A row of a run's metrics. A validation had its scores next to the step."""
    if "per_class" not in row:
        return row
    scores = {name: value for name, value in row.items() if name not in ("step", "per_class")}
    return {"step": row["step"], "scores": scores, "classes": row["per_class"]}


def new_names(section: str, field: str) -> list[str]:
    """The names that a flat setting may have now, such as `model.aspp.channels`; the model decides which."""
    if section == "loss":
        return [
            f"loss.weights.{name}" for name in HEADS if field in ("auxiliary", "cascade", "presence") and field in name
        ]
    nested = [f"model.backbone.{field}"] if field in BACKBONE else []
    nested += [f"model.aspp.{ASPP[field]}"] if field in ASPP else []
    nested += [f"model.decoder.{DECODER[field]}"] if field in DECODER else []
    return nested + [f"model.{renamed[field]}" for renamed in RENAMED.values() if field in renamed]


def _backbone(model: Tree) -> Tree:
    """The backbone with the settings of its family. Others had no effect, or were refused."""
    settings = {field: model[field] for field in BACKBONE if field in model}
    name = model.get("backbone")
    if not settings:
        return {} if name is None else {"backbone": name}
    known = BACKBONES[name].Config.model_fields if isinstance(name, str) and name in BACKBONES else settings
    used = {field: value for field, value in settings.items() if field in known or value != BACKBONE[field]}
    return {"backbone": used if name is None else {"name": name, **used}}


def _loss(loss: Tree) -> Tree:
    if not isinstance(loss.get("cascade", []), list | tuple):
        return loss  # which is then refused
    weights: Tree = {name: loss[name] for name in ("auxiliary", "presence") if name in loss}
    weights |= {f"cascade_{index}": weight for index, weight in enumerate(loss.get("cascade", ()))}
    changed = {name: weight for name, weight in weights.items() if weight != HEADS.get(name)}
    others = {field: value for field, value in loss.items() if field not in ("auxiliary", "cascade", "presence")}
    return {**others, "weights": changed} if changed else others
