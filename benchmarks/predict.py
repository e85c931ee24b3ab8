"""Time of a prediction against the peers' own networks and runtimes: uint8 image in, label map out.

The peers go into the environment, or into folders that only their processes read:

pip install -e .[peers]       # or: pip install --no-deps --target PEERS/smp segmentation_models_pytorch==0.6.0
git clone https://github.com/hszhao/semseg PEERS/semseg        (the PSPNet of its paper)
python benchmarks/predict.py --peers PEERS [--case mobilenet_v2-512] [--rounds 5] [--tflite FILE.tflite] [--image PHOTO]

A process each, which take turns. Networks have random weights and the same number of classes. All processes live at the
same time: with large images, name some programs at a time (`--program`), the standard among them.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import IO, Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder, whose train.py is not the package's

from benchmarks.train import declare_vision_operators, machine  # noqa: E402

Image = NDArray[np.uint8]  # [H, W, 3]
Predict = Callable[[Image], NDArray[Any]]  # [H, W] classes
MEBI = 2**20
MEAN, SCALE = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of uint8
NUM_CALIBRATION = 8  # pictures
SHARE_CALLS = 4
WARM_UP = 2  # predictions of a process: they compile kernels and start threads
BIG, STEP = 1024, 0.5  # pixels of a height from which a round is one prediction; else seconds of a round


class Network(NamedTuple):
    model: str
    backbone: str
    peers: tuple[str, ...]  # whose network it is compared with, the first is the standard


NETWORKS = {
    "mobilenet_v2": Network("deeplab_v3plus", "mobilenet_v2", ("smp",)),
    "resnet50": Network("deeplab_v3plus", "resnet50", ("smp",)),
    "pspnet50": Network("pspnet", "resnet50s", ("smp", "semseg")),
}


class Case(NamedTuple):
    """What all programs of a table predict."""

    network: str  # a key of NETWORKS; or a .tflite file
    height: int
    width: int
    num_classes: int = 21
    threads: int = 2
    image: str | None = None
    model: str = ""  # of Atrous: a file that the parent writes

    @property
    def name(self) -> str:
        classes = "" if self.num_classes == 21 else f"-{self.num_classes}"
        return f"{Path(self.network).name}-{self.height}{classes}"


SIZES = ((512, 512), (1024, 2048))
CASES = [
    *(Case(network, *size) for network in NETWORKS for size in SIZES),
    Case("mobilenet_v2", 512, 512, num_classes=150),
]


# ---- ours


class Own(NamedTuple):
    """One way to predict with Atrous."""

    suffix: str = ".safetensors"  # of the file, beside the model's
    runtime: str = ""  # that it is exported for
    int8: bool = False
    is_sized: bool = False  # for images of one size, as the peers' files are
    how: Mapping[str, Any] = {}  # options of `atrous.load`

    def file(self, case: Case) -> Path:
        size = f".{case.height}x{case.width}" if self.is_sized else ""
        return Path(case.model).with_suffix(f"{size}{'.int8' if self.int8 else ''}{self.suffix}")


FP32, BF16 = {"precision": "fp32"}, {"precision": "bf16"}
OWN: Mapping[str, Own] = {
    "atrous": Own(),  # as users get it
    "atrous, fp32": Own(how=FP32),
    "atrous, bf16": Own(how=BF16),
    "atrous, compiled, bf16": Own(how={**BF16, "compile": True}),
    "atrous, ONNX Runtime": Own(".onnx", "onnx"),
    "atrous, ONNX Runtime, int8": Own(".onnx", "onnx", int8=True),
    "atrous, LiteRT": Own(".tflite", "litert", is_sized=True),
    "atrous, LiteRT, int8": Own(".tflite", "litert", int8=True, is_sized=True),
    "atrous, OpenVINO": Own(".xml", "openvino", how=FP32),
    "atrous, OpenVINO, bf16": Own(".xml", "openvino", how=BF16),
    "atrous, OpenVINO, bf16, one size": Own(".xml", "openvino", is_sized=True, how=BF16),
    "atrous, OpenVINO, int8": Own(".xml", "openvino", int8=True, how=BF16),
    "atrous, OpenVINO, int8, one size": Own(".xml", "openvino", int8=True, is_sized=True, how=BF16),
}


class Program(NamedTuple):
    """One that is ready to predict."""

    predict: Predict
    share: Callable[[Image], float] = lambda image: math.nan  # of upsampling and arg-max, where it is known


def atrous_program(case: Case, own: Own) -> Program:
    import atrous  # not in the peers' processes

    segmenter = atrous.load(own.file(case), **own.how)
    return Program(lambda image: segmenter.predict(image).semantic, partial(upsampling_share, segmenter))


def upsampling_share(segmenter: Any, image: Image) -> float:  # noqa: ANN401 - a Segmenter
    """Upsampling and arg-max as a part of a whole prediction, by the clock."""
    from atrous.inference.frames import as_batch, pad_to_grid
    from atrous.layers.resize import image_size
    from atrous.ops import upsample_argmax

    padded = pad_to_grid(as_batch(image, segmenter.device), segmenter.network)
    is_aligned = segmenter.network.facts.convention == "aligned_corners"
    logits = segmenter.prepared(padded).semantic
    calls = (
        partial(upsample_argmax, logits, image_size(padded), align_corners=is_aligned),
        partial(segmenter.predict, image),
    )
    part, whole = (median(timed(call).clock for _ in range(SHARE_CALLS + 1)) for call in calls)
    return part / whole


class Seconds(NamedTuple):
    clock: float
    core: (
        float  # of all threads of the process: what others do on the machine hardly changes it, if there is one thread
    )


def timed(call: Callable[[], object]) -> Seconds:
    clock, core = time.perf_counter(), time.process_time()
    call()
    return Seconds(time.perf_counter() - clock, time.process_time() - core)


def write_integers(runtime: str, model: str, images: str, size: str, target: str) -> None:
    """As `atrous export --int8` writes it, without its comparison, which refuses random weights: they amplify rounding
    as trained ones do not.
    """
    from rich.console import Console

    import atrous
    from atrous import artefact, int8
    from atrous.runtimes import RUNTIMES

    segmenter, _ = int8.integer_model(atrous.load(model), int8.Request(images=[images]), Console(stderr=True))
    row = RUNTIMES[runtime]
    height, width = map(int, size.split(",")) if size else (0, 0)
    settings = artefact.Export(runtime, (height, width) if size else None, int8=True)
    deployment = artefact.deployment_of(segmenter.model, segmenter.header, settings)
    assert row.write is not None
    with artefact.aside(Path(target), row) as temporary:
        row.write(deployment if row.as_rounded is None else row.as_rounded(deployment), temporary)


def export_all(case: Case, names: Sequence[str]) -> None:
    """The files that these programs open. One that can't be written is missed by its program."""
    from PIL import Image as PILImage

    from atrous.benching.process import pictures

    images = Path(case.model).with_name("images")
    images.mkdir(exist_ok=True)
    for number, picture in enumerate(pictures(case.image, (case.height, case.width), NUM_CALIBRATION)):
        PILImage.fromarray(picture).save(images / f"{number}.png")
    for own in (OWN[name] for name in names if OWN[name].runtime):
        if not own.file(case).exists():
            run_alone(export_command(case, own, images))


