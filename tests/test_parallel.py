"""Weights shared out among processes learn as whole ones do, and one state serves any number of processes, either way.

Here processes hold small networks; `SMALLEST_UNIT` is lowered where units should be borrowed one by one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from atrous import parallel, run_state, segmenter, train
from atrous.config import Config
from atrous.distributed import World
from atrous.models import build
from atrous.run_folder import RunFolder
from atrous.run_opening import Resume
from atrous.training.learner import Learner, update
from tests.conftest import tiny_config
from tests.models.conftest import VARIANTS, all_logits, config_of, random_images, small
from tests.processes import answers_of
from tests.runs import QUIET, assert_close, assert_same, losses, validations

LARGE = ("deeplab_v1", "deeplab_v1, side branches", "icnet, its own backbone")  # they take seconds
# Frozen batch norms and no dropout: without a GPU the statistics of a pass are each process's own.
ALIKE = ("train.batch_norm=frozen", "model.aspp.dropout=0", "optim.schedule=constant", "optim.lr=0.05")
RICH = (*ALIKE, "train.ema=0.9", "optim.clip_norm=0.5", "optim.name=sgd", "train.save_every=2", "train.eval_every=4")


def trained(world: World, config: Config, path: Path, resume: Resume, smallest: int) -> tuple[int, int]:
    """A part of a training by one of its processes; how many values of weights it held, and of how many."""
    parallel.SMALLEST_UNIT = smallest
    held: list[tuple[int, int]] = []

    def note(learner: Learner, *rest: Any) -> None:  # noqa: ANN401
        parameters = list(learner.model.parameters())
        parts = [one.to_local() if isinstance(one, DTensor) else one for one in parameters]
        held.append((sum(part.numel() for part in parts), sum(one.numel() for one in parameters)))
        update(learner, *rest)

    replacements = {"update": note, "finish": lambda *rest: None}  # without the report
    for name, function in replacements.items():
        setattr(train, name, function)
    train.train(config, path, resume=resume, device="cpu", console=QUIET)
    return held[-1]


def train_by(size: int, place: Path, *overrides: str, resume: Resume = False, smallest: int = 500) -> RunFolder:
    """A training by `size` processes, in the folder `run` of `place`."""
    answers_of(size, place, trained, tiny_config(*RICH, *overrides), place / "run", resume, smallest)
    return RunFolder(place / "run")


def place(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def assert_all_close(one: RunFolder, other: RunFolder) -> None:
    """All that the states hold of the training."""
    states = [run_state.read_state(run.state) for run in (one, other)]
    for key in ("step", "taken", "images"):
        assert states[0][key] == states[1][key], key
    for key in ("model", "averaged"):
        assert_close(states[0][key], states[1][key])
    momenta = [flat(state["optimizer"]["state"]) for state in states]
    assert_close(*momenta)


def flat(state: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


@pytest.mark.slow
def test_weights_that_are_shared_out_learn_as_whole_ones_do(tmp_path: Path) -> None:
    """Accumulated passes, averaged weights, clipped gradients."""
    one = place(tmp_path, "one")
    alone = train.train(tiny_config(*RICH, "train.batch=4", "train.accumulate=2"), one / "run", console=QUIET)
    shares = answers_of(
        2,
        place(tmp_path, "two"),
        trained,
        tiny_config(*RICH, "train.batch=2", "train.accumulate=2", "train.parallel=fsdp"),
        tmp_path / "two" / "run",
        False,
        500,
    )
    two = RunFolder(tmp_path / "two" / "run")
    assert_all_close(alone, two)
    rows = [[row["loss"] for row in losses(run)] for run in (alone, two)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    assert validations(two)[0]["scores"]["miou"] == pytest.approx(validations(alone)[0]["scores"]["miou"], abs=0.01)
    assert_same(run_state.read_state(two.state)["averaged"], dict(segmenter.load(two.best).model.state_dict()))
    total = shares[0][1]
    assert sum(share for share, _ in shares) == total
    assert all(share < 0.6 * total for share, _ in shares)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_run_that_is_resumed_by_as_many_processes_has_the_bits_of_an_undisturbed_one(
    way: parallel.Way, tmp_path: Path
) -> None:
    """With tuned batch norms and dropout, too, and AdamW."""
    settings = (f"train.parallel={way}", "train.batch_norm=tuned", "model.aspp.dropout=0.1", "optim.name=adamw")
    whole = train_by(2, place(tmp_path, "whole"), *settings)
    train_by(2, place(tmp_path, "parts"), *settings, "train.steps=2")
    parts = train_by(2, tmp_path / "parts", *settings, resume=True)
    states = [run_state.read_state(run.state) for run in (whole, parts)]
    for key in ("model", "averaged"):
        assert_same(states[0][key], states[1][key])
    assert_same(*(flat(state["optimizer"]["state"]) for state in states))


CUTS = (  # processes and settings of a first part and a second one; each step has six images
    (3, ("train.parallel=ddp",), 1, ("train.parallel=ddp",)),
    (3, ("train.parallel=ddp",), 2, ("train.parallel=fsdp", "train.batch=3")),
    (2, ("train.parallel=fsdp", "train.batch=3"), 3, ("train.parallel=ddp",)),
)


@pytest.mark.slow
def test_any_number_of_processes_resumes_a_run_either_way(tmp_path: Path) -> None:
    alone = train.train(tiny_config(*RICH, "train.batch=6"), tmp_path / "alone", console=QUIET)
    for number, (size, settings, other, others) in enumerate(CUTS):
        folder = place(tmp_path, str(number))
        train_by(size, folder, *settings, "train.steps=2")
        run = train_by(other, folder, *others, resume=True)
        assert_all_close(alone, run)
        assert [row["step"] for row in losses(run)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_more_processes_than_images_learn_as_one_does(tmp_path: Path) -> None:
    few = ("data.num_train=2", "data.num_val=1", "train.steps=2")
    alone = train.train(tiny_config(*RICH, *few, "train.batch=3"), tmp_path / "alone", console=QUIET)
    run = train_by(3, place(tmp_path, "three"), *few, "train.batch=1")
    assert_all_close(alone, run)
    assert validations(run)[-1]["scores"].keys() == validations(alone)[-1]["scores"].keys()


# ---- every network


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    """A group of this process alone, which shares nothing out but goes all the way."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    outputs = model(images)
    torch.stack([logits.float().square().mean() for logits in all_logits(outputs)]).sum().backward()  # type: ignore[no-untyped-call]
    return {name: parallel.whole(one.grad) for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in LARGE])
def test_every_model_can_be_shared_out(variant: str, mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    """Each unit on its own: one whose weights are used without a call of it would fail."""
    monkeypatch.setattr(parallel, "SMALLEST_UNIT", 1)
    name, settings = VARIANTS[variant]
    images = random_images(2, 65, 65).contiguous(memory_format=torch.channels_last)
    model = small(name, 4, **settings).train()
    before = gradients(model, images)
    model.zero_grad()
    shared = parallel.share_out(small(name, 4, **settings).train(), mesh)
    assert any(isinstance(module, FSDPModule) for module in shared.backbone.modules())
    after = gradients(shared, images)
    assert before.keys() == after.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()) + 1e-7)


def test_only_large_units_are_borrowed_one_by_one(mesh: Any) -> None:  # noqa: ANN401
    model = build(config_of("deeplab_v3", backbone="resnet18"), 4)
    parallel.share_out(model, mesh)
    units = {name for name, module in model.named_modules() if isinstance(module, FSDPModule)}
    assert "" in units and "aspp" in units
    sizes = [sum(one.numel() for one in model.get_submodule(name).parameters()) for name in units]
    assert min(sizes) >= parallel.SMALLEST_UNIT
    assert 4 < len(units) < 20
