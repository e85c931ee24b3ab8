"""Which of semseg's networks has these weights, from their names and shapes, with options for what they can't tell."""

import math
from typing import Any, NamedTuple

from atrous.convert.filling import Shapes, validated
from atrous.convert.naming import count_modules, require_agreement, require_shape
from atrous.convert.systems.semseg.options import Options, Size
from atrous.models import MODELS, ModelConfig

Settings = dict[str, Any]

LAYERS = {6: 50, 23: 101, 36: 152}  # by the number of blocks in layer3
BINS = (1, 2, 3, 6)
PSA_TYPES = ("collect", "distribute", "bidirectional")
INIT_STEM = (64, 3, 3, 3)  # of a deep stem; of a plain one 64 x 3 x 7 x 7
STRIDE = 8
SHRINKS = (2, 1, 3, 4)  # usual one first
SMALLEST_MASK = 3
MASK = "psa.attention.3.weight"


class Facts(NamedTuple):
    shapes: Shapes
    options: Options
    label: str

    def outputs(self, name: str) -> int:
        """The first axis of a weight that the network can't be told without."""
        return require_shape(self.shapes, name, "semseg", self.label)[0]

    def count(self, prefix: str) -> int:
        """How many modules are numbered behind `prefix`."""
        return count_modules(self.shapes, prefix)

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.shapes)


def recognised(shapes: Shapes) -> bool:
    return "layer0.0.weight" in shapes or shapes.get("conv1.weight") == INIT_STEM


def model_config(shapes: Shapes, options: Options, label: str) -> ModelConfig:
    """The config of the one model that has these weights. Raises ValueError, in one line, if there is none."""
    facts = Facts(shapes, options, label)
    layers = _layers(facts)
    if shapes.get("conv1.weight") == INIT_STEM:
        found = _classifier(facts)
    else:
        found = _attention(facts) if facts.has("psa.") else _pyramid(facts)
        if not facts.has("aux."):
            raise ValueError(f"{label}: it has no auxiliary head (aux.*), which all of semseg's own checkpoints have")
        found |= {"head_channels": facts.outputs("cls.0.weight"), "auxiliary_channels": facts.outputs("aux.0.weight")}
        found |= {"num_classes": facts.outputs("cls.4.weight"), "output_stride": STRIDE, "dropout": options.dropout}
    require_agreement(options.model_dump(), _told(layers, found), label)
    return validated(MODELS[found["name"]].Config, {"backbone": f"resnet{layers}s", **found}, label)


def _layers(facts: Facts) -> int:
    blocks = facts.count("layer3.")
    if blocks not in LAYERS:
        known = ", ".join(f"{count} ({layers} layers)" for count, layers in LAYERS.items())
        raise ValueError(f"{facts.label}: {blocks} blocks in layer3, where semseg's networks have {known}")
    return LAYERS[blocks]


def _classifier(facts: Facts) -> Settings:
    return {"name": "image_classifier", "output_stride": 32, "num_classes": facts.outputs("fc.weight")}


def _pyramid(facts: Facts) -> Settings:
    count = facts.count("ppm.features.")
    bins = facts.options.bins if facts.options.bins is not None else BINS if count == len(BINS) else ()
    if len(bins) != count:
        raise ValueError(f"{facts.label}: a pyramid of {count} levels: bins= tells which, as 1,2,3,6, not {bins}")
    return {"name": "pspnet", "bins": bins}


def _told(layers: int, found: Settings) -> Settings:
    """The options that weights tell."""
    told: Settings = {"layers": layers, "classes": found["num_classes"]}
    by_name: dict[str, Settings] = {
        "pspnet": {"arch": "psp", "use_ppm": bool(found.get("bins"))},
        "psanet": {"arch": "psa"},
    }
    return told | by_name.get(found["name"], {})


# ---- point-wise spatial attention