def export_command(case: Case, own: Own, images: Path) -> list[object]:
    size, target = f"{case.height},{case.width}" if own.is_sized else "", own.file(case)
    if own.int8:
        return [__file__, "--integers", own.runtime, case.model, images, size, target]
    sized = ["--size", size] if size else []
    return ["-m", "atrous", "export", case.model, "--to", own.runtime, "--out", target, *sized]


def run_alone(words: Sequence[object], folders: Sequence[str] = ()) -> None:
    """Python in a process of its own, whose failure is told."""
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *folders])}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command[1:])}: {done.stderr.strip()[-1000:]}", file=sys.stderr, flush=True)


# ---- the peers' networks


def smp_network(case: Case) -> nn.Module:
    declare_vision_operators()
    import segmentation_models_pytorch as smp  # type: ignore[import-not-found]

    network = NETWORKS[case.network]
    if network.model == "deeplab_v3plus":
        model = smp.DeepLabV3Plus(network.backbone, encoder_weights=None, classes=case.num_classes)
    else:  # by default it is cut after the second stage, which is no PSPNet-50
        model = smp.PSPNet("resnet50", encoder_weights=None, encoder_depth=5, classes=case.num_classes)
        model.encoder.make_dilated(8)
    return model.eval()  # type: ignore[no-any-return]


