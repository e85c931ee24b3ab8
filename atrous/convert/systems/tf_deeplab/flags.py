"""The flags of TensorFlow DeepLab on which a model's shape or its inference depends, under their own names."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from atrous.convert.system import OptionTree
from atrous.errors import ConfigError
from atrous.layers.dense_prediction_cell import Branch
from atrous.settings import Scales, Settings

Pair = tuple[PositiveInt, PositiveInt]
CROPS = ("crop_size", "eval_crop_size", "vis_crop_size")  # a flag and its aliases
SCALES = ("eval_scales", "inference_scales")
PAIRS = ("crop_size", "train_crop_size", "image_pooling_crop_size", "image_pooling_stride")
LISTS = ("atrous_rates", "decoder_output_stride", "multi_grid", "image_pyramid", "eval_scales")
CELL, CELL_JSON = "dense_prediction_cell_config", "dense_prediction_cell_json"
LONGEST_PATH = 300  # characters in a message; JSON may be longer
NAS = "nas_architecture_options"  # where the program itself keeps the flags nas_...


class Flags(Settings):
    """None: as the weights say, or else the default of the original."""

    model_variant: str | None = None
    num_classes: PositiveInt | None = None
    dataset: Literal["pascal_voc_seg", "cityscapes", "ade20k", "imagenet"] | None = None  # names of the classes
    output_stride: Literal[8, 16, 32] | None = None  # 16; 8 for nas_hnasnet
    atrous_rates: tuple[PositiveInt, ...] | None = None  # (6, 12, 18) at output stride 16
    multi_grid: tuple[PositiveInt, ...] | None = None  # (1, 1, 1)
    depth_multiplier: PositiveFloat | None = None
    divisible_by: PositiveInt | None = None
    use_bounded_activation: bool = False

    train_crop_size: Pair | None = None  # no effect on the model or its predictions
    crop_size: Pair | None = None  # images are laid on a canvas of this size, as in the original
    image_pooling_crop_size: Pair | None = None
    image_pooling_stride: Pair = (1, 1)
    add_image_level_feature: bool | None = None
    aspp_with_batch_norm: bool | None = None
    aspp_with_separable_conv: bool | None = None
    aspp_with_concat_projection: bool | None = None
    aspp_with_squeeze_and_excitation: bool | None = None
    image_se_uses_qsigmoid: bool = False
    aspp_convs_filters: PositiveInt | None = None
    logits_kernel_size: PositiveInt | None = None
    dense_prediction_cell_config: tuple[Branch, ...] | None = None

    decoder_output_stride: tuple[Literal[4, 8, 16], ...] | None = None
    decoder_use_separable_conv: bool | None = None
    decoder_use_sum_merge: bool | None = None
    decoder_filters: PositiveInt | None = None
    decoder_output_is_logits: bool | None = None

    image_pyramid: tuple[PositiveFloat, ...] | None = None
    merge_method: Literal["max", "avg"] = "max"
    eval_scales: Scales = (1.0,)
    add_flipped_images: bool = False
    prediction_with_upsampled_logits: Literal[True] = True

    nas_stem_output_num_conv_filters: PositiveInt | None = None
    nas_use_classification_head: bool | None = None
    nas_remove_os32_stride: bool = False
    drop_path_keep_prob: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _from_the_originals_forms(cls, tree: Any) -> Any:  # noqa: ANN401
        """Single values where lists are meant, one side for both of a pair, kernels of a cell's branches as pairs."""
        if not isinstance(tree, dict):
            return tree
        forms = {**dict.fromkeys(PAIRS, _as_pair), **dict.fromkeys(LISTS, _as_list), CELL: _as_cell}
        return {name: forms[name](value) if name in forms else value for name, value in tree.items()}


def unpacked(tree: OptionTree, label: str) -> dict[str, Any]:
    """Aliases and the program's own mapping resolved, the JSON of a cell read, empty values left out."""
    flags = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in tree.items()}
    flags = {name: value for name, value in flags.items() if value is not None and value != ""}
    nas = flags.pop(NAS, {})
    if not isinstance(nas, dict):
        raise ConfigError(f"{label}: {NAS} must be a mapping of the flags nas_..., got {nas!r}")
    for name, *aliases in (CROPS, SCALES):
        for alias in aliases:  # the last one counts
            if alias in flags:
                flags[name] = flags.pop(alias)
    if CELL_JSON in flags:
        flags[CELL] = _read_cell(str(flags.pop(CELL_JSON)), label)
    return {**nas, **flags}


def _as_list(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return f"[{value.strip('[]() ')}]"  # which `Settings` reads
    return [value] if isinstance(value, int | float) else value


def _as_pair(value: Any) -> Any:  # noqa: ANN401
    """One side stands for both: these flags were single numbers before they became pairs."""
    if isinstance(value, str) and value.strip("[]() ").isdecimal():
        value = int(value.strip("[]() "))
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return [value, value] if isinstance(value, int) else value


def _as_cell(value: Any) -> Any:  # noqa: ANN401
    return [_branch(branch) for branch in value] if isinstance(value, list | tuple) else value


def _branch(tree: Any) -> Any:  # noqa: ANN401
    if isinstance(tree, dict) and isinstance(tree.get("kernel"), list | tuple) and len(set(tree["kernel"])) == 1:
        return {**tree, "kernel": tree["kernel"][0]}
    return tree


def _read_cell(text: str, label: str) -> list[Any]:
    """The branches in a JSON file, or in the JSON itself."""
    what = f"{label}: {CELL_JSON}={text if len(text) <= LONGEST_PATH else text[:LONGEST_PATH] + '...'}"
    try:
        source = text if text.lstrip().startswith("[") else Path(text).read_text(encoding="utf-8")
        cell = json.loads(source)
    except OSError as error:
        raise ConfigError(f"{what}: cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{what}: not the JSON of a dense prediction cell: {error}") from None
    if not isinstance(cell, list) or not all(isinstance(branch, dict) for branch in cell):
        raise ConfigError(f"{what}: a dense prediction cell must be a list of branches")
    return cell
