"""Predictions in this process: in order, each once, with reading and writing beside the network, in bounded memory."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atrous.data.finding import NamedImage
from atrous.engines import local
from atrous.engines.contract import Outcome, Stages, Work

NUMBER = 40


def images(number: int = NUMBER) -> list[NamedImage]:
    return [NamedImage(Path(f"{index}.png"), Path(str(index))) for index in range(number)]


class Parts:
    """Stages that note what they do. Image 3 can't be read, 5 can't be computed, 7 can't be written."""

    def __init__(self, side: int = 8, together: int = 1) -> None:
        self.side, self.number = side, together
        self.read_now = self.most_read = 0
        self.groups: list[int] = []
        self.threads: dict[str, set[str]] = {"read": set(), "compute": set(), "write": set()}
        self.lock = threading.Lock()

    def stages(self) -> Stages:
        return Stages(self.read, lambda value: self.number, self.compute, self.write)

    def read(self, image: NamedImage) -> Any:  # noqa: ANN401
        with self.lock:
            self.read_now += 1
            self.most_read = max(self.most_read, self.read_now)
            self.threads["read"].add(threading.current_thread().name)
        if image.name == Path("3"):
            return Outcome(failure="3: unreadable")
        side = self.side + (int(str(image.name)) >= 20)  # two sizes
        return np.zeros((side, side, 3), np.uint8)

    def compute(self, names: Any, values: Any) -> list[Any]:  # noqa: ANN401
        self.groups.append(len(names))
        self.read_now -= len(names)
        self.threads["compute"].add(threading.current_thread().name)
        if any(isinstance(value, Outcome) for value in values):
            return list(values)
        assert len({value.shape for value in values}) == 1
        return [Outcome(failure="5: too large") if name.name == Path("5") else str(name.name) for name in names]

    def write(self, image: NamedImage, result: str) -> Outcome:
        self.threads["write"].add(threading.current_thread().name)
        assert result == str(image.name)
        return Outcome(failure="7: no room") if result == "7" else Outcome({image.path: Path("masks")})


def work_of(parts: Parts, number: int = NUMBER) -> Work:
    whole = lambda image: pytest.fail("in parts")  # noqa: E731
    return Work(images(number), whole, lambda device: whole, None, None, parts.stages())


def test_every_image_comes_once_in_order_and_failures_stay_with_their_image() -> None:
    parts = Parts()
    pairs = list(local.run(work_of(parts)))
    assert [image for image, _ in pairs] == images()
    failures = {str(image.name): outcome.failure for image, outcome in pairs if outcome.failure}
    assert failures == {"3": "3: unreadable", "5": "5: too large", "7": "7: no room"}
    assert parts.threads["compute"] == {threading.current_thread().name}
    assert not parts.threads["compute"] & (parts.threads["read"] | parts.threads["write"])


def test_images_of_one_size_are_computed_together() -> None:
    parts = Parts(together=8)
    assert len(list(local.run(work_of(parts)))) == NUMBER
    assert parts.groups == [3, 1, 8, 8, 8, 8, 4]  # 0-2, the unreadable one, 4-19, 20-39


@pytest.mark.parametrize(("side", "most"), [(8, local.AHEAD + 1), (3000, 3), (6000, 1)])
def test_few_large_images_are_held(side: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(side)
    monkeypatch.setattr(
        np, "zeros", lambda shape, kind: np.empty(shape, kind)
    )  # pages that nobody touches take no memory
    list(local.run(work_of(parts, 12)))
    assert 1 <= parts.most_read <= most


def test_what_ends_a_prediction_ends_its_threads() -> None:
    parts = Parts()

    def full(image: NamedImage, result: str) -> Outcome:
        raise OSError(28, "No space left on device")

    work = work_of(parts)
    with pytest.raises(OSError, match="No space left"):
        list(local.run(work._replace(stages=parts.stages()._replace(write=full))))
    outcomes = local.run(work_of(Parts()))
    next(outcomes)
    outcomes.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("read", "write"))]
