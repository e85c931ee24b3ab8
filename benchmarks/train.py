"""Time and peak memory of a training step against the peers' own networks, each measurement in a process of its own.

The peers need the same PyTorch. Their packages go into folders of their own, which only their processes read:

pip install --no-deps --target PEERS/smp segmentation_models_pytorch==0.6.0  (it needs timm, too)
git clone https://github.com/hszhao/semseg PEERS/semseg
python benchmarks/train.py PEERS [--rounds 5] [--device cuda]
"""

import datetime
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn

IGNORE = 255
MEBIBYTE = 1 << 20
PRECISIONS = ("fp32", "bf16")
NUM_CLASSES = (21, 150)


class Network(NamedTuple):
    title: str
    peer: str  # a key of PEERS
    size: int  # of the square images
    recipe: str
    settings: tuple[str, ...]


NETWORKS = {
    "resnet50": Network(
        "DeepLab v3+ ResNet-50",
        "smp",
        512,
        "folder/deeplab_v3plus",
        ("model.backbone=resnet50", "optim.clip_norm=null"),
    ),
    "mobilenet_v2": Network("DeepLab v3+ MobileNetV2", "smp", 512, "folder/deeplab_v3plus", ("optim.clip_norm=null",)),
    "pspnet50": Network("PSPNet-50", "semseg", 473, "voc/pspnet50", ()),
}


class Case(NamedTuple):
    network: str  # a key of NETWORKS
    num_classes: int
    precision: str
    batch: int
    steps: int
    device: str
    is_compiled: bool


class Figures(NamedTuple):
    seconds: float  # of a step, by the clock
    core_seconds: float  # of all threads
    mebibytes: float  # at most, PyTorch itself included on a CPU


Step = Callable[[Tensor, Tensor], None]  # images [B, 3, H, W] uint8, labels [B, H, W] uint8


# ---- a step, as each program takes it


def atrous_step(case: Case) -> Step:
    """The functions of `atrous train`, without reading and logging."""
    from rich.console import Console

    from atrous import config as configs
    from atrous.data.label_space import LabelSpace
    from atrous.distributed import World
    from atrous.training import learner as learners
    from atrous.training import passes
    from atrous.types import Batch

    network = NETWORKS[case.network]
    settings = (*network.settings, "train.ema=null", f"train.precision={case.precision}", f"train.batch={case.batch}")
    config = configs.load(network.recipe, settings)
    space = LabelSpace(names=tuple(f"class {number}" for number in range(case.num_classes)), ignore=IGNORE)
    world = World(0, 1, torch.device(case.device))
    learner, _ = learners.build(config, space, (), {}, world, Console(quiet=True), is_new=False)  # random weights
    parallel = compiled(learner.parallel, case)
    objective = learners.objective_of(learner.model, config, space, None, world)

    def step(images: Tensor, labels: Tensor) -> None:
        batch = Batch(("",) * case.batch, images, labels).to(world.device)
        targets = objective.targets(batch)
        learners.set_schedules(learner, config, 0, world)
        counts = objective.counts(targets, 0)
        passes.add_gradients(parallel, objective, [passes.Pass(batch, targets)], counts, config.train, 0, world)
        learners.update(learner, config, 0)

    return step


