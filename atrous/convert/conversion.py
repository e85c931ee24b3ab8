"""From another program's weights to a segmenter: the steps that are the same for every system."""

from pathlib import Path
from typing import NamedTuple

from atrous import segmenter
from atrous.convert.arrays import Shapes
from atrous.convert.class_names import read_names
from atrous.convert.declared import require_layers
from atrous.convert.filling import blank_model, fill, range_of_images, shapes_of
from atrous.convert.flow.agreement import disagreements, num_passes
from atrous.convert.flow.traced import expectation
from atrous.convert.flow.values import Flow
from atrous.convert.label_spaces import named_label_space
from atrous.convert.options import read_options, require_agreement, validated
from atrous.convert.readers.pth import held
from atrous.convert.system import Evidence, ForeignWeights, OptionsT, OptionTree, System, listed
from atrous.convert.systems import SYSTEMS
from atrous.errors import ConfigError, ConversionError, nearest
from atrous.models import MODELS, ModelConfig
from atrous.segmenter import Segmenter

KERNEL_AXES, ALMOST_ALL = 4, 0.9
PLAIN = "the weights themselves: the file also has a moving average of them, which --ema takes"


class Conversion(NamedTuple):
    segmenter: Segmenter
    system: str  # a row of SYSTEMS
    num_used: int  # weights that make up the model
    unused: list[str]  # weights that aren't part of a model: an optimiser's slots, counters
    assumptions: list[str]  # what neither weights nor options say
    source: ForeignWeights


def convert_weights(
    weights: ForeignWeights, system: str | None, options: OptionTree, labels: Path | None = None, *, ema: bool = False
) -> Conversion:
    """The model of these weights, or of their moving average, its classes named as in the file `labels`.

    Raises ConversionError or ConfigError, in one line, if there is none.
    """
    weights = weights if system else within_holder(weights)
    name = system or recognise(shapes_of(weights.arrays), weights.label)
    if name not in SYSTEMS:
        raise ConfigError(f"system={name}: no such system{nearest(name, SYSTEMS) or '; known: ' + ', '.join(SYSTEMS)}")
    row = SYSTEMS[name]
    weights = averaged(weights) if ema else weights
    weights = weights._replace(arrays=row.renamed(weights.arrays))
    evidence = agreed(row, weights, gather(row, weights, options))
    config = deduced_config(row, evidence)
    normalization = weights.normalization or row.normalization(evidence.options)
    model = blank_model(config, normalization)
    require_layers(model, row.layout.names(model, row.rules(config)), weights.layers, weights.label)
    unused = fill(model, row.rules(config), row.layout, weights.arrays, weights.label)
    label_space, classes = row.label_space(model.num_classes, evidence.options)
    if names := weights.class_names if labels is None else read_names(labels, model.num_classes):
        label = str(labels or weights.label)
        label_space, classes = named_label_space(names, label_space, label, weights.class_colors), []
    needed = [text for text, is_needed in row.assumptions(evidence, config).items() if is_needed]
    assumptions = needed + classes + range_of_images(model, normalization) + list(weights.left_out)
    assumptions += [PLAIN] if weights.averages else []
    origin = {
        "source": weights.label,
        "system": name,
        "options": {option: str(value) for option, value in options.items()},
        "unused": unused,
        "assumptions": assumptions,
    }
    header = {"inference": row.inference(evidence, config), "decode": row.decode(evidence, config), "origin": origin}
    result = segmenter.of_model(model.eval(), label_space, **header)
    return Conversion(result, name, len(weights.arrays) - len(unused), unused, assumptions, weights)


def averaged(weights: ForeignWeights) -> ForeignWeights:
    """With the moving average in place of the weights. Raises ConfigError where the file has no such thing."""
    if not weights.averages:
        raise ConfigError(f"--ema: {weights.label} holds no moving average beside its weights")
    return weights._replace(arrays={**weights.arrays, **weights.averages}, averages={})


def within_holder(weights: ForeignWeights) -> ForeignWeights:
    """Under the names in the network itself, where these are known: a training's module may call it anything."""
    inner: ForeignWeights | None = weights
    while inner is not None:
        shapes = shapes_of(inner.arrays)
        if any(row.recognised(shapes) for row in SYSTEMS.values()):
            return inner
        inner = _without_holder(inner)
    return weights


