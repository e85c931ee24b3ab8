"""kazuto1011/deeplab-pytorch: DeepLab v2 on the ResNet-101 of Caffe, which also has the weights of the authors."""

from pydantic import PositiveInt

from atrous.convert.arrays import Array, Shapes
from atrous.convert.layouts import PYTORCH, Rules
from atrous.convert.system import Deduction, Evidence, System
from atrous.errors import ConversionError
from atrous.models import ModelConfig
from atrous.settings import Rates, Settings

FIRST = "layer1.conv1.conv.weight"
RATES = (6, 12, 18, 24)
PYRAMID = (1.0, 0.5, 0.75)
UNITS = (3, 4, 23, 3)  # of ResNet-101, in layer2 to layer5
PARTS = (("conv1", "reduce"), ("conv2", "conv3x3"), ("conv3", "increase"), ("shortcut", "shortcut"))


class Options(Settings):
    """Keys of its YAML files; None: whatever the weights say."""

    n_classes: PositiveInt | None = None
    atrous_rates: Rates = RATES
    msc: bool = True  # the network sees each image at three scales, as in all its models


def recognised(shapes: Shapes) -> bool:
    return FIRST in shapes and "layer2.block1.reduce.conv.weight" in shapes


# ---- names


def _stage_rules(stage: int) -> Rules:
    """Units are counted from 1 there."""
    return tuple(
        (rf"backbone\.c{stage}\.{unit}\.{ours}\.{part}", f"layer{stage}.block{unit + 1}.{theirs}.{leaf}")
        for unit in range(UNITS[stage - 2])
        for ours, theirs in PARTS
        for part, leaf in (("conv", "conv"), ("norm", "bn"))
    )


RULES: Rules = (
    (r"backbone\.stem\.0\.conv", "layer1.conv1.conv"),
    (r"backbone\.stem\.0\.norm", "layer1.conv1.bn"),
    *(rule for stage in range(2, 6) for rule in _stage_rules(stage)),
    (r"classify\.(\d)", r"aspp.c\1"),
)


def rules(config: ModelConfig) -> Rules:
    return RULES


def _our_axes(name: str, array: Array) -> Array:
    """Images are blue, green, red there."""
    return array[:, ::-1] if name == FIRST else array


# ---- the network


def config(evidence: Evidence[Options]) -> Deduction:
    label, options = evidence.label, evidence.options
    if not evidence.has("aspp.c0.weight"):
        raise ConversionError(f"{label}: aspp.c0.weight is missing: of this program's networks only DeepLab v2 is read")
    if (count := evidence.count_modules("aspp.c")) != len(options.atrous_rates):
        raise ConversionError(f"{label}: it has {count} branches: name the rate of each in atrous_rates=6,12,18,24")
    num_classes = evidence.shape("aspp.c0.weight")[0]
    fields = {
        "name": "deeplab_v2",
        "backbone": "resnet101_caffe",
        "num_classes": num_classes,
        "output_stride": 8,
        "align_corners": False,
        "rates": options.atrous_rates,
    }
    pyramid = {"image_pyramid": PYRAMID, "pyramid_align_corners": False} if options.msc else {}
    return Deduction({**fields, **pyramid}, {"n_classes": num_classes})


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    present = evidence.options.model_fields_set
    return {
        "atrous_rates=6,12,18,24 (the default)": "atrous_rates" not in present,
        "msc=true: images are seen at scales 1, 0.5 and 0.75, as in its configs": "msc" not in present,
    }


SYSTEM = System(recognised, Options, config, rules, assumptions, layout=PYTORCH._replace(our_axes=_our_axes))
