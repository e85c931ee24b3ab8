"""Predicts in turns that `atrous bench` asks for, and prints how long each took.

A process measures one model, one runtime and one precision: the threads of another runtime would wait for work in
loops, and take time from this one's. The standard input holds the order, then a line for each turn; each is answered
with a line of JSON. The end of the input ends the process.
"""

import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from atrous import distributed, evaluate, segmenter, terminal
from atrous.benching.entries import own_size
from atrous.data.synthetic import Config as Street
from atrous.data.synthetic import paint
from atrous.distributed import World
from atrous.errors import AtrousError, out_of_memory, text_of
from atrous.peak_memory import peak, release_memory, reset_peak
from atrous.predicting.arguments import with_settings
from atrous.segmenter import Segmenter, read_image
from atrous.types import Image, Size

SCENE = (256, 512)  # pixels of the street that is painted where no image is named
WARM_UP = 2  # predictions: the first compiles kernels, allocates and starts threads


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    warnings.simplefilter("ignore")  # standard error is for the fault that ends it
    answer(partial(serve, json.loads(sys.stdin.readline())))


def answer(work: Callable[[], Mapping[str, Any] | None]) -> None:
    """Print what the work returns, if anything, or the one line that says why it failed."""
    try:
        if (values := work()) is not None:
            tell(values)
    except Exception as error:
        if out_of_memory(error) is not None:
            tell({"error": "it needs more memory than there is"})
        elif isinstance(error, AtrousError | OSError):
            tell({"error": text_of(error)})
        else:
            tell({"error": f"a fault: {type(error).__name__}: {error}"})


def tell(values: Mapping[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def serve(order: Mapping[str, Any]) -> None:
    """Open the model, answer, and take turns until the input ends."""
    torch.set_num_threads(order["threads"])
    device = distributed.choose_device(order["device"])
    start = time.perf_counter()
    model = opened(order)
    images = pictures(order["image"], order["size"] or own_size(model), order["batch"])
    alone, together = partial(predict, model, images[:1]), partial(predict, model, images)
    release_memory()
    reset_peak(device)
    alone()
    tell({"opened": time.perf_counter() - start, "size": images[0].shape[:2]})
    turns = {
        "single": lambda turn: timed(alone, turn, device),
        "batch": lambda turn: timed(together, turn, device),
        "score": lambda turn: score(model, turn["overrides"], Path(order["path"]), device),
    }
    for line in sys.stdin:
        turn = json.loads(line)
        answer(partial(turns[turn["kind"]], turn))


def opened(order: Mapping[str, Any]) -> Segmenter:
    path = order["path"]
    precision: Any = "fp32" if order["precision"] == "int8" else order["precision"]  # of what isn't in integers
    model = segmenter.load(path, device=order["device"] or "auto", precision=precision)
    return with_settings(model, order["overrides"], path)


def pictures(path: str | None, size: Size | None, number: int) -> list[Image]:
    """Different images of one size: a photo or a painted street, and its shifted copies."""
    image = paint(Street(size=SCENE), "val", 0).image if path is None else read_image(path)
    if size is not None:
        image = np.asarray(PILImage.fromarray(image).resize(size[::-1], PILImage.Resampling.BICUBIC))
    return [np.ascontiguousarray(np.roll(image, 16 * index, axis=1)) for index in range(number)]


def predict(model: Segmenter, images: Sequence[Image]) -> None:
    """From bytes to label maps in memory, as a program that uses the package does it."""
    model.predict(images)


def timed(call: Callable[[], None], turn: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The seconds of each of so many calls, or of as many as fit into so many seconds, at least one."""
    for _ in range(WARM_UP if turn["is_first"] else 1):  # others had the cache in between
        call()
    times: list[float] = []
    while len(times) < (turn["repeats"] or 1) or (not turn["repeats"] and sum(times) < turn["seconds"]):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {"times": times, "peak": peak(device)}


def score(model: Segmenter, overrides: Sequence[str], path: Path, device: torch.device) -> dict[str, Any]:
    """The headline of an evaluation; the labels have been looked at before."""
    console = terminal.console(quiet=True)
    result = evaluate.measured(
        model, overrides, path, World(0, 1, device), workers=0, metrics=None, console=console, is_known=True
    )
    figures = result.evaluation.figures
    return {"evaluation": result.evaluation.to_tree(), "title": figures.titles[figures.headline]}


if __name__ == "__main__":
    main()
