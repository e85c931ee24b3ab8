"""What semseg calls each of our weights: tables of rules from our modules to its own."""

from atrous.convert.known_backbones import resnet_stages
from atrous.convert.layouts import Rules
from atrous.models import ModelConfig
from atrous.models.psanet import DIRECTIONS, PSANet

STEM: Rules = tuple(
    (rf"backbone\.stem\.{index}\.{part}", f"layer0.{3 * index + place}")
    for index in range(3)
    for place, part in enumerate(("conv", "norm"))
)
IMAGENET_STEM: Rules = (
    *((rf"backbone\.stem\.{index}\.conv", f"conv{index + 1}") for index in range(3)),
    *((rf"backbone\.stem\.{index}\.norm", f"bn{index + 1}") for index in range(3)),
)
STAGES = resnet_stages()
PYRAMID: Rules = (
    (r"pyramid\.branches\.(\d+)\.conv", r"ppm.features.\1.1"),
    (r"pyramid\.branches\.(\d+)\.norm", r"ppm.features.\1.2"),
)
HEADS: Rules = tuple(
    (rf"{ours}\.{part}", f"{theirs}.{place}")
    for ours, theirs in (("head", "cls"), ("auxiliary", "aux"))
    for part, place in ((r"conv\.conv", 0), (r"conv\.norm", 1), ("classify", 4))
)


def rules(config: ModelConfig) -> Rules:
    if config.name == "image_classifier":
        return (*IMAGENET_STEM, *STAGES, ("classify", "fc"))
    attention = _attention(config.psa_type) if isinstance(config, PSANet.Config) else ()
    return (*STEM, *STAGES, *PYRAMID, *attention, *HEADS)


def _attention(psa_type: str) -> Rules:
    """The second direction has another name; one direction alone always has the first."""
    return (
        *(
            (rf"attention\.{direction}\.{ours}", f"psa.{theirs}")
            for direction, suffix in zip(DIRECTIONS[psa_type], ("", "_p"), strict=False)
            for ours, theirs in (
                (r"reduce\.conv", f"reduce{suffix}.0"),
                (r"reduce\.norm", f"reduce{suffix}.1"),
                (r"adapt\.conv", f"attention{suffix}.0"),
                (r"adapt\.norm", f"attention{suffix}.1"),
                ("mask", f"attention{suffix}.3"),
            )
        ),
        (r"projection\.conv", "psa.proj.0"),
        (r"projection\.norm", "psa.proj.1"),
    )
