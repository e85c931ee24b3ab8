"""TensorFlow 2's deeplab2: Panoptic-DeepLab, its semantic branch alone, DeepLab v3 and v3+."""

from atrous.convert.layouts import Rules
from atrous.convert.system import ConfigFields, Evidence, System
from atrous.convert.systems.deeplab2 import network
from atrous.convert.systems.deeplab2.datasets import label_space
from atrous.convert.systems.deeplab2.messages import Backbone
from atrous.convert.systems.deeplab2.names import DEEPLAB2, rules_of
from atrous.convert.systems.deeplab2.options import Options, unpacked
from atrous.convert.systems.deeplab2.original import recognised
from atrous.inference import InferenceConfig
from atrous.models import ModelConfig

__all__ = ["SYSTEM"]

PANOPTIC = "panoptic_deeplab"


def rules(config: ModelConfig) -> Rules:
    return rules_of(config.name, config.backbone.name)


def inference(evidence: Evidence[Options], config: ModelConfig) -> InferenceConfig:
    """Whole images: the original's crop is as large as any of them, and what it pads with is the mean colour."""
    evaluator = evidence.options.evaluator
    if evaluator is None:
        return InferenceConfig()
    return InferenceConfig(scales=evaluator.eval_scales or (1.0,), flip=evaluator.add_flipped_images)


def decode(evidence: Evidence[Options], config: ModelConfig) -> ConfigFields:
    """The merging is the compiled operator's or that of TensorFlow's functions, which differ in two cases."""
    evaluator = evidence.options.evaluator
    if evaluator is None or config.name != PANOPTIC:
        return {}
    is_compiled = evaluator.merge_semantic_and_instance_with_tf_op
    return {
        "threshold": evaluator.center_score_threshold,
        "kernel": evaluator.nms_kernel,
        "top_k": max(0, evaluator.keep_k_centers),
        "stuff_area": evaluator.stuff_area_limit,
        "at_limit": "void" if is_compiled else "kept",
        "without_center": "thing" if is_compiled else "void",
    }


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    options, backbone = evidence.options, network.original_of(evidence).backbone
    is_config_missing = options.model is None
    eps = f"batchnorm_epsilon={network.norm_eps(evidence):g} (as in the original's configs of this backbone)"
    return {
        f"output_stride={config.output_stride} (the original's default)": is_config_missing
        and not options.output_stride,
        "atrous_rates: those of the output stride": is_config_missing,
        eps: options.batchnorm_epsilon is None,
        "crop_size: the image mean in ASPP is that of the whole image, not of windows of the training's crop": (
            options.crop_size is None
        ),
        "evaluator: decode has the settings of recipes": options.evaluator is None and config.name == PANOPTIC,
        "drop_path_schedule=linear, if it is trained on": _has_other_drop_path(backbone),
    }


def _has_other_drop_path(backbone: Backbone) -> bool:
    """In training, SWideRNet drops units by the linear schedule; the other backbones drop none."""
    return backbone.drop_path_keep_prob < 1 and backbone.drop_path_schedule != "linear"


SYSTEM = System(
    recognised,
    Options,
    network.config,
    rules,
    assumptions,
    inference,
    label_space=label_space,
    layout=DEEPLAB2,
    unpacked=unpacked,
    decode=decode,
)