def smp_step(case: Case) -> Step:
    """segmentation_models_pytorch as its examples train: logits at the image's size, PyTorch's cross entropy."""
    declare_vision_operators()
    import segmentation_models_pytorch as smp  # type: ignore[import-not-found]

    model = smp.DeepLabV3Plus(case.network, encoder_weights=None, encoder_output_stride=16, classes=case.num_classes)
    model = model.to(case.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    cross_entropy = nn.CrossEntropyLoss(ignore_index=IGNORE)
    forward = compiled(model, case)
    return partial(peer_step, case, lambda images, labels: cross_entropy(forward(images), labels), optimizer)


def semseg_step(case: Case) -> Step:
    """hszhao/semseg as its tool/train.py trains: the loss is in the network, the auxiliary one weighs 0.4."""
    from model.pspnet import PSPNet  # type: ignore[import-not-found]

    criterion = nn.CrossEntropyLoss(ignore_index=IGNORE)
    model = PSPNet(layers=50, classes=case.num_classes, zoom_factor=8, pretrained=False, criterion=criterion)
    model = model.to(case.device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    forward = compiled(model, case)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        _, main, auxiliary = forward(images, labels)
        total: Tensor = main + 0.4 * auxiliary
        return total

    return partial(peer_step, case, loss, optimizer)


PEERS: dict[str, Callable[[Case], Step]] = {"smp": smp_step, "semseg": semseg_step}


def peer_step(
    case: Case, loss: Callable[..., Tensor], optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    pixels = (images.to(case.device).float() - 118) / 58  # normalised, as their data sets do
    targets = labels.to(case.device).long()
    optimizer.zero_grad()
    with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
        value = loss(pixels, targets)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def compiled(model: nn.Module, case: Case) -> Any:  # noqa: ANN401
    return torch.compile(model) if case.is_compiled else model


def declare_vision_operators() -> None:
    """timm imports torchvision, which asks for operators of its own even where its compiled part doesn't load."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:  # operator torchvision::nms does not exist
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)


KEPT: list[Any] = []  # a library that nobody holds is undone


# ---- a process that measures


def measure(case: Case, who: str) -> Figures:
    """Medians over the steps, after one that starts threads and allocates the optimizer's state."""
    torch.manual_seed(0)
    step = atrous_step(case) if who == "atrous" else PEERS[who](case)
    size = NETWORKS[case.network].size
    images = torch.randint(0, 256, (case.batch, 3, size, size), dtype=torch.uint8)
    labels = torch.randint(0, case.num_classes, (case.batch, size, size), dtype=torch.uint8)
    times = [timed(partial(step, images, labels), case.device) for _ in range(case.steps + 1)]
    seconds, core_seconds = (median(values) for values in zip(*times[1:], strict=True))
    return Figures(seconds, core_seconds, peak(case.device))


def timed(call: Callable[[], None], device: str) -> tuple[float, float]:
    start, core = time.perf_counter(), time.process_time()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - core


def peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MEBIBYTE
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- all of them in turn


def run(case: Case, who: str, folder: Path) -> Figures:
    """`measure` in a process of its own; only the peer's sees the peer's folder."""
    paths = [os.environ.get("PYTHONPATH", ""), *([] if who == "atrous" else [str(folder / who)])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, __file__, "--child", json.dumps([case, who])]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{who}, {case}:\n{result.stderr[-3000:]}")
    return Figures(*json.loads(result.stdout.splitlines()[-1]))


def row(case: Case, ours: list[Figures], theirs: list[Figures]) -> str:
    """Medians over the rounds, and ratios of figures from the same round."""
    network = NETWORKS[case.network]
    cells = [network.title, str(case.num_classes), case.precision, network.peer]
    for field, digits in (("seconds", 2), ("core_seconds", 2), ("mebibytes", 0)):
        one, other = ([getattr(figures, field) for figures in side] for side in (ours, theirs))
        ratio = median(a / b for a, b in zip(one, other, strict=True))
        cells += [f"{median(other):,.{digits}f}", f"{median(one):,.{digits}f}", f"**{ratio:.2f}**"]
    return f"| {' | '.join(cells)} |"


COLUMNS = ("s", "core s", "MiB")
HEAD = f"""\
| network | classes | precision | peer | {" | ".join(f"its {one} | our {one} | ratio" for one in COLUMNS)} |
|---|--:|---|---{"|--:" * 3 * len(COLUMNS)}|"""


def machine(device: str) -> str:
    listing = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", listing.read_text()) if listing.exists() else None
    chip = torch.cuda.get_device_name() if device == "cuda" else name.group(1) if name else platform.machine()
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    load = f"load {os.getloadavg()[0]:.1f} before the first run"
    return f"{chip}, {threads}; PyTorch {torch.__version__}; {datetime.date.today()}; {load}"


def main(
    peers: Annotated[Path, typer.Argument(help="folder that holds the peers' folders: smp, semseg")],
    network: Annotated[list[str] | None, typer.Option(help="only these: " + ", ".join(NETWORKS))] = None,
    classes: Annotated[list[int] | None, typer.Option(help="only these numbers of classes")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="only these: fp32, bf16")] = None,
    batch: Annotated[int, typer.Option(help="images of a step")] = 4,
    rounds: Annotated[int, typer.Option(help="processes of each program, in turn")] = 3,
    steps: Annotated[int, typer.Option(help="steps that a process measures")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compile_: Annotated[bool, typer.Option("--compile", help="torch.compile both networks")] = False,
) -> None:
    print(f"{machine(device)}\n\n{HEAD}", flush=True)
    for name in network or NETWORKS:
        for num_classes in classes or NUM_CLASSES:
            for kind in precision or PRECISIONS:
                case = Case(name, num_classes, kind, batch, steps, device, compile_)
                turns = [[run(case, who, peers) for who in (NETWORKS[name].peer, "atrous")] for _ in range(rounds)]
                theirs, ours = (list(side) for side in zip(*turns, strict=True))
                print(row(case, ours, theirs), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        place, program = json.loads(sys.argv[2])
        print(json.dumps(measure(Case(*place), program)))
    else:
        typer.run(main)
