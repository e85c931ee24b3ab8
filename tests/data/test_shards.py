"""Shards of `atrous pack`: equal to what was packed, in any order, and each kind of damage named."""

import json
import pickle
import re
import tarfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atrous.data
from atrous.data import shards, strips
from atrous.data.augment_config import AugmentConfig
from atrous.data.loader import Stream, epoch_order, missing_fields, order_of, training_batches, whole_samples
from atrous.data.packed import read_index
from atrous.data.shards import buffered_order, key_of, name_of, split_name
from atrous.data.strips import LateError, Strips
from atrous.data.transforms import augment
from atrous.errors import DataError
from atrous.pack import run
from atrous.packing.job import checked_options
from atrous.types import Batch, Sample
from tests.data.conftest import FILL, IGNORE, complaint, noise_image, save, write
from tests.runs import QUIET

SIZE = (150, 90)  # more than two strips
COUNT = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven photos in JPEG and PNG, one in a folder and with dots in its name, with labels and instances."""
    root = tmp_path_factory.mktemp("folder")
    names = ("a.jpg", "b.png", "c.png", "sub/d.v2.jpg", "é ü.png", "f.png", "g.bmp")
    for number, name in enumerate(names):
        save(root / "images" / "train" / name, noise_image(*SIZE, number))
        labels = noise_image(*SIZE, number)[..., 0] % 3
        save(root / "masks" / "train" / Path(name).with_suffix(".png"), labels)
    save(root / "images" / "val" / "v.png", noise_image(*SIZE))
    save(root / "masks" / "val" / "v.png", np.eye(*SIZE, dtype=np.uint8))
    write(root / "classes.yaml", "names: [background, cat, dog]\n")
    return root


@pytest.fixture(scope="module")
def packs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The data set packed in shards of one or two samples: as files, and for crops."""
    place = tmp_path_factory.mktemp("packed")
    for name, is_raw in (("files", False), ("crops", True)):
        options = checked_options(for_crops=is_raw, shard_size=0.05)
        run(str(dataset), place / name, options=options, console=QUIET)
    return {name: place / name for name in ("files", "crops")}


def read(root: Path, split: str = "train", **settings: object) -> shards.Shards:
    samples = atrous.data.samples(shards.Config(root=root, **settings), split)
    assert isinstance(samples, shards.Shards)
    return samples


