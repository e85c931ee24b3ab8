"""The programs whose models can be converted. To add one: `systems/mine.py` with its SYSTEM, and a line here."""

from typing import Any

from atrous.convert.system import System
from atrous.convert.systems import (
    bonlime,
    bowenc0221,
    csail,
    deeplab2,
    huggingface,
    jfzhang95,
    kazuto1011,
    mmsegmentation,
    semseg,
    smp,
    tf_deeplab,
    torchvision,
    vainf,
)

SYSTEMS: dict[str, System[Any]] = {  # in the order in which they are tried
    "tf_deeplab": tf_deeplab.SYSTEM,
    "deeplab2": deeplab2.SYSTEM,
    "csail": csail.SYSTEM,
    "semseg": semseg.SYSTEM,
    "torchvision": torchvision.SYSTEM,
    "mmsegmentation": mmsegmentation.SYSTEM,
    "vainf": vainf.SYSTEM,
    "jfzhang95": jfzhang95.SYSTEM,
    "bowenc0221": bowenc0221.SYSTEM,
    "smp": smp.SYSTEM,
    "huggingface": huggingface.SYSTEM,
    "kazuto1011": kazuto1011.SYSTEM,
    "bonlime": bonlime.SYSTEM,
}
