"""Shows that a change which should not change numbers doesn't: python benchmarks/same_numbers.py --against REVISION

Short seeded trainings run under both checkouts, each in its own process with one thread. Losses, validation scores,
the confusion matrix of the best model and all weights are compared bit for bit. Exits with 1 if anything differs.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

import torch
import typer
from safetensors import safe_open
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "synthetic/deeplab_v3plus_tiny"
# They follow a setting's own: when `model.name` changes, older revisions silently drop unknown keys that precede it.
COMMON = (
    "data.size=96,128",
    "data.num_train=40",
    "data.num_val=5",
    "augment.crop=65,97",
    "model.backbone.depth_multiplier=0.25",
    "optim.warmup_steps=4",
    "train.batch=2",
    "train.batch_norm_momentum=0.3",  # otherwise 20 steps end in a model that predicts one class everywhere
    "train.log_every=1",
)


class Setting(NamedTuple):
    overrides: tuple[str, ...]
    processes: int = 1


NO_EMA = "train.ema=null"
SETTINGS = {
    "plain": Setting((NO_EMA,)),
    "accumulation, EMA": Setting(("train.accumulate=2", "train.ema=0.9")),
    "hard pixels, accumulation": Setting(
        (NO_EMA, "loss.hard_pixels=0.3", "loss.hard_pixels_step=10", "train.accumulate=2")
    ),
    "counted weights, labels at grid": Setting((NO_EMA, "loss.class_weights=counts", "loss.labels=grid")),
    "pspnet, auxiliary loss": Setting((NO_EMA, "model.name=pspnet", "model.backbone=mobilenet_v2")),
    "two processes": Setting((NO_EMA,), processes=2),
}

# Settings whose names have changed. If a checkout refuses one, its older form is used.
OLDER_FORMS = {"model.backbone.depth_multiplier": "model.depth_multiplier"}
# Paths in a row of metrics.jsonl, as one name for all revisions; the first pattern that matches counts.
SAME_FIGURE = (
    (r"(?:.+\.)?(miou|pixel_accuracy|mean_accuracy)", r"\1"),
    (r"per_class\.(.+)", r"iou of \1"),
    (r"classes\.(.+)", r"iou of \1"),
    (r"(?:.+\.)?rows\.(.+)\.0", r"iou of \1"),
)
HEADLINE = "miou"  # a row that has it is a validation's
TIMES = ("images_per_second",)  # no two runs agree on it
CONFUSION = r".*\b(?:confusion|matrix)\.(\d+\.\d+)"  # a cell of it in the results that a model file stores

Value: TypeAlias = str | Tensor
Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | bool | None"


class Numbers(NamedTuple):
    """All that a training computed, by name; numbers as `repr` shows them."""

    steps: Mapping[str, Value]
    validations: Mapping[str, Value]
    results: Mapping[str, Value]  # the confusion matrix of the best model, where its file stores it
    tensors: Mapping[str, Value]


# ---- training


def train(checkout: Path, setting: Setting, steps: int, out: Path) -> Numbers:
    """Train under `checkout`; a setting whose name it does not know is tried in its older form."""
    overrides = [*setting.overrides, *COMMON, f"train.steps={steps}", f"train.eval_every={max(steps // 2, 1)}"]
    result = _run(checkout, setting.processes, [RECIPE, *overrides], out)
    while result.returncode and any(flags := [_is_refused(text, result.stderr) for text in overrides]):
        overrides = [_older(text) if flag else text for text, flag in zip(overrides, flags, strict=True)]
        result = _run(checkout, setting.processes, [RECIPE, *overrides], out)
    if result.returncode:
        raise SystemExit(f"{checkout}: the training failed:\n{result.stderr[-3000:]}")
    return read_numbers(out)


def _run(checkout: Path, processes: int, arguments: list[str], out: Path) -> "subprocess.CompletedProcess[str]":
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "atrous", "train", *arguments]
    options = ["--out", str(out), "--workers", "0", "--device", "cpu"]
    return subprocess.run(
        [*command, *options], env=_environment(checkout), cwd=out.parent, capture_output=True, text=True, check=False
    )


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}


def _is_refused(override: str, message: str) -> bool:
    key = override.partition("=")[0]
    return key in OLDER_FORMS and key in message


def _older(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{OLDER_FORMS[key]}={value}"


def require_own_package(checkout: Path) -> None:
    """Refuse to compare a checkout whose package is not the one that Python imports."""
    code = "import atrous; print(atrous.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", code], env=_environment(checkout), cwd="/", capture_output=True, text=True, check=True
    )
    if not Path(result.stdout.strip()).is_relative_to(checkout):
        raise SystemExit(f"{checkout}: Python imports {result.stdout.strip()} instead")


# ---- what a run folder holds


def read_numbers(run: Path) -> Numbers:
    steps: dict[str, Value] = {}
    validations: dict[str, Value] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = {_same_figure(path): text for path, text in _leaves(json.loads(line))}
        target = validations if HEADLINE in row else steps
        target |= {f"step {float(row['step']):g}: {name}": text for name, text in row.items() if name not in TIMES}
    tensors: dict[str, Value] = {}
    for stem in ("best", "last"):
        tensors |= {f"{stem}: {name}": tensor for name, tensor in _tensors(run / f"{stem}.safetensors").items()}
    return Numbers(steps, validations, _stored_confusion(run / "best.safetensors"), tensors)


def _leaves(tree: Json, path: str = "") -> Iterator[tuple[str, str]]:
    """Each number with the path to it; whole numbers as floats, since 1 and 1.0 are one number."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, int) and not isinstance(tree, bool):
        yield path, repr(float(tree))
    else:
        yield path, repr(tree)