def assert_equal(one: Sample, other: Sample) -> None:
    assert one.name == other.name
    for left, right in zip(one[1:], other[1:], strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("kind", ["files", "crops"])
def test_samples_are_those_of_the_folder(dataset: Path, packs: dict[str, Path], kind: str) -> None:
    config = atrous.data.folder.Config(root=dataset)
    originals, packed = atrous.data.samples(config, "train"), read(packs[kind])
    assert len(originals) == len(packed) == COUNT
    for one, other in zip(originals, packed, strict=True):
        assert_equal(one, other)
    assert atrous.data.label_space(shards.Config(root=packs[kind])) == atrous.data.label_space(config)
    assert packed.labels(3).image.size == 0
    assert all(array.flags.writeable for array in packed[3] if isinstance(array, np.ndarray)), "PyTorch wants that"
    np.testing.assert_array_equal(packed.labels(3).semantic, originals[3].semantic)
    assert [one.name for one in packed[2:4]] == [originals[2].name, originals[3].name]
    assert_equal(pickle.loads(pickle.dumps(packed))[1], originals[1])


def batches(
    samples: Sequence[Sample], workers: int = 0, start: int = 0, stream: Stream | None = None, **config: object
) -> list[Batch]:
    settings = AugmentConfig.model_validate({"crop": (65, 65), "scale_step": 0} | config)
    stream = stream or Stream(seed=3, batch=2, start=start)
    loaded = training_batches(
        samples,
        lambda sample, *, rng: augment(sample, settings, rng, fill=FILL, ignore=IGNORE),
        stream,
        workers=workers,
        skip_errors=False,
    )
    return [batch for batch, _ in islice(loaded, 8)]


def assert_same_batches(some: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.names == other.names
        assert one.images.equal(other.images)
        assert one.semantic is not None and other.semantic is not None and one.semantic.equal(other.semantic)


@pytest.mark.parametrize("kind", ["files", "crops"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rotate": 30, "rotate_probability": 1, "blur": 1, "affine": 0.05, "aspect": (0.8, 1.25), "autoaugment": 1},
        {"resampling": "fast"},
        {"style": "semseg", "padding": "around"},
        {"style": "deeplab2", "padding": "random", "scale_step": 0.25},
    ],
    ids=["plain", "all", "fast", "semseg", "deeplab2"],
)
def test_batches_are_those_of_the_folder(
    dataset: Path, packs: dict[str, Path], kind: str, config: dict[str, Any]
) -> None:
    originals = atrous.data.samples(atrous.data.folder.Config(root=dataset), "train")
    assert_same_batches(batches(originals, 0, 0, **config), batches(read(packs[kind]), 0, 0, **config))


def test_a_crop_reads_no_more_than_its_rows(packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    image = read(packs["crops"]).late(0).image
    assert isinstance(image, Strips)
    sizes: list[tuple[int, int]] = []
    inner = Strips._read

    def noted(strips: Strips, begin: int, end: int) -> NDArray[Any]:
        sizes.append((begin, end))
        return inner(strips, begin, end)

    monkeypatch.setattr(Strips, "_read", noted)
    part = image[70:80, 5:25]
    assert sizes == [(64, 128)]
    np.testing.assert_array_equal(part, read(packs["crops"])[0].image[70:80, 5:25])
    assert image[149:150, :].shape == (1, 90, 3) and sizes[-1] == (128, 150)


# ---- order


def test_without_a_buffer_the_order_is_that_of_files() -> None:
    np.testing.assert_array_equal(buffered_order(5, 2, (3, 4), 0), epoch_order(5, 2, 7))


@pytest.mark.parametrize("buffer", [1, 2, 5, 40])
def test_a_buffered_order_is_a_permutation_that_stays_near_its_shards(buffer: int) -> None:
    sizes = (10, 1, 20, 0, 30)
    order = buffered_order(1, 0, sizes, buffer)
    assert sorted(order) == list(range(61))
    np.testing.assert_array_equal(order, buffered_order(1, 0, sizes, buffer))
    assert order.tolist() != buffered_order(1, 1, sizes, buffer).tolist()
    assert order.tolist() != buffered_order(2, 0, sizes, buffer).tolist()
    starts = np.cumsum((0, *sizes))
    order_of_shards = np.random.default_rng([1, 0]).permutation(5)
    in_order = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in order_of_shards])
    place = {int(sample): number for number, sample in enumerate(in_order)}
    assert all(place[int(sample)] < step + buffer for step, sample in enumerate(order)), "read before it was due"


def test_a_buffered_epoch_is_shared_by_workers_and_resumed_at_any_sample(packs: dict[str, Path]) -> None:
    samples = read(packs["files"], shuffle_buffer=3)
    straight = batches(samples)
    assert_same_batches(straight, batches(samples, workers=2))
    assert_same_batches(straight[3:], batches(samples, start=6)[:5])
    names = [name for batch in straight for name in batch.names][:COUNT]
    assert sorted(names) == sorted(entry.name for entry in samples.entries)
    assert names == [samples.entries[index].name for index in samples.order(3, 0)]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("buffer", [0, 3])
def test_processes_share_an_epoch_and_none_of_its_samples_comes_twice(
    packs: dict[str, Path], processes: int, buffer: int
) -> None:
    """The steps of all processes in turn are the order of one; an epoch of seven ends within a step of two or more."""
    samples = read(packs["files"], shuffle_buffer=buffer)
    ranks = [
        batches(samples, stream=Stream(seed=3, batch=2, rank=rank, processes=processes)) for rank in range(processes)
    ]
    names = [name for step in zip(*ranks, strict=True) for batch in step for name in batch.names]
    everything = sorted(entry.name for entry in samples.entries)
    for epoch in range(len(names) // COUNT):
        own = names[epoch * COUNT : (epoch + 1) * COUNT]
        assert sorted(own) == everything
        assert own == [samples.entries[index].name for index in order_of(samples, 3, epoch)]


def test_validation_is_in_order(packs: dict[str, Path]) -> None:
    samples = read(packs["files"], shuffle_buffer=3)
    read_names = [one.sample.name for _, one in whole_samples(samples, workers=2) if one.sample is not None]
    assert read_names == [entry.name for entry in samples.entries]


# ---- names


@pytest.mark.parametrize(
    "name", ["a", "a.b.c", "a/b.c/d", "é ü", "a%2Eb", "..", "a\\b:c", "x" * 300, "a\x1bb", 80 * "画", "\udcff"]
)
def test_names_come_back_from_keys(name: str) -> None:
    key, rest = split_name(f"{key_of(name)}.label.png")
    assert (name_of(key), rest) == (name, "label.png")
    assert 80 * "画" not in name or len(key.encode()) < 255


# ---- damage


@pytest.fixture
def copy(packs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def copied(kind: str = "files") -> Path:
        for path in packs[kind].iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return copied


Change = Callable[[Path], object]


def rewritten(path: Path) -> None:
    """A tar of the same size in which a link has taken a file's place."""
    content = bytearray(path.read_bytes())
    head = tarfile.TarInfo("link")
    head.type, head.linkname = tarfile.SYMTYPE, "/etc/passwd"
    content[:512] = head.tobuf()
    path.write_bytes(content)


def renamed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    head = tarfile.TarInfo.frombuf(bytes(content[:512]), "utf-8", "strict")
    head.name = "../../a.jpg"
    content[:512] = head.tobuf()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Path.unlink, "it is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-700]), "it has .* bytes, but .* when it was packed"),
        (lambda path: path.write_bytes(b""), "it has 0 bytes"),
        (rewritten, "'link' is a link, a device or a sparse file"),
        (renamed, r"'../../a.jpg' is not the name of a file inside a folder"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "it has 0 samples|not a tar file"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "it has .* bytes"),
        (lambda path: (path.unlink(), path.mkdir()), "it is not a file"),
    ],
)
def test_a_shard_that_cannot_be_read_is_named_or_skipped(
    copy: Callable[..., Path], change: Change, reason: str
) -> None:
    root = copy()
    shard = sorted(root.glob("train-*"))[0]
    lost = next(one["samples"] for one in index_of(root)["splits"]["train"]["shards"] if one["name"] == shard.name)
    change(shard)
    text = complaint(shards.Config(root=root))
    assert text.startswith(f"shard {shard}: ")
    assert re.search(reason, text)
    samples = read(root, on_error="skip")
    reads = [one for _, one in whole_samples(samples, workers=0, skip_errors=True)]
    problems = [problem for one in reads for problem in one.problems]
    assert len(reads) == COUNT and len(problems) == lost
    assert all(text.startswith(problem.partition(";")[0]) for problem in problems)


def index_of(root: Path) -> dict[str, dict[str, dict[str, list[dict[str, object]]]]]:
    tree: dict[str, dict[str, dict[str, list[dict[str, object]]]]] = json.loads((root / "index.json").read_text())
    return tree


@pytest.mark.parametrize("kind", ["files", "crops"])
def test_a_flipped_bit_is_named_or_skipped(copy: Callable[..., Path], kind: str) -> None:
    root = copy(kind)
    entry = read(root).entries[0]
    member = next(member for rest, member in entry.files.items() if rest in ("jpg", "npy"))
    content = bytearray(entry.shard.read_bytes())
    content[member.start + member.size // 2] ^= 1
    entry.shard.write_bytes(content)
    assert "damaged: the checksum" in complaint(shards.Config(root=root)) or kind == "files"
    with pytest.raises(DataError, match=rf"{entry.shard}: a\.{'jpg' if kind == 'files' else 'npy'} is damaged"):
        batches(read(root))
    settings = AugmentConfig(crop=(150, 90))
    loaded = training_batches(
        read(root, on_error="skip"),
        lambda sample, *, rng: augment(sample, settings, rng, fill=FILL, ignore=IGNORE),
        Stream(0, 2),
        workers=0,
        skip_errors=True,
    )
    problems = [problem for _, found in islice(loaded, 7) for problem in found]
    assert len(problems) == 2 and "a." in problems[0], "once in each of two epochs"


def test_damage_of_any_byte_changes_nothing_in_silence(copy: Callable[..., Path], packs: dict[str, Path]) -> None:
    """Whatever bit of a shard is flipped: the samples are the same, or an error says which shard it is."""
    rng = np.random.default_rng(0)
    for kind in ("files", "crops"):
        root, originals = copy(kind), [*read(packs[kind])]
        shard = root / read(root).entries[0].shard.name
        whole = shard.read_bytes()
        for place in rng.integers(0, len(whole), 60).tolist():
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            shard.write_bytes(damaged)
            strips._RIGHT.clear()
            try:
                for one, original in zip(read(root), originals, strict=True):
                    assert_equal(one, original)
            except (DataError, LateError) as error:
                assert str(shard) in str(error) and "\n" not in str(error)
        shard.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "complaint_of_it"),
    [
        ({"version": 2}, "version"),
        ({"format": "zip"}, "is not a dataset of data.format=shards"),
        ({"label_space": {"names": ["one"]}}, "expected at least two classes"),
        ({"splits": {"train": {"shards": "no"}}}, "splits"),
        ({"more": 1}, "more"),
    ],
)
def test_a_wrong_index_is_refused(copy: Callable[..., Path], change: dict[str, object], complaint_of_it: str) -> None:
    root = copy()
    (root / "index.json").write_text(json.dumps(index_of(root) | change))
    with pytest.raises(DataError):
        read_index(root)
    assert complaint_of_it in complaint(shards.Config(root=root))