def semseg_network(case: Case) -> nn.Module:
    from model.pspnet import PSPNet  # type: ignore[import-not-found]

    return Padded(PSPNet(layers=50, classes=case.num_classes, zoom_factor=8, pretrained=False)).eval()


class Padded(nn.Module):
    """semseg's networks take sides of 8 k + 1 only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -(width - 1) % 8, 0, -(height - 1) % 8))
        logits: Tensor = self.model(padded)
        return logits[..., :height, :width]


PEER_NETWORKS: Mapping[str, Callable[[Case], nn.Module]] = {"smp": smp_network, "semseg": semseg_network}


# ---- the peers' pipelines, as their users write them


def eager(model: nn.Module, case: Case) -> Predict:
    mean, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, SCALE))

    def predict(image: Image) -> NDArray[Any]:
        with torch.inference_mode():
            pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - mean) / scale
            return model(pixels).argmax(1)[0].to(torch.uint8).numpy()  # type: ignore[no-any-return]

    return predict


def reduced(model: nn.Module, case: Case) -> Predict:
    """Channels-last, and weights in bfloat16."""
    model = model.to(memory_format=torch.channels_last, dtype=torch.bfloat16)  # type: ignore[call-overload]
    mean, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, SCALE))

    def predict(image: Image) -> NDArray[Any]:
        with torch.inference_mode():
            pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - mean) / scale
            pixels = pixels.to(torch.bfloat16, memory_format=torch.channels_last)
            return model(pixels).argmax(1)[0].to(torch.uint8).numpy()  # type: ignore[no-any-return]

    return predict


def compiled(model: nn.Module, case: Case) -> Predict:
    return reduced(torch.compile(model), case)  # type: ignore[arg-type]


def normalized(image: Image) -> NDArray[np.float32]:  # [1, 3, H, W]
    pixels = (image.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(SCALE, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


class InGraph(nn.Module):
    """All in the graph, as a careful user exports it: [1, H, W, 3] bytes -> [1, H, W] classes."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", MEAN), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean) / self.scale
        return self.model(pixels).argmax(1).to(torch.uint8)  # type: ignore[no-any-return]


def onnx_file(case: Case, peer: str, *, in_graph: bool = False) -> Path:
    """Where the peer's network is, with the upsampling that is part of it, for images of this size."""
    kind = "-labels" if in_graph else ""
    return Path(case.model).with_name(f"{peer}-{case.height}x{case.width}{kind}.onnx")


def write_onnx(case: Case, peer: str, *, in_graph: bool) -> None:
    """By PyTorch's older exporter, which most programs use, or by the newer one what that refuses."""
    torch.manual_seed(0)
    path, model, sides = onnx_file(case, peer, in_graph=in_graph), PEER_NETWORKS[peer](case), (case.height, case.width)
    example = torch.zeros(1, *sides, 3, dtype=torch.uint8) if in_graph else torch.zeros(1, 3, *sides)
    network, temporary = InGraph(model).eval() if in_graph else model, path.with_suffix(".part")
    try:
        torch.onnx.export(network, (example,), str(temporary), dynamo=False, opset_version=17)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError):
        torch.onnx.export(network, (example,), str(temporary), dynamo=True, external_data=False)
    temporary.rename(path)


def onnxruntime(case: Case, peer: str) -> Predict:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = case.threads
    session = ort.InferenceSession(onnx_file(case, peer), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: normalized(image)})[0][0].argmax(0).astype(np.uint8)


