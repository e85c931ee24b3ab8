"""From another program's weights to a segmenter: the steps that are the same for every system."""

from typing import NamedTuple

from atrous import segmenter
from atrous.config import nearest
from atrous.convert.arrays import Shapes
from atrous.convert.filling import blank_model, fill, shapes_of
from atrous.convert.options import read_options, require_agreement, validated
from atrous.convert.system import Evidence, ForeignWeights, OptionsT, OptionTree, System, listed
from atrous.convert.systems import SYSTEMS
from atrous.errors import ConfigError, ConversionError
from atrous.models import MODELS, ModelConfig
from atrous.segmenter import Segmenter


class Conversion(NamedTuple):
    segmenter: Segmenter
    system: str  # a row of SYSTEMS
    num_used: int  # weights that make up the model
    unused: list[str]  # weights that aren't part of a model: an optimiser's slots, counters
    assumptions: list[str]  # what neither weights nor options say


def convert_weights(weights: ForeignWeights, system: str | None, options: OptionTree) -> Conversion:
    """The model of these weights. Raises ConversionError or ConfigError, in one line, if there is none."""
    name = system or recognise(shapes_of(weights.arrays), weights.label)
    if name not in SYSTEMS:
        raise ConfigError(f"system={name}: no such system{nearest(name, list(SYSTEMS))}")
    row = SYSTEMS[name]
    evidence = gather(row, weights, options)
    config = deduced_config(row, evidence)
    model = blank_model(config, weights.normalization)
    unused = fill(model, row.rules(config), row.layout, weights.arrays, weights.label)
    label_space, classes = row.label_space(model.num_classes, evidence.options)
    assumptions = [text for text, is_needed in row.assumptions(evidence, config).items() if is_needed] + classes
    origin = {
        "source": weights.label,
        "system": name,
        "options": {option: str(value) for option, value in options.items()},
        "unused": unused,
        "assumptions": assumptions,
    }
    inference = row.inference(evidence, config)
    result = segmenter.of_model(model.eval(), label_space, inference=inference, origin=origin)
    return Conversion(result, name, len(weights.arrays) - len(unused), unused, assumptions)


def recognise(shapes: Shapes, label: str) -> str:
    """The first system that recognises these names and shapes."""
    name = next((name for name, system in SYSTEMS.items() if system.recognised(shapes)), None)
    if name is None:
        known = ", ".join(SYSTEMS)
        raise ConversionError(f"{label}: weights of no known system ({listed(list(shapes))}); known: {known}")
    return name


def gather(system: System[OptionsT], weights: ForeignWeights, options: OptionTree) -> Evidence[OptionsT]:
    read = read_options(system, options, weights.label)
    return Evidence(shapes_of(weights.arrays), read, weights.label, weights.hints, weights.input_size)


def deduced_config(system: System[OptionsT], evidence: Evidence[OptionsT]) -> ModelConfig:
    """The config of the one model that has these weights, with which all options agree."""
    fields, decided = system.config(evidence)
    require_agreement(evidence.options, decided, evidence.label)
    config = MODELS[fields["name"]].Config
    assert fields.keys() <= config.model_fields.keys(), f"the system sets fields that {fields['name']} doesn't have"
    return validated(config, fields, evidence.label, ConversionError)
