"""Many machines, by Ray Data: each of its processes loads the model once, and writes to the disk that all share.

A process that dies, or a machine, costs nothing but time: its images go to the others.
"""

import contextlib
import importlib
import logging
import math
import os
import pickle
import signal
import socket
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from atrous.data.finding import NamedImage
from atrous.engines.contract import Engine, Outcome, Predict, Work
from atrous.errors import AtrousWarning, ConfigError, ProcessDied, text_of

MISSING = '--engine ray needs Ray: pip install "atrous[ray]"'
LOCAL = "local"  # an address: a cluster of this machine, for this call
AUTO = "auto"  # an address: the cluster that this machine belongs to
MAX_PORT = 65535
PATIENCE = 20.0  # seconds, for a machine to answer
TOGETHER = 16  # images, at most, that a process takes at once, and works on again if it dies
ROUNDS = 4  # at least, in which a process gets images: so all end at about the same time
ATTEMPTS = 3  # at an image, if the process that predicts it dies
DEADLY = f"the process that predicts it died {ATTEMPTS} times; too little memory is the usual cause"
QUIET = {  # what Ray would send home, start or say
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # lines about tasks that are tried again
}


def run(work: Work) -> Generator[tuple[NamedImage, Outcome]]:
    """Raises ConfigError for a device or a cluster that isn't there, and ProcessDied if the cluster is lost."""
    kind = device_kind(work.device)
    if not work.images:
        return
    with connected(work.address) as ray, told(ray):
        yield from outcomes(ray, work, slots_of(ray.cluster_resources(), kind))


RAY = Engine(run, is_here=False)


def device_kind(device: str | None) -> str | None:
    """None: a GPU where the cluster has some."""
    if device in (None, "auto"):
        return None
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: with --engine ray it is cpu or cuda; Ray chooses which GPU")
    return device


# ---- the cluster


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, in contact with a cluster: that of the address, of RAY_ADDRESS, or one of this machine's for this time."""
    ray = imported()
    if ray.is_initialized():  # by the program that this is a part of
        yield ray
        return
    place = address or os.environ.get("RAY_ADDRESS") or LOCAL
    own_signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        contact(ray, place)
        restore(own_signals)
        yield ray
    finally:
        ray.shutdown()
        restore(own_signals)


def imported() -> Any:  # noqa: ANN401 - Ray's module
    os.environ.update(QUIET)
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(MISSING) from error


def contact(ray: Any, address: str) -> None:  # noqa: ANN401 - Ray's module
    if address not in (LOCAL, AUTO):
        require_answer(address)
    options = {"include_dashboard": False} if address == LOCAL else {}
    try:
        with silent():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=True, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--address {address}: no Ray cluster answers there: {reason}") from error


