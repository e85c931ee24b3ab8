"""The flags of TensorFlow DeepLab that a model's shape or inference depends on, by their own names."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from atrous.layers.dense_prediction_cell import Branch
from atrous.settings import Settings

Pair = tuple[PositiveInt, PositiveInt]
CROPS = ("crop_size", "eval_crop_size", "vis_crop_size")
PAIRS = {"crop_size", "train_crop_size", "image_pooling_crop_size", "image_pooling_stride"}
SCALES = ("eval_scales", "inference_scales")
NAS = "nas_architecture_options"  # where the program itself keeps the flags nas_...


class Flags(Settings):
    """None: as the weights say, or else the original's default."""

    model_variant: str | None = None
    num_classes: PositiveInt | None = None
    dataset: Literal["pascal_voc_seg", "cityscapes", "ade20k", "imagenet"] | None = None  # names of the classes
    output_stride: Literal[8, 16, 32] | None = None  # 16; 8 for nas_hnasnet
    atrous_rates: tuple[PositiveInt, ...] | None = None  # (6, 12, 18) at output stride 16
    multi_grid: tuple[PositiveInt, ...] | None = None  # (1, 1, 1)
    depth_multiplier: PositiveFloat | None = None
    divisible_by: PositiveInt | None = None
    use_bounded_activation: bool = False

    train_crop_size: Pair | None = None  # says nothing of the model, nor of how it predicts
    crop_size: Pair | None = None  # then images are put on a canvas of this size, as the original does
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
    dense_prediction_cell_json: str | None = None  # a path, or the JSON itself
    dense_prediction_cell_config: tuple[Branch, ...] | None = None

    decoder_output_stride: tuple[Literal[4, 8, 16], ...] | None = None
    decoder_use_separable_conv: bool | None = None
    decoder_use_sum_merge: bool | None = None
    decoder_filters: PositiveInt | None = None
    decoder_output_is_logits: bool | None = None

    image_pyramid: tuple[PositiveFloat, ...] | None = None
    merge_method: Literal["max", "avg"] = "max"
    eval_scales: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)
    add_flipped_images: bool = False
    prediction_with_upsampled_logits: Literal[True] = True

    nas_stem_output_num_conv_filters: PositiveInt | None = None
    nas_use_classification_head: bool | None = None
    nas_remove_os32_stride: bool = False
    drop_path_keep_prob: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _as_the_original_wrote_them(cls, tree: Any) -> Any:  # noqa: ANN401
        """Aliases, single values where lists are meant, the kernel of a cell's branch as a pair."""
        if not isinstance(tree, dict):
            return tree
        tree = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in tree.items()}
        tree = {key: value for key, value in tree.items() if value is not None and value != ""}
        for name, *aliases in (CROPS, SCALES):
            tree |= {name: tree.pop(alias) for alias in aliases if alias in tree}  # noqa: B035 - the last one counts
        for name in PAIRS & tree.keys():
            tree[name] = _as_pair(tree[name])
        for name in ("atrous_rates", "decoder_output_stride", "multi_grid", "image_pyramid", "eval_scales"):
            if name in tree:
                tree[name] = _as_list(tree[name])
        if "dense_prediction_cell_json" in tree:
            tree["dense_prediction_cell_config"] = _read_cell(str(tree.pop("dense_prediction_cell_json")))
        cell = tree.get("dense_prediction_cell_config")
        if isinstance(cell, list | tuple):
            tree["dense_prediction_cell_config"] = [_branch(one) for one in cell]
        nas = tree.pop(NAS, {})
        if not isinstance(nas, dict):
            raise ValueError(f"{NAS}: a mapping of the flags nas_..., not {nas!r}")
        return {**nas, **tree}


def _as_list(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return f"[{value.strip('[]() ')}]"  # which is then read as text of any other setting is
    return [value] if isinstance(value, int | float) else value


def _as_pair(value: Any) -> Any:  # noqa: ANN401
    """One side stands for both: users of the original meant squares when its flags changed their form."""
    if isinstance(value, str) and value.strip("[]() ").isdecimal():
        value = int(value.strip("[]() "))
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return [value, value] if isinstance(value, int) else value


def _read_cell(text: str) -> Any:  # noqa: ANN401
    """The cell of a JSON file, or of the JSON itself. Raises ValueError."""
    try:
        source = text if text.lstrip().startswith("[") else Path(text).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"dense_prediction_cell_json={text[:80]}: cannot be read: {error.strerror}") from None
    try:
        cell = json.loads(source)
    except ValueError as error:
        raise ValueError(f"{text[:80]}: not the JSON of a dense prediction cell: {error}") from error
    if not isinstance(cell, list) or not all(isinstance(branch, dict) for branch in cell):
        raise ValueError(f"{text[:80]}: a dense prediction cell is a list of branches")
    return cell


def _branch(tree: Any) -> Any:  # noqa: ANN401
    if isinstance(tree, dict) and isinstance(tree.get("kernel"), list | tuple) and len(set(tree["kernel"])) == 1:
        return {**tree, "kernel": tree["kernel"][0]}
    return tree
