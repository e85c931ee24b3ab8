"""`torchrun` starts the processes of a run again after one was killed, and the run ends as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from atrous import config as configs
from atrous import parallel, run_state, train
from atrous.config import Config, to_yaml
from atrous.distributed import World
from atrous.run_folder import RunFolder
from tests.conftest import tiny_config
from tests.processes import answers_of
from tests.runs import QUIET, assert_same, losses

ROOT = Path(__file__).parents[1]
STEPS = 7
# A rank that kills itself within a step, before its gradients are exchanged, if nobody has been killed yet.
KILLER = """
import os, signal, sys
from pathlib import Path
from atrous import cli, distributed, parallel, train
place, rank, step, smallest = Path(sys.argv[1]), *map(int, sys.argv[2:5])
add_gradients = train.add_gradients
parallel.SMALLEST_UNIT = smallest
train.finish = lambda *rest: None  # the report

def deadly(*arguments):
    if os.environ["RANK"] == str(rank) and arguments[5] == step and not place.exists():
        place.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return add_gradients(*arguments)

train.add_gradients = deadly
cli.main(sys.argv[5:])
"""
FSDP = ("train.parallel=fsdp",)


class Death(NamedTuple):
    rank: int
    step: int  # from 0


def torchrun(place: Path, size: int, death: Death, *overrides: str) -> "subprocess.CompletedProcess[str]":
    (place / "config.yaml").write_text(to_yaml(tiny_config(f"train.steps={STEPS}", "train.save_every=2", *overrides)))
    (place / "killer.py").write_text(KILLER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    command += ["--max-restarts=3", str(place / "killer.py"), str(place / "killed"), str(death.rank), str(death.step)]
    command += ["500", "train", str(place / "config.yaml"), "--out", str(place / "run"), "--device", "cpu"]
    return subprocess.run(
        [*command, "--workers", "1", "--resume-or-start"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )


def undisturbed(world: World, config: Config, path: Path) -> None:
    parallel.SMALLEST_UNIT = 500
    train.finish = lambda *rest: None
    train.train(config, path, device="cpu", console=QUIET)


def processes_of(argument: str) -> list[str]:
    """The processes that have it in their command lines."""
    command_lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [line.decode() for line in command_lines if argument.encode() in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "death", "overrides"),
    [(2, Death(rank=1, step=4), ("train.ema=0.9",)), (3, Death(rank=0, step=5), FSDP)],
    ids=["ddp", "fsdp"],
)
def test_a_rank_that_is_killed_within_a_step_costs_nothing_but_time(
    size: int, death: Death, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    """The weights are those of an undisturbed run, bit for bit, and no process or half-written file is left."""
    outcome = torchrun(tmp_path, size, death, *overrides)
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "killed").exists()
    assert f"restarted by torchrun (1 of 3), resuming after step {death.step - death.step % 2}:" in outcome.stdout
    assert "fault of Atrous" not in outcome.stderr
    assert processes_of(str(tmp_path)) == []
    run = RunFolder(tmp_path / "run")
    assert not [path.name for path in run.path.rglob(".*")]
    config = configs.load(str(tmp_path / "config.yaml"))
    answers_of(size, tmp_path, undisturbed, config, tmp_path / "whole")
    whole = RunFolder(tmp_path / "whole")
    states = [run_state.read_state(one.state) for one in (whole, run)]
    assert states[0]["step"] == states[1]["step"] == STEPS
    assert_same(states[0]["model"], states[1]["model"])
    if states[0]["averaged"] is not None:
        assert_same(states[0]["averaged"], states[1]["averaged"])
    rows = [[(row["step"], row["loss"]) for row in losses(one)] for one in (whole, run)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == STEPS