def _same_figure(path: str) -> str:
    for pattern, name in SAME_FIGURE:
        if match := re.fullmatch(pattern, path):
            return match.expand(name)
    return path


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _stored_confusion(path: Path) -> dict[str, Value]:
    with safe_open(path, "pt") as file:
        header = {name: json.loads(text) for name, text in file.metadata().items() if text.startswith("{")}
    cells = [(re.fullmatch(CONFUSION, place), text) for place, text in _leaves(header)]
    return {f"confusion {cell[1]}": text for cell, text in cells if cell}


# ---- comparing


def first_difference(there: Numbers, here: Numbers) -> str | None:
    """The first thing that is not the same, in the order in which a training computes them.

    A figure that only `here` reports is not a difference; a tensor is.
    """
    for one, other in zip(there, here, strict=True):
        for name, value in one.items():
            if name not in other:
                return f"{name}: missing here"
            if not _is_same(value, other[name]):
                return f"{name}: {_show(value, other[name])}"
    extra = sorted(here.tensors.keys() - there.tensors.keys())
    return f"{extra[0]}: only here" if extra else None


def _is_same(one: Value, other: Value) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        is_like = one.dtype == other.dtype and one.shape == other.shape
        return is_like and bool(torch.equal(_bits(one), _bits(other)))
    return isinstance(one, str) and one == other


def _bits(tensor: Tensor) -> Tensor:
    """As bytes: NaN equals NaN, and -0 differs from 0."""
    return tensor.contiguous().flatten().view(torch.uint8)


def _show(one: Value, other: Value) -> str:
    if isinstance(one, str) or isinstance(other, str):
        return f"{one} there, {other} here"
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"{list(one.shape)} {one.dtype} there, {list(other.shape)} {other.dtype} here"
    return f"differs by at most {float((one.double() - other.double()).abs().max()):.3g}"


def row(name: str, there: Numbers, here: Numbers) -> tuple[str, ...]:
    counts = (_num_steps(there.steps), _num_steps(there.validations), len(there.tensors), len(there.results))
    return (name, *map(str, counts), first_difference(there, here) or "identical")


def _num_steps(figures: Mapping[str, Value]) -> int:
    return len({name.partition(":")[0] for name in figures})


# ---- the command


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """A checkout of `revision`, removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        result = subprocess.run([*git, "add", "--detach", str(path), revision], capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"--against {revision}: {result.stderr.strip()}")
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True, capture_output=True)


def compare(name: str, there: Path, here: Path, steps: int) -> tuple[str, ...]:
    """Train both at once, then compare."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        outs = [Path(folder) / side for side in ("there", "here")]
        one, other = pool.map(lambda checkout, out: train(checkout, SETTINGS[name], steps, out), (there, here), outs)
    return row(name, one, other)


def main(
    against: Annotated[str, typer.Option(help="the revision to compare with")] = "HEAD",
    there: Annotated[Path | None, typer.Option(help="a checkout to compare with, instead of a revision")] = None,
    here: Annotated[Path, typer.Option(help="the checkout whose numbers are in question")] = ROOT,
    setting: Annotated[list[str] | None, typer.Option(help="only this setting; may be repeated")] = None,
    steps: Annotated[int, typer.Option(min=2, help="of each training; half-way and at the end it is validated")] = 20,
) -> None:
    unknown = sorted(set(setting or ()) - SETTINGS.keys())
    if unknown:
        raise SystemExit(f"--setting {unknown[0]}: unknown; known: {'; '.join(SETTINGS)}")
    with ExitStack() as stack:
        old, new = there.resolve() if there else stack.enter_context(worktree(against)), here.resolve()
        for checkout in (old, new):
            require_own_package(checkout)
        print("| setting | steps | validations | tensors | confusion cells | difference |")
        print("|---|--:|--:|--:|--:|---|")
        rows = []
        for name in setting or SETTINGS:
            rows.append(compare(name, old, new, steps))
            print(f"| {' | '.join(rows[-1])} |", flush=True)
    if any(cells[-1] != "identical" for cells in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
