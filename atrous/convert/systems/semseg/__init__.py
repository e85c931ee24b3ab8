"""hszhao/semseg: PSPNet, PSANet, and the ImageNet networks that they are initialised from."""

from atrous.convert.system import Evidence, System
from atrous.convert.systems.semseg import network
from atrous.convert.systems.semseg.names import rules
from atrous.convert.systems.semseg.options import Options, unpacked
from atrous.errors import ConfigError
from atrous.inference import InferenceConfig
from atrous.models import ModelConfig
from atrous.models.psanet import PSANet
from atrous.models.pspnet import PSPNet
from atrous.types import Size

__all__ = ["SYSTEM"]


def inference(evidence: Evidence[Options], config: ModelConfig) -> InferenceConfig:
    """The original's protocol if its crop is known; without it, a PSANet uses the crop that its mask fits."""
    options = evidence.options
    if options.test_crop:
        return InferenceConfig(
            mode="sliding", window=options.test_crop, base_size=options.base_size, scales=options.scales, flip=True
        )
    if options.base_size:
        reason = f"base_size={options.base_size} needs the size of the window: test_h=, test_w="
        raise ConfigError(f"{evidence.label}: {reason}")
    window = _crop_of_mask(config, options)
    sliding = {"mode": "sliding", "window": window} if window else {}
    return InferenceConfig(**sliding, scales=options.scales)


def _crop_of_mask(config: ModelConfig, options: Options) -> Size | None:
    """None if options set the mask's size, which need not be that of any crop."""
    if not isinstance(config, PSANet.Config) or options.mask_h or options.mask_w:
        return None
    return network.mask_crop(config.mask, config.compact, config.shrink_factor)


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    options, present = evidence.options, evidence.options.model_fields_set
    if isinstance(config, PSPNet.Config):
        return {"bins=1,2,3,6 (the original's default)": bool(config.bins) and "bins" not in present}
    if not isinstance(config, PSANet.Config):
        return {}
    is_crop_known = bool(options.test_crop or options.mask_h or options.mask_w)
    settings = {
        f"shrink_factor={config.shrink_factor}": "shrink_factor" not in present and not options.train_crop,
        f"compact={int(config.compact)}": "compact" not in present and not network.is_compact(evidence.shapes),
        f"psa_softmax={int(config.psa_softmax)}": "psa_softmax" not in present,
        f"normalization_factor={config.normalization_factor}": "normalization_factor" not in present,
        "test_h, test_w: the crop that the mask fits": not is_crop_known,
    }
    return {f"{setting} (the original's default)": is_needed for setting, is_needed in settings.items()}


SYSTEM = System(network.recognised, Options, network.config, rules, assumptions, inference=inference, unpacked=unpacked)
