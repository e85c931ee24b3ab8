"""The state that a training resumes from: saved twice, with a checksum, so that one is always whole."""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atrous.errors import ModelFileError, listing
from atrous.files import keep, sync_folder, write_atomically
from atrous.run_folder import RunFolder
from atrous.run_metrics import flush

State = dict[str, Any]  # of a training between two steps: tensors, numbers and text only
CHECKSUM = b"\nsha256 "  # a state's file ends with this and the hexadecimal digest of all before it
PARTS = {  # of a state
    **dict.fromkeys(("step", "taken", "measured"), int),
    "best": float | int,
    "model": dict,
    "averaged": dict | None,
    "optimizer": dict,
}
FOREIGN = "it is cut off, damaged or of another program"
END_OF_ARCHIVE = b"PK\5\6"


def recovered_state(run: RunFolder) -> tuple[State, list[str]]:
    """The state to resume from. One that is damaged or missing is replaced by the one before it, which is said.

    Raises ModelFileError, with what can still be done, if that can't be read either.
    """
    try:
        return read_state(run.state), []
    except ModelFileError as error:
        damage = str(error)
    try:
        state = read_state(run.previous)
    except ModelFileError as error:
        also = f", and {run.previous.name} can't be read either" if run.previous.exists() else ""
        raise ModelFileError(f"{damage}{also}{way_out(run)}") from error
    write_atomically(run.state, run.previous.read_bytes())
    return state, [f"{damage}; the run goes on from the save before it, of step {state['step']}"]


def way_out(run: RunFolder) -> str:
    """How to go on without a state."""
    models = [path for path in (run.last, run.best) if path.exists()]
    if models:
        return f"; another run can start from its weights: train.init={models[0]}"
    return f"; no model is saved either: delete {run.state.parent}, and the run starts from step 0"


def without_lost_best(run: RunFolder, state: State) -> State:
    """The state, but as if nothing had been validated if the best model is missing: the next one takes its place."""
    if run.best.exists() or state["best"] < 0:
        return state
    return {**state, "best": -1.0, "measured": min(state["measured"], state["step"] - 1)}


def lost_best(run: RunFolder, state: State) -> list[str]:
    if run.best.exists() or state["best"] < 0:
        return []
    return [
        f"{run.best} is missing: the model that scored {state['best']:.4f} is lost, and the best one from step "
        f"{state['step']} on takes its place"
    ]


def read_state(path: Path) -> State:
    """The state, on the CPU. Raises ModelFileError with the path if it is damaged or not that of a training."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: not a complete training state: {error}") from error
    body, mark, digest = content.rpartition(CHECKSUM)
    if mark and hashlib.sha256(body).hexdigest().encode() != digest:
        raise ModelFileError(f"{path}: not a complete training state: it does not match its checksum")
    if not mark and not _is_archive(content):
        raise ModelFileError(f"{path}: not a complete training state: {FOREIGN}")
    state = _loaded(body if mark else content, path)
    _require_whole(state, path)
    return state


def _is_archive(content: bytes) -> bool:
    """Older versions wrote no checksum, but the zip archive of `torch.save` has its own."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return content[-22:-18] == END_OF_ARCHIVE and archive.testzip() is None
    except Exception:  # whatever zipfile raises for a damaged file
        return False


def _loaded(content: bytes, path: Path) -> State:
    try:
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = "it holds other Python objects than tensors, numbers and text, which are not read"
        raise ModelFileError(f"{path}: not a complete training state: {what}") from error
    except Exception as error:  # PyTorch may raise anything for a foreign file
        raise ModelFileError(f"{path}: not a complete training state: {FOREIGN}") from error
    return state


def _require_whole(state: State, path: Path) -> None:
    parts = state if isinstance(state, dict) else {}
    wrong = [name for name, kind in PARTS.items() if not isinstance(parts.get(name), kind)]
    wrong = wrong or [name for name, weight in state["model"].items() if not isinstance(weight, Tensor)]
    if wrong:
        raise ModelFileError(f"{path}: not the state of a training: missing or of another kind: {listing(wrong)}")
    broken = next(_not_finite(state), None)
    if broken is not None:
        raise ModelFileError(f"{path}: {broken} holds values that are not finite, from which nothing can be learnt")


def _not_finite(tree: object, place: str = "") -> Iterator[str]:
    """The tensors with NaN or infinite values, by their places in a state."""
    if isinstance(tree, Tensor) and tree.is_floating_point() and not tree.isfinite().all():
        yield place
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield from _not_finite(value, f"{place}.{key}" if place else str(key))


def write_state(run: RunFolder, state: State) -> None:
    """Save, and keep the state before. At each moment one of the two is whole.

    Raises FloatingPointError, and leaves the last state as it is, for weights that could not be resumed from.
    """
    if not run.is_writer:
        return
    broken = next(_not_finite(state), None)
    if broken is not None:
        raise FloatingPointError(
            f"{broken} is not finite after step {state['step']}; the last save is kept; try a lower optim.lr, "
            "optim.warmup_steps, optim.clip_norm or train.precision=fp32"
        )
    flush(run.metrics)
    content = serialized(state)
    keep(run.state, run.previous)
    write_atomically(run.state, content)
    sync_folder(run.state.parent)


def serialized(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(CHECKSUM + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
    return buffer.getvalue()
