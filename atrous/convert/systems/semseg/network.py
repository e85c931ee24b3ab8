"""Which of semseg's networks has these weights, from their names and shapes, with options for what they can't tell."""

import math
from typing import Any, TypeAlias

from atrous.convert.arrays import Shapes
from atrous.convert.system import ConfigFields, Deduction, Evidence
from atrous.convert.systems.semseg.options import Options
from atrous.errors import ConfigError, ConversionError
from atrous.types import Size

SemsegEvidence: TypeAlias = Evidence[Options]

LAYERS = {6: 50, 23: 101, 36: 152}  # by the number of blocks in layer3
BINS = (1, 2, 3, 6)
PSA_TYPES = ("collect", "distribute", "bidirectional")
DEEP_STEM = (64, 3, 3, 3)  # of an ImageNet network; torchvision's plain stem is 64 x 3 x 7 x 7
STRIDE = 8
SHRINKS = (2, 1, 3, 4)  # the usual one first
SMALLEST_MASK = 3
MASK = "psa.attention.3.weight"


def recognised(shapes: Shapes) -> bool:
    return "layer0.0.weight" in shapes or shapes.get("conv1.weight") == DEEP_STEM


def config(evidence: SemsegEvidence) -> Deduction:
    layers = _layers(evidence)
    fields = _classifier(evidence) if evidence.shapes.get("conv1.weight") == DEEP_STEM else _segmenter(evidence)
    return Deduction({"backbone": f"resnet{layers}s", **fields}, _decided(layers, fields))


def _layers(evidence: SemsegEvidence) -> int:
    blocks = evidence.count_modules("layer3.")
    if blocks not in LAYERS:
        known = ", ".join(f"{count} ({layers} layers)" for count, layers in LAYERS.items())
        raise ConversionError(f"{evidence.label}: {blocks} blocks in layer3, where semseg's networks have {known}")
    return LAYERS[blocks]


def _classifier(evidence: SemsegEvidence) -> ConfigFields:
    return {"name": "image_classifier", "output_stride": 32, "num_classes": _width(evidence, "fc.weight")}


def _segmenter(evidence: SemsegEvidence) -> ConfigFields:
    fields = _attention(evidence) if evidence.has_prefix("psa.") else _pyramid(evidence)
    if not evidence.has_prefix("aux."):
        raise ConversionError(
            f"{evidence.label}: its auxiliary head (aux.*), which all of semseg's checkpoints have, is missing"
        )
    return {
        **fields,
        "head_channels": _width(evidence, "cls.0.weight"),
        "auxiliary_channels": _width(evidence, "aux.0.weight"),
        "num_classes": _width(evidence, "cls.4.weight"),
        "output_stride": STRIDE,
        "dropout": evidence.options.dropout,
    }


def _width(evidence: SemsegEvidence, name: str) -> int:
    return evidence.shape(name)[0]


def _pyramid(evidence: SemsegEvidence) -> ConfigFields:
    count, bins = evidence.count_modules("ppm.features."), evidence.options.bins
    if bins is None:
        bins = BINS if count == len(BINS) else ()
    if len(bins) != count:
        raise ConfigError(f"{evidence.label}: its pyramid has {count} levels: name each in bins=1,2,3,6; got {bins}")
    return {"name": "pspnet", "bins": bins}


def _decided(layers: int, fields: ConfigFields) -> dict[str, object]:
    by_name: dict[str, dict[str, Any]] = {
        "pspnet": {"arch": "psp", "use_ppm": bool(fields.get("bins"))},
        "psanet": {"arch": "psa"},
    }
    return {"layers": layers, "classes": fields["num_classes"], **by_name.get(fields["name"], {})}


# ---- point-wise spatial attention


def _attention(evidence: SemsegEvidence) -> ConfigFields:
    options, num_weights = evidence.options, _width(evidence, MASK)
    compact = is_compact(evidence.shapes) if options.compact is None else options.compact
    shrink_factor = options.shrink_factor or _shrink_factor(options, num_weights, compact)
    return {
        "name": "psanet",
        "psa_type": _psa_type(evidence),
        "compact": compact,
        "mask_size": _mask_size(evidence, num_weights, compact, shrink_factor),
        "shrink_factor": shrink_factor,
        "psa_softmax": options.psa_softmax,
        "normalization_factor": options.normalization_factor or num_weights,
        "psa_channels": _width(evidence, "psa.reduce.0.weight"),
    }


