"""What semseg calls each of our weights: tables of rules from our modules to its own."""

import re
from collections.abc import Iterator

from atrous.models import Model
from atrous.models.psanet import DIRECTIONS, PSANet

Rules = tuple[tuple[str, str], ...]  # (pattern of a module's whole path, its name there)

STEM: Rules = tuple(
    (rf"backbone\.stem\.{index}\.{part}", f"layer0.{3 * index + place}")
    for index in range(3)
    for place, part in enumerate(("conv", "norm"))
)
IMAGENET_STEM: Rules = (
    *((rf"backbone\.stem\.{index}\.conv", f"conv{index + 1}") for index in range(3)),
    *((rf"backbone\.stem\.{index}\.norm", f"bn{index + 1}") for index in range(3)),
)
STAGES: Rules = tuple(
    (rf"backbone\.c{stage + 1}\.(\d+)\.{ours}", rf"layer{stage}.\1.{theirs}")
    for stage in range(1, 5)
    for ours, theirs in (
        (r"conv(\d)\.conv", r"conv\2"),
        (r"conv(\d)\.norm", r"bn\2"),
        (r"shortcut\.conv", "downsample.0"),
        (r"shortcut\.norm", "downsample.1"),
    )
)
PYRAMID: Rules = (
    (r"pyramid\.branches\.(\d+)\.conv", r"ppm.features.\1.1"),
    (r"pyramid\.branches\.(\d+)\.norm", r"ppm.features.\1.2"),
)
HEADS: Rules = tuple(
    (rf"{ours}\.{part}", f"{theirs}.{place}")
    for ours, theirs in (("head", "cls"), ("auxiliary", "aux"))
    for part, place in ((r"conv\.conv", 0), (r"conv\.norm", 1), ("classify", 4))
)


def names(model: Model) -> dict[str, str]:
    """The original's key for each entry of the state dict that is learnt or counted (not `shift`, `scale`)."""
    rules = _rules(model)
    return dict(_named(model, rules))


def _rules(model: Model) -> Rules:
    if model.config.name == "image_classifier":
        return (*IMAGENET_STEM, *STAGES, ("classify", "fc"))
    attention = _attention(model.config.psa_type) if isinstance(model, PSANet) else ()
    return (*STEM, *STAGES, *PYRAMID, *attention, *HEADS)


def _attention(psa_type: str) -> Rules:
    """The second direction has another name; alone, either has the first."""
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


def _named(model: Model, rules: Rules) -> Iterator[tuple[str, str]]:
    for key in model.state_dict():
        path, _, leaf = key.rpartition(".")
        if path and leaf != "num_batches_tracked":
            yield key, f"{_name(path, rules)}.{leaf}"


def _name(path: str, rules: Rules) -> str:
    found = next((re.sub(pattern, name, path) for pattern, name in rules if re.fullmatch(pattern, path)), None)
    assert found is not None, f"no rule names {path}"
    return found
