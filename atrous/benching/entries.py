"""Which runtimes and precisions can be measured with a model, and at which size."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console

from atrous import distributed, evaluate, model_file, segmenter
from atrous.benching.rows import Entry, Options
from atrous.deployed import Export
from atrous.distributed import World
from atrous.errors import ConfigError, listing
from atrous.predicting.arguments import with_settings
from atrous.runtimes import RUNTIMES
from atrous.runtimes.contract import EXPORT
from atrous.runtimes.contract import require as require_packages
from atrous.runtimes.pytorch import has_bf16
from atrous.segmenter import Segmenter
from atrous.types import Size

PYTORCH = "pytorch"
SIZE = (512, 512)  # pixels, where the file says nothing about its images
PRECISIONS = ("fp32", "bf16", "int8")


def entries_of(
    paths: Sequence[Path], options: Options, runtimes: Sequence[str], precisions: Sequence[str]
) -> tuple[list[Entry], list[str]]:
    """What can be measured here, and a line for each thing that can't. Raises ConfigError if that was asked for."""
    require_known("--runtimes", runtimes, RUNTIMES)
    require_known("--precisions", precisions, PRECISIONS)
    device = distributed.choose_device(options.device)
    entries, remarks = list[Entry](), list[str]()
    for path in paths:
        names = [name for name in runtimes_of(path) if name in (runtimes or RUNTIMES)]
        if not names:
            raise ConfigError(f"--runtimes {','.join(runtimes)}: {path} is for {listing(runtimes_of(path))}")
        for name in names:
            if runtimes:
                require_packages(RUNTIMES[name], f"--runtimes {name}")
            if not RUNTIMES[name].is_installed:
                remarks.append(f"{name}: not installed; pip install 'atrous[{RUNTIMES[name].extra}]'")
                continue
            entries += [
                Entry(path, name, one) for one in precisions_of(path, name, device) if one in (precisions or PRECISIONS)
            ]
    if not entries:
        raise ConfigError(f"--precisions {','.join(precisions)}: nothing here computes {paths[0]} in it")
    if not has_bf16(device):
        remarks.append(f"bf16: this {'GPU' if device.type == 'cuda' else 'processor'} has no bfloat16")
    return entries, list(dict.fromkeys(remarks))


def require_known(option: str, words: Sequence[str], known: Iterable[str]) -> None:
    for word in words:
        if word not in known:
            raise ConfigError(f"{option} {word}: expected some of {', '.join(known)}")


def runtimes_of(path: Path) -> list[str]:
    """The runtime that opens the file, then those that a model can be exported for."""
    own = next(name for name, row in RUNTIMES.items() if row is model_file.runtime_of(path))
    return [own, *(name for name, row in RUNTIMES.items() if own == PYTORCH and row.write is not None)]


def precisions_of(path: Path, runtime: str, device: torch.device) -> list[str]:
    """An 8-bit file has one: what isn't in integers is in floats."""
    if is_int8(path):
        return ["int8"]
    return ["fp32", "bf16"] if RUNTIMES[runtime].has_bf16 and has_bf16(device) else ["fp32"]


def is_int8(path: Path) -> bool:
    text = model_file.read_metadata(path).get(EXPORT)
    return text is not None and Export.model_validate_json(text).facts.int8


def require_usable(path: Path, overrides: Sequence[str], console: Console, *, is_scored: bool) -> None:
    """Look at the settings, and at the labels of the data, once for all rows of a model. Raises as `evaluate` does."""
    model = segmenter.load(path)
    with_settings(model, protocol_of(overrides), str(path))
    if not is_scored:
        if others := [text for text in overrides if text not in protocol_of(overrides)]:
            raise ConfigError(f"{others[0]}: only settings of data, evaluate and decode apply to a benchmark")
        return
    evaluate.prepared(model, overrides, path, World(0, 1, torch.device("cpu")), workers=0, console=console)


def own_size(model: Segmenter) -> Size:
    """Of the images that the model takes, or was trained with."""
    if model.network.facts.size is not None:
        return model.network.facts.size
    if model.inference.mode == "canvas":
        return model.inference.window
    return SIZE if model.training is None else model.training.augment.crop


def protocol_of(overrides: Sequence[str]) -> list[str]:
    """The settings that a prediction takes."""
    return [text for text in overrides if text.startswith(("evaluate.", "decode."))]