def is_compact(shapes: Shapes) -> bool:
    """Whether the number of weights in a mask alone says so: an over-complete mask has odd sides."""
    return shapes[MASK][0] % 2 == 0


def _psa_type(evidence: SemsegEvidence) -> str:
    psa_type, has_both = evidence.options.psa_type, evidence.has_prefix("psa.reduce_p.")
    if psa_type is None and not has_both:
        advice = "psa_type=0 (collect) or psa_type=1 (distribute) is needed"
        raise ConfigError(f"{evidence.label}: weights don't show which of the two directions this PSANet has: {advice}")
    if psa_type is not None and has_both != (psa_type == len(PSA_TYPES) - 1):
        directions = "two directions (psa_type=2)" if has_both else "one direction (psa_type=0 or 1)"
        raise ConfigError(f"{evidence.label}: psa_type={psa_type}, but its weights are those of {directions}")
    return PSA_TYPES[-1 if psa_type is None else psa_type]


def _shrink_factor(options: Options, num_weights: int, compact: bool) -> int:
    """The one whose mask, for the training's crop, has this number of weights."""
    crop = options.train_crop
    fitting = (shrink for shrink in SHRINKS if crop and math.prod(default_mask(crop, compact, shrink)) == num_weights)
    return next(fitting, SHRINKS[0])


def default_mask(crop: Size, compact: bool, shrink_factor: int) -> Size:
    """A compact mask is as large as the shrunk map; any other reaches the whole map from each place in it."""
    height, width = ((side - 1) // (STRIDE * shrink_factor) + 1 for side in crop)
    return (height, width) if compact else (2 * height - 1, 2 * width - 1)


def mask_crop(mask: Size, compact: bool, shrink_factor: int) -> Size:
    """The crop for which `default_mask` gives this mask."""
    height, width = (STRIDE * shrink_factor * ((side if compact else (side + 1) // 2) - 1) + 1 for side in mask)
    return height, width


def _mask_size(evidence: SemsegEvidence, num_weights: int, compact: bool, shrink_factor: int) -> Size:
    options, crop, label = evidence.options, evidence.options.train_crop, evidence.label
    size = _described_mask(options, num_weights, compact, shrink_factor)
    if math.prod(size) != num_weights:
        complaint = _description(options, size, shrink_factor)
        raise ConfigError(f"{label}: {MASK} has {num_weights} weights for each place: {complaint}")
    if not compact and min(size) < SMALLEST_MASK:
        raise ConfigError(f"{label}: a mask of {size[0]} x {size[1]}: each side must be at least {SMALLEST_MASK}")
    if crop:
        _require_room(size, default_mask(crop, compact, shrink_factor), evidence, compact, shrink_factor)
    return size


def _described_mask(options: Options, num_weights: int, compact: bool, shrink_factor: int) -> Size:
    """From the mask's own options, from the training's crop, or else a square."""
    if options.mask_h or options.mask_w:
        height = options.mask_h or num_weights // (options.mask_w or 1)
        return height, options.mask_w or num_weights // height
    if options.train_crop:
        return default_mask(options.train_crop, compact, shrink_factor)
    return math.isqrt(num_weights), math.isqrt(num_weights)


def _description(options: Options, size: Size, shrink_factor: int) -> str:
    if options.mask_h or options.mask_w:
        return f"mask_h, mask_w describe a mask of {size[0]} x {size[1]}"
    if options.train_crop:
        return f"{_crop_options(options, shrink_factor)} describe a mask of {size[0]} x {size[1]}"
    return "not a square; give its sides with mask_h=, mask_w="


def _crop_options(options: Options, shrink_factor: int) -> str:
    height, width = options.train_crop or (0, 0)
    return f"train_h, train_w = {height}, {width} and shrink_factor={shrink_factor}"


def _require_room(size: Size, largest: Size, evidence: SemsegEvidence, compact: bool, shrink_factor: int) -> None:
    """Raises ConfigError unless the mask fits the map of the training's crop."""
    label, room = evidence.label, "{} x {}".format(*largest)
    if compact and size != largest:
        raise ConfigError(f"{label}: a compact mask is as large as its map, {room} for this crop, not {size}")
    if any(side > most for side, most in zip(size, largest, strict=True)):
        crop = _crop_options(evidence.options, shrink_factor)
        raise ConfigError(f"{label}: {crop} have room for a mask of {room} at most, but mask_h, mask_w are {size}")