def require_answer(address: str) -> None:
    """Ray itself tries for minutes."""
    if "://" in address:
        raise ConfigError(f"--address {address}: Ray's client can't do this; start it on a machine of the cluster")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise ConfigError(f"--address {address}: expected HOST:PORT of a Ray cluster, or {AUTO}, or {LOCAL}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        raise ConfigError(f"--address {address}: no Ray cluster answers there: {text_of(error)}") from error


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without what Ray's compiled part writes to stderr: that it was told to be silent."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def restore(handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None]) -> None:
    """Ray answers SIGTERM by itself, without a word."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def told(ray: Any) -> Iterator[None]:  # noqa: ANN401 - Ray's module
    """What befalls the cluster, in a line."""
    try:
        yield
    except ray.exceptions.RayError as error:
        reason = next(filter(None, reversed(str(error).splitlines())), type(error).__name__)
        raise ProcessDied(f"--engine ray: {type(error).__name__}: {reason.strip()}") from error


# ---- the images


class Slots(NamedTuple):
    """How many processes there may be, and what each needs."""

    number: int
    device: str

    @property
    def needs(self) -> dict[str, float]:
        return {"num_gpus": 1} if self.device == "cuda" else {"num_cpus": 1}


def slots_of(resources: dict[str, float], kind: str | None) -> Slots:
    gpus = int(resources.get("GPU", 0))
    if kind == "cuda" and not gpus:
        raise ConfigError("--device cuda: the Ray cluster has no GPU")
    is_gpu = kind == "cuda" or (kind is None and gpus > 0)
    return Slots(gpus, "cuda") if is_gpu else Slots(max(1, int(resources.get("CPU", 1))), "cpu")


def outcomes(ray: Any, work: Work, slots: Slots) -> Iterator[tuple[NamedImage, Outcome]]:  # noqa: ANN401 - Ray's module
    images = dict(enumerate(work.images))
    size = max(1, min(TOGETHER, len(images) // (ROUNDS * slots.number)))
    number_of_blocks = math.ceil(len(images) / size)
    rows = [{"number": number, "image": pickle.dumps(absolute(image))} for number, image in images.items()]
    processes = min(slots.number, number_of_blocks)
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=processes, initial_size=processes)
    be_quiet(ray)
    predictions = ray.data.from_items(rows, override_num_blocks=number_of_blocks).map_batches(
        Predictor,
        fn_constructor_args=(work.load, slots.device, attempts_of(ray)),
        batch_size=None,
        compute=pool,
        **slots.needs,
    )
    for row in predictions.iter_rows():
        image = images.pop(row["number"], None)
        if image is not None:
            yield image, received(row["outcome"])


def be_quiet(ray: Any) -> None:  # noqa: ANN401 - Ray's module
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = context.enable_auto_log_stats = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Attempts:
    """Counts how often each image was begun and not ended. It lives where the prediction was started."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self.counts[number] += 1
        return self.counts[number]

    def end(self, number: int) -> None:
        del self.counts[number]


def attempts_of(ray: Any) -> Any:  # noqa: ANN401 - Ray's module, and its handle
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    here = strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Attempts).options(num_cpus=0, scheduling_strategy=here).remote()


def received(content: bytes) -> Outcome:
    """Warns of what the process warned of, and raises what it raised."""
    outcome, texts = pickle.loads(content)
    for text in texts:
        warnings.warn(text, AtrousWarning, stacklevel=2)
    if isinstance(outcome, Exception):
        raise outcome
    assert isinstance(outcome, Outcome)
    return outcome


class Predictor:
    """What each process of the cluster holds: the model. Ray takes a process that dies for bad luck: it tries again."""

    def __init__(self, load: Callable[[str], Predict], device: str, attempts: Any) -> None:  # noqa: ANN401 - a handle
        self.predict, self.texts = attempted(load, device)
        self.attempts, self.get = attempts, importlib.import_module("ray").get

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(batch["number"], batch["image"], strict=True)
        outcomes = [self.outcome(int(number), pickle.loads(image)) for number, image in pairs]
        return {"number": batch["number"], "outcome": outcomes}

    def outcome(self, number: int, image: NamedImage) -> bytes:
        texts, self.texts = self.texts, []
        if isinstance(self.predict, Exception):
            return sent(self.predict, texts)
        if self.get(self.attempts.begin.remote(number)) > ATTEMPTS:
            return sent(Outcome(failure=f"{image.path}: {DEADLY}"), texts)
        outcome, more = attempted(self.predict, image)
        self.attempts.end.remote(number)
        return sent(outcome, [*texts, *more])


def attempted(work: Callable[..., Any], *arguments: Any) -> tuple[Any, list[str]]:  # noqa: ANN401
    """What `work` returns or raises, and what it warns of: all this is said where the prediction was started."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AtrousWarning)
        try:
            result = work(*arguments)
        except Exception as error:
            result = error
    return result, [str(one.message) for one in caught if issubclass(one.category, AtrousWarning)]


def sent(outcome: Any, texts: list[str]) -> bytes:  # noqa: ANN401 - an Outcome or an Exception
    with contextlib.suppress(Exception):  # some exceptions can't be sent
        content = pickle.dumps((outcome, texts))
        pickle.loads(content)
        return content
    return pickle.dumps((RuntimeError(repr(outcome)), texts))


def absolute(image: NamedImage) -> NamedImage:
    """With paths that are right in any folder."""
    entry = image.entry and image.entry._replace(shard=Path(image.entry.shard).absolute())
    return image._replace(path=image.path.absolute(), entry=entry)