def _without_holder(weights: ForeignWeights) -> ForeignWeights | None:
    """The module that holds all kernels, and almost all weights, left out of the names; None if there is none."""
    shapes = shapes_of(weights.arrays)
    holders = {name.partition(".")[0] for name, shape in shapes.items() if len(shape) == KERNEL_AXES and "." in name}
    prefix = f"{next(iter(holders), '')}."
    num_inside = sum(name.startswith(prefix) for name in shapes)
    has_others = any(len(shape) == KERNEL_AXES and not name.startswith(prefix) for name, shape in shapes.items())
    if len(holders) != 1 or has_others or num_inside < ALMOST_ALL * len(shapes):
        return None
    return weights._replace(arrays=held(weights.arrays, prefix), averages=held(weights.averages, prefix))


def recognise(shapes: Shapes, label: str) -> str:
    """The first system that recognises these names and shapes."""
    if not shapes:
        raise ConversionError(
            f"{label}: it holds no weights of a network's layers; a graph may have them in a checkpoint"
        )
    name = next((name for name, system in SYSTEMS.items() if system.recognised(shapes)), None)
    if name is None:
        known = ", ".join(SYSTEMS)
        raise ConversionError(f"{label}: weights of no known system ({listed(list(shapes))}); known: {known}")
    return name


def gather(system: System[OptionsT], weights: ForeignWeights, options: OptionTree) -> Evidence[OptionsT]:
    read = read_options(system, {**weights.options, **options}, weights.label)
    return Evidence(shapes_of(weights.arrays), read, weights.label, weights.hints, weights.input_size)


def deduced_config(system: System[OptionsT], evidence: Evidence[OptionsT]) -> ModelConfig:
    """The config of the one model that has these weights, with which all options agree."""
    fields, decided = system.config(evidence)
    require_agreement(evidence.options, decided, evidence.label)
    if fields.get("num_classes") == 1:
        raise ConversionError(f"{evidence.label}: it has a single class, which is not read from this program")
    config = MODELS[fields["name"]].Config
    assert fields.keys() <= config.model_fields.keys(), f"the system sets fields that {fields['name']} doesn't have"
    return validated(config, fields, evidence.label, ConversionError)


# ---- the graph that came with the weights


def agreed(system: System[OptionsT], weights: ForeignWeights, evidence: Evidence[OptionsT]) -> Evidence[OptionsT]:
    """With the options that only the graph shows. Raises ConversionError, with layers' names, if it is another network.

    Options at run time are the user's to choose: the graph is compared with the model as the graph runs it.
    """
    if weights.flow is None:
        return evidence
    _require_passes(system, weights.flow, evidence)
    different = _different(system, weights.flow, evidence)
    for option, value in system.graph_options if different else ():
        other = evidence._replace(options=evidence.options.model_copy(update={option: value}))
        if len(fewer := _different(system, weights.flow, other)) < len(different):
            evidence, different = other, fewer
    if different:
        raise ConversionError(f"{weights.label}: its graph is not the network that was recognised: {listed(different)}")
    return evidence


def _require_passes(system: System[OptionsT], flow: Flow, evidence: Evidence[OptionsT]) -> None:
    """Whoever has a graph of one pass may still ask for more."""
    passes = num_passes(flow)
    if passes > 1 and passes != (asked := system.passes(evidence.options).number):
        raise ConversionError(
            f"{evidence.label}: its graph runs the network {passes} times on an image, at several scales or flipped; "
            f"its options say how: they stand for {asked} now"
        )


def _different(system: System[OptionsT], flow: Flow, evidence: Evidence[OptionsT]) -> list[str]:
    defaults = {name: system.options.model_fields[name].get_default() for name in system.runtime_options}
    as_graph = evidence._replace(options=evidence.options.model_copy(update=defaults))
    config = deduced_config(system, as_graph)
    passes = system.passes(evidence.options)
    scales = passes.scales if num_passes(flow) > 1 else ()
    model = expectation(config, system.layout.names, system.rules(config), flow.size, scales)
    return disagreements(flow, model, passes)
