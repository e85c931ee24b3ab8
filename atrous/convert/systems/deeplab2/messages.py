"""deeplab2's options as its textprotos hold them: fields with the original's names and defaults."""

from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from atrous.convert.readers.textproto import Message, Node, Word
from atrous.errors import ConfigError, ConversionError, nearest
from atrous.settings import Settings

M = TypeVar("M", bound=Settings)
BOOLEANS = {"true": True, "false": False, "True": True, "False": False, "t": True, "f": False}
SEPARABLE, DENSE = "depthwise_separable_conv", "standard_conv"


class Options(Settings):
    """A message. Its fields are those that a model or its prediction depends on."""

    others: ClassVar[tuple[str, ...]] = ()  # fields that neither depends on
    refused: ClassVar[tuple[str, ...]] = ()  # fields of networks that Atrous doesn't have


class Backbone(Options):
    others = ("pretrained_weights",)
    name: str = "resnet50"
    output_stride: int = 32
    use_squeeze_and_excite: bool = False
    drop_path_keep_prob: float = Field(1.0, gt=0, le=1)
    drop_path_schedule: str = "constant"
    stem_width_multiplier: PositiveFloat = 1.0
    backbone_width_multiplier: PositiveFloat = 1.0
    backbone_layer_multiplier: PositiveFloat = 1.0
    use_sac_beyond_stride: int = -1


class Decoder(Options):
    feature_key: str = "res5"
    decoder_channels: PositiveInt = 256
    decoder_conv_type: str = SEPARABLE
    aspp_channels: PositiveInt = 256
    atrous_rates: tuple[PositiveInt, ...] = ()
    aspp_use_only_1x1_proj_conv: bool = False


class LowLevel(Options):
    feature_key: str
    channels_project: PositiveInt


class Head(Options):
    others = ("max_value_after_activation", "min_value_after_activation")
    output_channels: PositiveInt
    head_channels: PositiveInt
    head_conv_type: str = SEPARABLE


class Instance(Options):
    refused = ("next_regression_head",)
    enable: bool = True
    low_level_override: tuple[LowLevel, ...] = ()
    instance_decoder_override: Decoder | None = None
    center_head: Head | None = None
    regression_head: Head | None = None


class PanopticDeepLab(Options):
    refused = ("depth_head",)
    low_level: tuple[LowLevel, ...]
    instance: Instance = Instance()
    semantic_head: Head


class DeepLabV3(Options):
    num_classes: PositiveInt


class DeepLabV3Plus(Options):
    low_level: LowLevel
    num_classes: PositiveInt


class Model(Options):
    others = (
        "initial_checkpoint",
        "restore_semantic_last_layer_from_initial_checkpoint",
        "restore_instance_last_layer_from_initial_checkpoint",
    )
    refused = ("motion_deeplab", "max_deeplab", "vip_deeplab")
    backbone: Backbone = Backbone()
    decoder: Decoder = Decoder()
    deeplab_v3: DeepLabV3 | None = None
    deeplab_v3_plus: DeepLabV3Plus | None = None
    panoptic_deeplab: PanopticDeepLab | None = None


class Evaluator(Options):
    others = (
        *("eval_steps", "eval_interval", "continuous_eval_timeout", "use_tf_function", "thing_area_limit"),
        *("transformer_class_confidence_threshold", "pixel_confidence_threshold", "transformer_post_processing"),
        *("maskwise_postprocessing", "save_predictions", "override_save_dir", "num_vis_samples"),
        *("save_raw_predictions", "raw_panoptic_format", "convert_raw_to_eval_ids", "detailed_ap_metrics"),
    )
    stuff_area_limit: int = Field(0, ge=0)
    center_score_threshold: float = Field(0.1, ge=0, lt=1)
    nms_kernel: PositiveInt = 3
    keep_k_centers: int = 400
    add_flipped_images: bool = False
    eval_scales: tuple[PositiveFloat, ...] = ()
    merge_semantic_and_instance_with_tf_op: bool = True


