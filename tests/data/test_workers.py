"""Processes that read samples: they leave signals to their parent, end with it, and their death is one line."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, overload

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from atrous import data
from atrous.config import Config, to_yaml
from atrous.data.loader import Stream, training_batches, whole_samples
from atrous.data.transforms import augment
from atrous.data.workers import items
from atrous.errors import ProcessDied
from atrous.interrupt import SIGNALS
from atrous.types import Sample
from tests.conftest import tiny_config, write_folder_data
from tests.runs import folder_config

Act = Callable[[int], object]


class Acting(Sequence[Sample]):
    """Images, of which the fourth does something to the process that reads it."""

    def __init__(self, act: Act) -> None:
        self.act = act

    def __len__(self) -> int:
        return 8

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        assert isinstance(index, int)
        if index == 4:
            self.act(index)
        return Sample(str(index), np.full((2, 3, 3), index, np.uint8), np.full((2, 3), index, np.uint8))


def die_by(number: int, index: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(20)


def leave(index: int) -> None:
    os._exit(3)


DEATHS: tuple[tuple[Act, str], ...] = (
    (
        partial(die_by, signal.SIGKILL),
        r"died \(SIGKILL\); the system ended it, perhaps for lack of memory: .*--workers 0$",
    ),
    (partial(die_by, signal.SIGBUS), r"died \(SIGBUS\); there is too little shared memory: enlarge /dev/shm"),
    (partial(die_by, signal.SIGSEGV), r"died \(SIGSEGV\); a library that decodes images may have crashed: --workers 0"),
    (leave, r"died \(exit code 3\); it may have run out of memory, or of shared memory"),
)


@pytest.mark.parametrize(("act", "reason"), DEATHS)
def test_a_death_is_told_with_how_it_came(act: Act, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProcessDied, match=reason):
        list(whole_samples(Acting(act), workers=2))
    assert capfd.readouterr().err == ""  # nor does the worker print anything


def test_a_death_waits_until_the_next_sample_is_asked_for() -> None:
    """PyTorch would raise it out of any line, such as one of an update."""
    samples = whole_samples(Acting(leave), workers=1)
    for _ in range(3):  # then the worker reads the fourth
        next(samples)
    wait([worker.sentinel for worker in multiprocessing.active_children()], 10)
    with pytest.raises(ProcessDied):
        list(samples)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_left_to_the_parent(number: int) -> None:
    samples = Acting(lambda index: os.kill(os.getpid(), number))
    assert [read.sample.name for _, read in whole_samples(samples, workers=2) if read.sample] == list("01234567")


def test_workers_end_with_their_generator_even_if_one_reads_for_ever() -> None:
    samples = whole_samples(Acting(lambda index: time.sleep(60)), workers=2)
    next(samples)
    start = time.monotonic()
    samples.close()
    assert time.monotonic() - start < 10
    assert not multiprocessing.active_children()


class Memory(Dataset[int]):
    """Whose samples need more shared memory than there is."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)")


def test_too_little_shared_memory_is_told() -> None:
    loader: DataLoader[Any] = DataLoader(Memory(), num_workers=1)
    with pytest.raises(ProcessDied, match=r"No space left on device \(28\)\); there is too little shared memory"):
        list(items(loader))


def batches_of(config: Config, workers: int) -> list[bytes]:
    batches = training_batches(
        data.samples(config.data, "train"),
        partial(augment, config=config.augment, fill=(0, 0, 0), ignore=255),
        Stream(seed=0, batch=2),
        workers=workers,
        skip_errors=False,
    )
    names = [batch.images.numpy().tobytes() for batch, _ in islice(batches, 3)]
    batches.close()
    return names


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_every_start_method_gives_the_same_batches(tmp_path: Path, method: str) -> None:
    config = folder_config(write_folder_data(tmp_path / "data"))
    expected = batches_of(config, 0)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        assert batches_of(config, 2) == expected
    finally:
        multiprocessing.set_start_method(before, force=True)


SCRIPT = """
import multiprocessing, sys
from pathlib import Path
from atrous import config, train
multiprocessing.set_start_method("{method}", force=True)
{guard}train.train(config.load("config.yaml"), Path(sys.argv[1]), workers=1)
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path, method: str) -> None:
    results = []
    (tmp_path / "config.yaml").write_text(to_yaml(tiny_config("train.steps=1", "train.eval_every=1")))
    for guard in ("", "if __name__ == '__main__': "):
        script, out = tmp_path / f"script{len(guard)}.py", tmp_path / f"run{len(guard)}"
        script.write_text(SCRIPT.format(method=method, guard=guard))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(script), str(out)]
        results.append(
            subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        )
    bare, guarded = results
    assert guarded.returncode == 0, guarded.stderr
    assert bare.returncode == 1
    line = 'a script that trains must do so under `if __name__ == "__main__":`'
    assert f"atrous: {line}" in bare.stderr  # of the process that imports the script
    assert line in bare.stderr.splitlines()[-1]
