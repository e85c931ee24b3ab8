"""Processes of one run on this machine, without the seconds that `torchrun` and each import take.

A server process has imported Atrous, and forks for each rank.
"""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from atrous import distributed
from atrous.distributed import World

HANGS = 300.0  # seconds after which processes are given up
# What a process would import itself, for a second or two, when it builds its optimizer: each fork has it at once.
PRELOADED = ("atrous.train", "atrous.convert", "torch._dynamo", "torch.utils.data")


class Rank(NamedTuple):
    process: BaseProcess
    answer: Connection


def answers_of(size: int, place: Path, work: Callable[..., Any], *arguments: object) -> list[Any]:
    """What `work(world, *arguments)` returns in each of `size` processes of a gloo group, by rank.

    `place` is a folder of the test's own. The work is a function of a module, and returns no tensors, which would end
    with their process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "tests.runs"])
    store = place / f"store{len(list(place.glob('store*')))}"
    ranks = []
    for number in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, number, size, store, work, arguments), daemon=True)
        process.start()
        theirs.close()
        ranks.append(Rank(process, ours))
    try:
        return [_answer(rank) for rank in ranks]
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.join()


def _answer(rank: Rank) -> Any:  # noqa: ANN401
    if not rank.answer.poll(HANGS):
        pytest.fail(f"process {rank.process.pid} hangs")
    try:
        value, error = rank.answer.recv()
    except EOFError:
        pytest.fail(f"process {rank.process.pid} ended with {rank.process.exitcode}")
    if error:
        pytest.fail(error)
    return value


def _work(
    answer: Connection, rank: int, size: int, store: Path, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        answer.send((work(World(rank, size, torch.device("cpu")), *arguments), ""))
    except Exception:
        answer.send((None, f"rank {rank} of {size}: {traceback.format_exc()}"))
    finally:
        distributed.leave()
