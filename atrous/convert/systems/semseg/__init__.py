"""hszhao/semseg: PSPNet, PSANet, and the ImageNet networks that they begin with."""

from collections.abc import Mapping
from typing import Any

from atrous.convert.contract import Conversion, Source
from atrous.convert.filling import Shape, blank_model, published_classes
from atrous.convert.naming import fill
from atrous.convert.systems.semseg import recognise
from atrous.convert.systems.semseg.names import rules
from atrous.convert.systems.semseg.options import Options, read_options
from atrous.convert.systems.semseg.recognise import recognised
from atrous.inference import InferenceConfig
from atrous.models import ModelConfig
from atrous.models.psanet import PSANet
from atrous.models.pspnet import PSPNet
from atrous.segmenter import Segmenter

__all__ = ["convert", "recognised"]


def convert(source: Source, options: Mapping[str, Any]) -> Conversion:
    """The model of these weights; `options` are keys of the original's YAML. Raises ValueError in one line."""
    read = read_options(options, source.label)
    shapes = {name: tuple(array.shape) for name, array in source.variables.items()}
    config = recognise.model_config(shapes, read, source.label)
    model = blank_model(config)
    ignored = fill(model, rules(model), source.variables, source.label)
    label_space, notes = published_classes(model.num_classes)
    inference = _inference(config, read, source.label)
    segmenter = Segmenter(model.eval(), label_space, inference)
    taken = [*_taken_on_trust(config, read, shapes), *notes]
    return Conversion(segmenter, "semseg", len(shapes) - len(ignored), ignored, taken)


def _inference(config: ModelConfig, options: Options, label: str) -> InferenceConfig:
    """The original's protocol where its crop is told; a PSANet without one sees crops as its mask is made for."""
    crop = options.test_crop
    if crop:
        return InferenceConfig(
            mode="sliding", window=crop, base_size=options.base_size, scales=options.scales, flip=True
        )
    if options.base_size:
        raise ValueError(f"{label}: base_size={options.base_size} is for windows: test_h= and test_w= tell their size")
    window = _crop_of_mask(config, options)
    framed = {"mode": "sliding", "window": window} if window else {}
    return InferenceConfig(**framed, scales=options.scales)


def _crop_of_mask(config: ModelConfig, options: Options) -> tuple[int, int] | None:
    """None where the mask's size was told, so that it needn't be the one that a crop wants."""
    if not isinstance(config, PSANet.Config) or options.mask_h or options.mask_w:
        return None
    return recognise.mask_crop(config.mask, config.compact, config.shrink_factor)


def _taken_on_trust(config: ModelConfig, options: Options, shapes: Mapping[str, Shape]) -> list[str]:
    """What the weights don't tell and nobody has said."""
    told = options.model_fields_set
    if isinstance(config, PSPNet.Config):
        return ["bins=1,2,3,6 (the original's default)"] if config.bins and "bins" not in told else []
    if not isinstance(config, PSANet.Config):
        return []
    untold = {
        f"shrink_factor={config.shrink_factor}": "shrink_factor" in told or options.train_crop,
        f"compact={int(config.compact)}": "compact" in told or recognise.is_compact(shapes),
        f"psa_softmax={int(config.psa_softmax)}": "psa_softmax" in told,
        f"normalization_factor={config.normalization_factor}": "normalization_factor" in told,
        "test_h, test_w: the crop that the mask is made for": options.test_crop or options.mask_h or options.mask_w,
    }
    return [f"{note} (the original's default)" for note, is_told in untold.items() if not is_told]
