"""How many images a second one core checks: decoding included, by the size of the images, and what comes after.

python benchmarks/checking.py [DATA]     # DATA: also those of a real data set, as `atrous check` reads them
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from atrous import data
from atrous.check.facts import Facts, facts
from atrous.check.likeness import alike
from atrous.check.sources import open_source, open_splits

SIZES = ((375, 500), (1024, 2048))  # VOC's, Cityscapes'
NUMBER = 8


def scene(size: tuple[int, int], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image that compresses like a photo, and labels with some hundred edges."""
    rng = np.random.default_rng(seed)
    small = PIL.Image.fromarray(rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8))
    image = np.asarray(small.resize(size[::-1], PIL.Image.Resampling.BICUBIC))
    coarse = PIL.Image.fromarray(rng.integers(0, 8, (12, 16), np.uint8))
    return image, np.asarray(coarse.resize(size[::-1], PIL.Image.Resampling.NEAREST))


def write(root: Path, size: tuple[int, int], suffix: str) -> Path:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(NUMBER):
            image, labels = scene(size, index + 100 * (split == "val"))
            PIL.Image.fromarray(image).save(root / "images" / split / f"{index}{suffix}", quality=90)
            PIL.Image.fromarray(labels).save(root / "masks" / split / f"{index}.png")
    (root / "classes.yaml").write_text(f"names: [{', '.join(f'class {index}' for index in range(8))}]\n")
    return root


def speed(root: Path, limit: int = 100) -> tuple[float, list[Facts]]:
    """Images per second of one core, and what was read."""
    config, splits, _ = open_splits(open_source(str(root), []).config.data)
    space = data.label_space(config)
    samples = splits[0].samples
    number = min(limit, len(samples))
    start = time.process_time()
    read = [facts(samples, space, index) for index in range(number)]
    return number / (time.process_time() - start), read


def main() -> None:
    for size in SIZES:
        for suffix in (".jpg", ".png"):
            with tempfile.TemporaryDirectory() as folder:
                root = write(Path(folder) / "data", size, suffix)
                value, _ = speed(root)
                print(f"{size[0]} x {size[1]} {suffix}: {value:.1f} images per second and core")
    read = many()
    start = time.perf_counter()
    alike(read)
    print(f"copies among {len(read):,} images: {time.perf_counter() - start:.2f} s")
    for path in sys.argv[1:]:
        value, _ = speed(Path(path))
        print(f"{path}: {value:.1f} images per second and core")


def many(number: int = 5000) -> list[Facts]:
    """Facts of many images that were never files: only their thumbs differ."""
    with tempfile.TemporaryDirectory() as folder:
        _, read = speed(write(Path(folder) / "data", (48, 64), ".png"), 1)
    image, rng = read[0].image, np.random.default_rng(0)
    assert image is not None
    thumbs = rng.integers(0, 256, (number, *image.thumb.shape), np.uint8)
    images = [image._replace(thumb=thumb, digest=bytes(str(index), "ascii")) for index, thumb in enumerate(thumbs)]
    return [read[0]._replace(name=f"image {index}", image=one) for index, one in enumerate(images)]


if __name__ == "__main__":
    main()