class Solver(Options):
    others = (
        *("use_sync_batchnorm", "batchnorm_momentum", "learning_policy", "base_learning_rate", "poly_learning_power"),
        *("poly_end_learning_rate", "warmup_steps", "optimizer", "weight_decay", "adamw_weight_decay"),
        *(
            "use_gradient_clipping",
            "clip_gradient_norm",
            "training_number_of_steps",
            "backbone_learning_rate_multiplier",
        ),
    )
    batchnorm_epsilon: PositiveFloat = 1e-3


class Trainer(Options):
    others = (
        *("num_checkpoints_to_keep", "save_checkpoints_steps", "save_summaries_steps", "steps_per_loop"),
        "loss_options",
    )
    solver_options: Solver = Solver()


class Dataset(Options):
    others = (
        *("file_pattern", "batch_size", "min_resize_value", "max_resize_value", "resize_factor", "augmentations"),
        *("sigma", "increase_small_instance_weights", "small_instance_threshold", "small_instance_weight"),
        *("use_two_frames", "decode_groundtruth_label", "thing_id_mask_annotations", "max_thing_id"),
        *("use_next_frame", "cameras_to_use"),
    )
    dataset: str | None = None
    crop_size: tuple[PositiveInt, ...] = ()


class Experiment(Options):
    others = ("experiment_name",)
    model_options: Model = Model()
    trainer_options: Trainer | None = None
    train_dataset_options: Dataset = Dataset()
    eval_dataset_options: Dataset = Dataset()
    evaluator_options: Evaluator | None = None


# ---- from text


def read(kind: type[M], message: Message, label: str) -> M:
    """The options in a message.

    Raises ConfigError for unknown fields and wrong values, ConversionError for networks that Atrous doesn't have; in
    one line, with the line of the text.
    """
    tree = {
        name: _value(kind, name, nodes, label) for name, nodes in message.items() if _is_used(kind, name, nodes, label)
    }
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        lines = [f" line {nodes[0].line}:" for nodes in (message.get(name, ()),) if nodes]
        raise ConfigError(f"{label}:{''.join(lines)} {name}: {first['msg']}") from None


def _is_used(kind: type[Settings], name: str, nodes: list[Node], label: str) -> bool:
    assert issubclass(kind, Options)
    where = f"{label}: line {nodes[0].line}:"
    if name in kind.refused:
        raise ConversionError(f"{where} {name}: Atrous has no such network")
    if name not in kind.model_fields and name not in kind.others:
        raise ConfigError(f"{where} there is no field {name!r}{nearest(name, list(kind.model_fields))}")
    return name in kind.model_fields


def _value(kind: type[Settings], name: str, nodes: list[Node], label: str) -> Any:  # noqa: ANN401
    annotation = kind.model_fields[name].annotation
    types = list(_leaves(annotation))
    if get_origin(annotation) is tuple:
        return tuple(_one(types, name, node, label) for node in nodes)
    if len(nodes) > 1:
        raise ConfigError(f"{label}: line {nodes[1].line}: {name} has a value already, in line {nodes[0].line}")
    return _one(types, name, nodes[0], label)


def _leaves(annotation: Any) -> Iterator[Any]:  # noqa: ANN401
    """The types within a union or tuple."""
    inner = [part for part in get_args(annotation) if isinstance(part, type) or get_args(part)]
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for part in inner:
        yield from _leaves(part)


def _one(types: list[type], name: str, node: Node, label: str) -> Any:  # noqa: ANN401
    message = next((kind for kind in types if issubclass(kind, Options)), None)
    where = f"{label}: line {node.line}: {name}"
    if (message is not None) != isinstance(node.value, dict):
        raise ConfigError(f"{where}: expected {'{ ... }' if message else 'a value, got { ... }'}")
    if message is not None:
        assert isinstance(node.value, dict)
        return read(message, node.value, label)
    if isinstance(node.value, Word):
        if bool not in types or node.value not in BOOLEANS:
            raise ConfigError(f"{where}: got {str(node.value)!r}, expected {_described(types)}")
        return BOOLEANS[node.value]
    if isinstance(node.value, str) != (str in types):
        raise ConfigError(f"{where}: got {node.value!r}, expected {_described(types)}")
    return node.value


def _described(types: list[type]) -> str:
    names = {str: "a text in quotes", bool: "true or false", int: "a whole number", float: "a number"}
    return next((text for kind, text in names.items() if kind in types), "a value")