def _attention(facts: Facts) -> Settings:
    options, weights = facts.options, facts.outputs(MASK)
    compact = is_compact(facts.shapes) if options.compact is None else options.compact
    shrink_factor = options.shrink_factor or _shrink_factor(options, weights, compact)
    return {
        "name": "psanet",
        "psa_type": _psa_type(facts),
        "compact": compact,
        "mask_size": _mask_size(facts, weights, compact, shrink_factor),
        "shrink_factor": shrink_factor,
        "psa_softmax": options.psa_softmax,
        "normalization_factor": options.normalization_factor or weights,
        "psa_channels": facts.outputs("psa.reduce.0.weight"),
    }


def is_compact(shapes: Shapes) -> bool:
    """Whether the number of weights in a mask alone says so: an over-complete mask has odd sides."""
    return shapes[MASK][0] % 2 == 0


def _psa_type(facts: Facts) -> str:
    given, is_both = facts.options.psa_type, facts.has("psa.reduce_p.")
    if given is None and not is_both:
        wanted = "psa_type=0 (collect) or 1 (distribute)"
        raise ValueError(f"{facts.label}: a PSANet of one direction, weights don't tell which: {wanted} does")
    if given is not None and is_both != (given == len(PSA_TYPES) - 1):
        found = "two directions (psa_type=2)" if is_both else "one direction (psa_type=0 or 1)"
        raise ValueError(f"{facts.label}: psa_type={given}, but its weights are those of {found}")
    return PSA_TYPES[-1 if given is None else given]


def _shrink_factor(options: Options, weights: int, compact: bool) -> int:
    """The one whose mask, for the training's crop, has so many weights."""
    crop = options.train_crop
    fitting = (shrink for shrink in SHRINKS if crop and math.prod(default_mask(crop, compact, shrink)) == weights)
    return next(fitting, SHRINKS[0])


def default_mask(crop: Size, compact: bool, shrink_factor: int) -> Size:
    """A side reaches over all of the shrunk map from any place in it, or, compact, is the map's."""
    height, width = ((side - 1) // (STRIDE * shrink_factor) + 1 for side in crop)
    return (height, width) if compact else (2 * height - 1, 2 * width - 1)


def mask_crop(mask: Size, compact: bool, shrink_factor: int) -> Size:
    """The crop that `default_mask` makes this mask for."""
    height, width = (STRIDE * shrink_factor * ((side if compact else (side + 1) // 2) - 1) + 1 for side in mask)
    return height, width


def _mask_size(facts: Facts, weights: int, compact: bool, shrink_factor: int) -> Size:
    options, crop = facts.options, facts.options.train_crop
    if options.mask_h or options.mask_w:
        height = options.mask_h or weights // (options.mask_w or 1)
        size, reason = (height, options.mask_w or weights // height), "mask_h, mask_w"
    elif crop:
        size = default_mask(crop, compact, shrink_factor)
        reason = f"train_h, train_w = {crop[0]}, {crop[1]} and shrink_factor={shrink_factor}"
    else:
        size, reason = (math.isqrt(weights), math.isqrt(weights)), "no square; mask_h=, mask_w= tell its sides"
    if math.prod(size) != weights:
        wanted = f"a mask of {size[0]} x {size[1]} by {reason}" if crop or options.mask_h or options.mask_w else reason
        raise ValueError(f"{facts.label}: {MASK} has {weights} weights for each place: {wanted}")
    if not compact and min(size) < SMALLEST_MASK:
        raise ValueError(f"{facts.label}: a mask of {size[0]} x {size[1]}: each side is {SMALLEST_MASK} at least")
    if compact and crop and size != default_mask(crop, compact, shrink_factor):
        wanted = "{} x {}".format(*default_mask(crop, compact, shrink_factor))
        raise ValueError(f"{facts.label}: a compact mask is as large as its map, {wanted} for this crop, not {size}")
    if crop and any(side > most for side, most in zip(size, default_mask(crop, compact, shrink_factor), strict=True)):
        most = "a mask of {} x {}".format(*default_mask(crop, compact, shrink_factor))
        told = f"train_h, train_w = {crop[0]}, {crop[1]} and shrink_factor={shrink_factor}"
        raise ValueError(f"{facts.label}: {most} is all that {told} have room for, mask_h, mask_w = {size} are larger")
    return size