def openvino(case: Case, peer: str, precision: str | None = None) -> Predict:
    network = openvino_network(onnx_file(case, peer), case, precision)
    return lambda image: network(normalized(image))[0][0].argmax(0).astype(np.uint8)


def openvino_in_graph(case: Case, peer: str) -> Predict:
    network = openvino_network(onnx_file(case, peer, in_graph=True), case, None)
    return lambda image: network(image[None])[0][0]


def openvino_network(path: Path, case: Case, precision: str | None) -> Any:  # noqa: ANN401
    import openvino as ov

    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": case.threads}
    hints |= {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
    return ov.Core().compile_model(path, "CPU", hints)


IN_PYTORCH: Mapping[str, Callable[[nn.Module, Case], Predict]] = {
    "eager": eager,
    "channels-last, bf16": reduced,
    "compiled, bf16": compiled,
}
EXPORTED: Mapping[str, Callable[[Case, str], Predict]] = {
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
    "OpenVINO, bf16": partial(openvino, precision="bf16"),
    "OpenVINO, all in the graph": openvino_in_graph,
}


def peer_program(case: Case, peer: str, pipeline: str) -> Program:
    if pipeline in EXPORTED:
        return Program(EXPORTED[pipeline](case, peer))
    return Program(IN_PYTORCH[pipeline](PEER_NETWORKS[peer](case), case))


def export_peers(case: Case, names: Sequence[str], peers: Path | None) -> None:
    """Not in the processes that open the files, whose memory is measured."""
    for peer in PEER_NETWORKS:
        pipelines = [name.removeprefix(f"{peer}, ") for name in names if name.startswith(f"{peer}, ")]
        for in_graph in {name == "OpenVINO, all in the graph" for name in pipelines if name in EXPORTED}:
            if not onnx_file(case, peer, in_graph=in_graph).exists():
                run_alone([__file__, "--onnx", json.dumps([case, peer, in_graph])], folders_of(peers))


def folders_of(peers: Path | None) -> list[str]:
    return [str(path.absolute()) for path in sorted(peers.iterdir())] if peers else []


# ---- the published TFLite models


def litert_original(case: Case) -> Program:
    """As its documentation shows; a float model takes -1..1."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(case.network, num_threads=case.threads)
    with contextlib.suppress(RuntimeError):
        interpreter.allocate_tensors()
        return Program(partial(invoke, interpreter))
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # XNNPACK refuses this file
    interpreter = Interpreter(case.network, num_threads=case.threads, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    return Program(partial(invoke, interpreter))


def invoke(interpreter: Any, image: Image) -> NDArray[Any]:  # noqa: ANN401
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    pixels = image if source["dtype"] == np.uint8 else image.astype(np.float32) / np.float32(127.5) - np.float32(1)
    interpreter.set_tensor(source["index"], pixels[None])
    interpreter.invoke()
    result = interpreter.get_tensor(target["index"])[0]
    return (result.argmax(-1) if result.ndim == 3 else result).astype(np.uint8)  # type: ignore[no-any-return]


# ---- programs by name


def programs(case: Case) -> dict[str, Callable[[], Program]]:
    """What is compared; the first of the peers' is the standard that ratios are of."""
    ours = {name: partial(atrous_program, case, own) for name, own in OWN.items()}
    if case.network not in NETWORKS:
        return {"LiteRT, original file": partial(litert_original, case), **ours}
    kinds = [(peer, kind) for peer in NETWORKS[case.network].peers for kind in (*IN_PYTORCH, *EXPORTED)]
    return {**{f"{peer}, {kind}": partial(peer_program, case, peer, kind) for peer, kind in kinds}, **ours}


# ---- a process that measures


def serve(case: Case, name: str) -> None:
    """Warm up, then predict for a round at each line of the input, and print how long each prediction took."""
    from atrous.peak_memory import peak, release_memory, reset_peak

    warnings.simplefilter("ignore")
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    device = torch.device("cpu")
    program, image = programs(case)[name](), picture(case)
    for _ in range(WARM_UP):
        labels = program.predict(image)
    share = program.share(image)
    release_memory()  # others are measured now
    tell({"labels": describe(labels), "share": share})
    for _ in sys.stdin:
        reset_peak(device)
        program.predict(image)  # others had the cache in between
        times: list[Seconds] = []
        while not times or (case.height < BIG and sum(one.clock for one in times) < STEP):
            times.append(timed(partial(program.predict, image)))
        tell({"times": times, "mebibytes": peak(device) / MEBI})
        release_memory()


def picture(case: Case) -> Image:
    from atrous.benching.process import pictures

    return pictures(case.image, (case.height, case.width), 1)[0]


def describe(labels: NDArray[Any]) -> str:
    """Arg-max by cells costs what the map has of edges; so a table says how many there are."""
    edges = np.mean(labels[:, 1:] != labels[:, :-1])
    return f"{labels.shape[0]} x {labels.shape[1]}, {len(np.unique(labels))} classes, {edges:.1%} edges"


def tell(values: Mapping[str, Any]) -> None:
    print(json.dumps(values), flush=True)


# ---- all of them in turn


class Worker(NamedTuple):
    process: "subprocess.Popen[str]"
    faults: IO[str]

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                values: dict[str, Any] = json.loads(line)
                return values
        self.faults.seek(0)
        last = self.faults.read().strip().splitlines()[-1:] or ["no message"]
        return {"error": last[0]}

    def turn(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.answer()


@contextlib.contextmanager
def worker(case: Case, program: str, peers: Path | None) -> Iterator[Worker]:
    folders = [] if program.startswith("atrous") else folders_of(peers)
    paths = os.pathsep.join([str(ROOT), *folders, os.environ.get("PYTHONPATH", "")])
    surroundings = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(case.threads)}
    command = [sys.executable, __file__, "--child", json.dumps([case, program])]
    with tempfile.TemporaryFile("w+", errors="replace") as faults:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": faults}
        process = subprocess.Popen(command, env=surroundings, text=True, **pipes)  # type: ignore[call-overload]
        try:
            yield Worker(process, faults)
        finally:
            process.kill()
            process.communicate()


class Timed(NamedTuple):
    rounds: list[list[Seconds]]
    mebibytes: float = math.nan
    labels: str = ""
    share: float = math.nan  # of upsampling and arg-max, where it is known
    error: str = ""


def measure(case: Case, rounds: int, peers: Path | None, only: Sequence[str]) -> dict[str, Timed]:
    """Every program of a case: A B C A B C ..."""
    names = [name for name in programs(case) if not only or any(word in name for word in only)]
    export_all(case, [name for name in names if name in OWN])
    export_peers(case, names, peers)
    with contextlib.ExitStack() as stack:
        timed, workers = dict[str, Timed](), dict[str, Worker]()
        for name in names:
            workers[name] = stack.enter_context(worker(case, name, peers))
            answer = workers[name].answer()
            timed[name] = Timed(
                [],
                labels=answer.get("labels", ""),
                share=answer.get("share", math.nan),
                error=answer.get("error", ""),
            )
        for _ in range(rounds):
            for name in names:
                if not timed[name].error:
                    timed[name] = with_turn(timed[name], workers[name].turn())
    return timed


def with_turn(timed: Timed, answer: Mapping[str, Any]) -> Timed:
    if "error" in answer:
        return timed._replace(error=answer["error"])
    times = [Seconds(*one) for one in answer["times"]]
    return timed._replace(rounds=[*timed.rounds, times], mebibytes=answer["mebibytes"])


def ratio(one: Timed, other: Timed, of: str) -> float:
    """How many times as fast the first is: the median of the ratios of the rounds, whose medians were taken in turn."""
    pairs = zip(medians(one, of), medians(other, of), strict=True)
    return median(theirs / ours for ours, theirs in pairs)


def medians(timed: Timed, of: str) -> list[float]:
    """Of each round."""
    return [median(getattr(seconds, of) for seconds in times) for times in timed.rounds]


def table(case: Case, timed: Mapping[str, Timed]) -> Iterator[str]:
    first = next(iter(timed))
    yield f"\n**{case.name}** ({case.height} x {case.width}, {case.num_classes} classes, {case.threads} threads)\n"
    yield f"| program | ms | ms of cores | MiB | {first} / this: ms | of cores | upsampling, arg-max | its label map |"
    yield "|---|--:|--:|--:|--:|--:|--:|---|"
    for name, one in timed.items():
        if one.error:
            yield f"| {name} | failed: {one.error} | | | | | | |"
            continue
        times = [f"{1000 * median(medians(one, of)):,.1f}" for of in Seconds._fields]
        compared = ["" if timed[first].error else f"{ratio(one, timed[first], of):.2f}" for of in Seconds._fields]
        share = "" if math.isnan(one.share) else f"{one.share:.1%}"
        yield f"| {name} | {' | '.join([*times, f'{one.mebibytes:,.0f}', *compared, share, one.labels])} |"
    yield from conclusion(timed)


def conclusion(timed: Mapping[str, Timed]) -> Iterator[str]:
    """Our fastest against the peers' fastest."""
    done = {name: one for name, one in timed.items() if not one.error}
    sides = [{name: one for name, one in done.items() if name.startswith("atrous") == is_ours} for is_ours in (1, 0)]
    if all(sides):
        ours, theirs = (min(side, key=lambda name: median(medians(side[name], "core"))) for side in sides)
        clock, core = (ratio(done[ours], done[theirs], of) for of in Seconds._fields)
        yield f"\n{ours} against {theirs}, the peers' fastest: {clock:.2f} times as fast, by cores {core:.2f}"


def written(case: Case, folder: Path) -> Case:
    """The case with the model file of ours; all sizes of a network have one."""
    import atrous

    place = folder / f"{Path(case.network).stem}-{case.num_classes}"
    place.mkdir(parents=True, exist_ok=True)
    path = place / "model.safetensors"
    if path.exists():
        pass
    elif case.network in NETWORKS:
        network = NETWORKS[case.network]
        atrous.create(network.model, backbone=network.backbone, num_classes=case.num_classes).save(path)
    else:
        atrous.convert(case.network, out=path)  # type: ignore[operator]
    return case._replace(model=str(path))


def tflite_case(path: Path) -> Case:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    shape = Interpreter(str(path), experimental_op_resolver_type=plain).get_input_details()[0]["shape"]
    return Case(str(path), int(shape[1]), int(shape[2]))


def main(
    peers: Annotated[Path | None, typer.Option(help="folder that holds the peers' folders: smp, semseg")] = None,
    case: Annotated[list[str] | None, typer.Option(help="only these: " + ", ".join(one.name for one in CASES))] = None,
    program: Annotated[list[str] | None, typer.Option(help="only programs with these words in their names")] = None,
    tflite: Annotated[list[Path] | None, typer.Option(help="published files to compare with")] = None,
    rounds: Annotated[int, typer.Option(help="turns of each program")] = 5,
    threads: Annotated[int, typer.Option(help="threads of each program")] = 2,
    image: Annotated[Path | None, typer.Option(help="a photo [default: a painted street]")] = None,
    files: Annotated[Path | None, typer.Option(help="keeps what is exported, for the next time")] = None,
) -> None:
    torch.set_num_threads(threads)
    print(machine("cpu"), flush=True)
    wanted = [one for one in CASES if (one.name in case if case else not tflite)]
    with tempfile.TemporaryDirectory() as temporary:
        for one in [*wanted, *map(tflite_case, tflite or [])]:
            photo = None if image is None else str(image.absolute())
            ready = written(one._replace(threads=threads, image=photo), files or Path(temporary))
            print("\n".join(table(ready, measure(ready, rounds, peers, program or []))), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        place, title = json.loads(sys.argv[2])
        serve(Case(*place), title)
    elif sys.argv[1:2] == ["--integers"]:
        write_integers(*sys.argv[2:])
    elif sys.argv[1:2] == ["--onnx"]:
        place, title, is_labels = json.loads(sys.argv[2])
        write_onnx(Case(*place), title, in_graph=is_labels)
    else:
        typer.run(main)
