"""States that are damaged, foreign or incomplete, and what takes their place."""

import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from atrous import run_state, train
from atrous.errors import ModelFileError
from atrous.run_folder import RunFolder
from tests.conftest import tiny_config
from tests.runs import FINISHED, QUIET, assert_same, copied, validations, weights
from tests.test_files import full_disk


def damaged_states(state: bytes, folder: Path) -> Iterator[tuple[bytes, str]]:
    """What a disk, a copy or a mistake may put in the place of a state, and what is said."""
    middle = len(state) // 2
    for content in (
        b"",
        state[:1000],
        state[:-1],
        state[: middle - 9] + state[middle:],
        b"a diary\n" * 99,
    ):
        yield content, "not a complete training state"
    for length in (1, 3, 9, 40, 65, 72):  # the checksum at the end, and what marks it
        yield state[:-length] + bytes([state[-length] ^ 1]) + state[len(state) - length + 1 :], "not a complete"
    path = folder / "foreign"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    yield path.read_bytes(), "it is cut off, damaged or of another program"
    torch.save([torch.optim.SGD], path)  # a pickle with a class
    yield path.read_bytes(), "it holds other Python objects than tensors, numbers and text"
    yield pickle.dumps({"step": 1}), "it is cut off, damaged or of another program"
    save_file({"a": torch.zeros(2)}, path)
    yield path.read_bytes(), "it is cut off, damaged or of another program"
    torch.save([1], path)
    yield path.read_bytes(), "not the state of a training: missing or of another kind: step, taken, measured, best, mo"


def test_states_that_are_damaged_foreign_or_incomplete_are_one_line(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    whole = run_state.read_state(run.state)
    run.previous.unlink()
    for content, reason in damaged_states(run.state.read_bytes(), tmp_path):
        run.state.write_bytes(content)
        with pytest.raises(ModelFileError, match=rf"{run.state}: .*{reason}") as error:
            run_state.recovered_state(run)
        assert str(error.value).endswith(f"; another run can start from its weights: train.init={run.last}")
        assert "\n" not in str(error.value)
    for key in run_state.PARTS:
        wrong = {**whole, key: "?"}
        for state in (wrong, {name: value for name, value in wrong.items() if name != key or key == "averaged"}):
            run_state.write_state(run, state)
            with pytest.raises(ModelFileError, match=f"not the state of a training: .*: {key}$"):
                run_state.read_state(run.state)


def test_the_save_before_a_damaged_one_takes_its_place(finished: RunFolder, tmp_path: Path) -> None:
    whole, before = finished.state.read_bytes(), run_state.read_state(finished.previous)
    for number, content in enumerate((whole[: len(whole) // 3], bytes(len(whole)), b"", None)):
        run, console = copied(finished, tmp_path / str(number)), Console(width=400)
        run.state.unlink() if content is None else run.state.write_bytes(content)
        with console.capture() as capture:
            train.train(tiny_config(*FINISHED), run.path, resume=True, console=console)
        told = f"; the run goes on from the save before it, of step {before['step']}\n"
        assert capture.get().count(told) == 1
        assert f"{run.state}: not a complete training state" in capture.get()
        assert_same(weights(run), weights(finished))
        assert [row["scores"] for row in validations(run)] == [row["scores"] for row in validations(finished)]


def test_without_a_whole_save_a_line_says_how_to_go_on(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    for state in run.states:
        state.write_bytes(b"")
    with pytest.raises(ModelFileError, match=rf"and previous.pt can't be read either; .* train.init={run.last}$"):
        run_state.recovered_state(run)
    run.last.unlink()
    run.best.unlink()
    with pytest.raises(ModelFileError, match=rf"delete {run.state.parent}, and the run starts from step 0$"):
        run_state.recovered_state(run)
    shutil.rmtree(run.state.parent)
    train.train(tiny_config(*FINISHED), run.path, resume=True, console=QUIET)
    assert_same(weights(run), weights(finished))


def test_the_state_before_a_damaged_one_outlives_the_next_save(finished: RunFolder, tmp_path: Path) -> None:
    """A save that fails after a damaged one leaves a whole state, too."""
    run = copied(finished, tmp_path / "run")
    run.state.write_bytes(b"half")
    state, _ = run_state.recovered_state(run)
    with full_disk(1000), pytest.raises(OSError, match=r"cannot write .*last\.pt"):
        run_state.write_state(run, state)
    for path in run.states:
        assert_same(run_state.read_state(path)["model"], state["model"])


def test_each_flipped_bit_of_a_state_is_told(finished: RunFolder, tmp_path: Path) -> None:
    """In states of today and, but for padding, in those without our checksum, as older versions wrote them."""
    content, rng = finished.state.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "last.pt"
    for place, bit in zip(rng.integers(0, len(content), 40), rng.integers(0, 8, 40), strict=True):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(bit)
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="not a complete training state"):
            run_state.read_state(path)
    old = bytearray(content.rpartition(run_state.CHECKSUM)[0])
    weight = next(iter(run_state.read_state(finished.state)["model"].values())).numpy().tobytes()
    old[old.index(weight) + 5] ^= 16
    path.write_bytes(old)
    with pytest.raises(ModelFileError, match="it is cut off, damaged or of another program"):
        run_state.read_state(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_read_nor_written(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    run = copied(finished, tmp_path / "run")
    state = run_state.read_state(run.state)
    content = run.state.read_bytes()
    state["optimizer"]["state"][3]["exp_avg"].view(-1)[0] = value
    with pytest.raises(FloatingPointError, match=r"optimizer\.state\.3\.exp_avg is not finite after step 4; the last"):
        run_state.write_state(run, state)
    assert run.state.read_bytes() == content
    monkeypatch.setattr(run_state, "_not_finite", lambda _: iter(()))
    run_state.write_state(run, state)
    monkeypatch.undo()
    with pytest.raises(
        ModelFileError, match=r"last\.pt: optimizer\.state\.3\.exp_avg holds values that are not finite"
    ):
        run_state.read_state(run.state)


def test_a_state_without_a_checksum_is_read(finished: RunFolder, tmp_path: Path) -> None:
    """As older versions wrote it."""
    run = copied(finished, tmp_path / "run")
    torch.save(run_state.read_state(run.state), run.state)
    assert run_state.CHECKSUM not in run.state.read_bytes()
    assert_same(weights(run), weights(finished))
