"""data.format=mix: how often each part is read, and which classes go together."""

from collections import Counter

import numpy as np
import pytest

from atrous.data.loader import Augmented, order_of
from atrous.data.mix import Mix, shares_of
from atrous.types import Sample


def numbered(count: int) -> list[Sample]:
    return [Sample(str(number), np.full((2, 2, 3), number, np.uint8)) for number in range(count)]


def test_parts_come_as_often_as_their_weights_say() -> None:
    samples = Mix({"a": numbered(90), "b": numbered(10)}, [1, 1])
    order = order_of(samples, 3, 0)
    assert len(order) == len(samples) == 100
    assert Counter(samples[int(index)].name[0] for index in order) == {"a": 50, "b": 50}


def test_every_image_of_a_part_comes_equally_often() -> None:
    samples = Mix({"a": numbered(7), "b": numbered(3)}, [1, 2])
    counts = Counter(samples[int(index)].name for epoch in range(21) for index in order_of(samples, 0, epoch))
    shares = shares_of(10, [1, 2])
    for part, size, share in zip("ab", (7, 3), shares, strict=True):
        times = [count for name, count in counts.items() if name[0] == part]
        assert len(times) == size
        assert max(times) - min(times) <= 1
        assert sum(times) == 21 * share


def test_an_epoch_depends_on_the_seed_and_its_number_alone() -> None:
    one, other = (Mix({"a": numbered(20), "b": numbered(5)}, [1, 3]) for _ in range(2))
    assert np.array_equal(order_of(one, 5, 3), order_of(other, 5, 3))
    assert not np.array_equal(order_of(one, 5, 3), order_of(one, 5, 4))
    assert not np.array_equal(order_of(one, 5, 3), order_of(one, 6, 3))


def test_a_sample_that_comes_again_is_augmented_anew() -> None:
    samples = Mix({"a": numbered(10), "b": numbered(2)}, [1, 5])
    order = order_of(samples, 0, 0)
    assert len(set(order.tolist())) == len(order)

    def augment(sample: Sample, /, *, rng: np.random.Generator) -> Sample:
        return sample._replace(image=rng.integers(0, 255, (2, 2, 3)).astype(np.uint8))

    read = Augmented(samples, augment, 0, skip_errors=False)
    images: dict[str, list[bytes]] = {}
    for number in range(12):
        sample = read[number].sample
        assert sample is not None
        images.setdefault(sample.name, []).append(sample.image.tobytes())
    assert max(map(len, images.values())) == 5
    assert all(len(set(some)) == len(some) for some in images.values())


@pytest.mark.parametrize(
    ("weights", "shares"), [([1, 1, 1], [4, 3, 3]), ([0.001, 1, 1], [0, 5, 5]), ([2, 1, 1], [5, 3, 2])]
)
def test_shares_add_up(weights: list[float], shares: list[int]) -> None:
    assert shares_of(10, weights) == shares