@pytest.mark.parametrize("name", ["../train-000000.tar", "/etc/passwd", "a/b.tar", "..", "a\\b"])
def test_an_index_that_leads_out_of_its_folder_is_refused(copy: Callable[..., Path], name: str) -> None:
    root = copy()
    tree = index_of(root)
    tree["splits"]["train"]["shards"][0]["name"] = name
    (root / "index.json").write_text(json.dumps(tree))
    with pytest.raises(DataError):
        read_index(root)
    complaint(shards.Config(root=root))


def test_an_index_that_contradicts_itself_is_refused(copy: Callable[..., Path]) -> None:
    root, tree = copy(), index_of(copy())
    whole = json.dumps(tree)
    tree["splits"]["train"]["shards"] *= 2
    (root / "index.json").write_text(json.dumps(tree))
    assert "shards are listed twice: train-000000.tar" in complaint(shards.Config(root=root))
    (root / "index.json").write_text(whole.replace(f'"samples": {COUNT}', '"samples": 99'))
    assert "the shards of train don't add up to its 99 samples" in complaint(shards.Config(root=root))
    (root / "index.json").write_text(whole[:-40])
    assert "index.json: not JSON" in complaint(shards.Config(root=root))


def test_other_names_need_as_many(packs: dict[str, Path]) -> None:
    config = shards.Config(root=packs["files"], names=("x", "y", "z"))
    assert atrous.data.label_space(config).names == ("x", "y", "z")
    with pytest.raises(DataError.__base__, match="2 names, but the packed labels have 3 classes"):  # type: ignore[arg-type]
        atrous.data.label_space(config.model_copy(update={"names": ("x", "y")}))


def test_a_task_that_needs_things_is_told_that_there_are_none(packs: dict[str, Path]) -> None:
    samples = read(packs["files"])
    assert missing_fields(samples, ("semantic", "instance")) == ("instance",)
