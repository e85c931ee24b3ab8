"""A validation split made from the training split: which images, where there is none, and that nothing leaks."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import atrous.data
from atrous import cli, pack, train
from atrous import config as configs
from atrous.config import load
from atrous.data import folder, mix, shards, tfrecord
from atrous.data import list as list_files
from atrous.data.contract import DataConfig
from atrous.data.dividing import draw, places_aside
from atrous.data.inventory import inventory
from atrous.distributed import World
from atrous.errors import AtrousError, ConfigError, DataError
from atrous.packing.job import checked_options
from atrous.training.settings import in_steps, settled
from tests.conftest import SMALL_MODEL
from tests.data.conftest import save, write
from tests.runs import QUIET

STEPS = ("train.batch=2", "train.steps=2", "train.eval_every=2", "train.save_every=1")
QUICK = (*SMALL_MODEL, "augment.crop=33,33", *STEPS)


def write_photos(root: Path, count: int = 20, split: str = "train") -> Path:
    """A folder with one split."""
    rng = np.random.default_rng(0)
    for number in range(count):
        mask = np.zeros((40, 40), np.uint8)
        mask[:, 20:] = 1
        save(root / "images" / split / f"{number:03}.png", rng.integers(0, 256, (40, 40, 3), np.uint8))
        save(root / "masks" / split / f"{number:03}.png", mask)
    write(root / "classes.yaml", "names: [left, right]\n")
    return root


def divided(config: DataConfig) -> tuple[list[str], list[str]]:
    """The names in both splits."""
    config = atrous.data.with_validation(config)
    to_learn, to_validate = (
        [sample.name for sample in atrous.data.samples(config, split)] for split in (config.train, config.val)
    )
    return to_learn, to_validate


# ---- which


def test_about_a_share_is_set_aside_and_nothing_is_in_both() -> None:
    names = [f"{number:05}" for number in range(2000)]
    places = places_aside(names, 0.1, 0)
    assert 160 < len(places) < 240
    assert places == sorted(set(places)) == [place for place, name in enumerate(names) if draw(name, 0) < 0.1]
    assert places_aside(names, 0.1, 1) != places
    assert 900 < len(places_aside(names, 0.5, 0)) < 1100


def test_a_draw_is_the_same_everywhere() -> None:
    assert draw("a", 0) == pytest.approx(0.617000936233), "the first 64 bits of the SHA-256 of 0:a"
    assert draw("caf\u00e9", 3) == draw("cafe\u0301", 3), "the name of one file on two file systems"


def test_more_images_move_no_other_one() -> None:
    names = [f"{number:05}" for number in range(300)]
    before = {names[place] for place in places_aside(names, 0.1, 0)}
    more = [*(f"new{number}" for number in range(300)), *reversed(names)]
    after = {more[place] for place in places_aside(more, 0.1, 0)}
    assert {name for name in after if not name.startswith("new")} == before


@pytest.mark.parametrize(("count", "aside"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)])
def test_few_images(count: int, aside: int) -> None:
    names = [str(number) for number in range(count)]
    assert len(places_aside(names, 1e-9, 0)) == aside, "at least one"
    assert len(places_aside(names, 0.999, 0)) == max(0, count - 2), "two are left"


def test_equal_names_stay_together() -> None:
    places = places_aside(["a", "b", "c", "a", "b", "c", "a", "b", "c"], 1e-9, 0)
    assert len(places) == 3 and len({place % 3 for place in places}) == 1


# ---- where there is none


def test_a_folder_with_one_split_is_divided(tmp_path: Path) -> None:
    config = folder.Config(root=write_photos(tmp_path))
    to_learn, to_validate = divided(config)
    assert to_validate and not set(to_learn) & set(to_validate)
    assert sorted([*to_learn, *to_validate]) == [f"{number:03}" for number in range(20)]
    assert divided(config) == (to_learn, to_validate)
    assert divided(config.model_copy(update={"val_seed": 1})) != (to_learn, to_validate)
    assert len(divided(config.model_copy(update={"val_share": 0.5}))[1]) > len(to_validate)


@pytest.mark.parametrize("leaves", ["images", "both"])
def test_an_empty_split_is_none(leaves: str, tmp_path: Path) -> None:
    root = write_photos(tmp_path)
    (root / "images" / "val").mkdir()
    if leaves == "both":
        (root / "masks" / "val").mkdir()
    assert divided(folder.Config(root=root)) == divided(folder.Config(root=root, val_share=0.1))


def test_a_split_of_its_own_is_not_touched(tmp_path: Path) -> None:
    write_photos(write_photos(tmp_path, 5), 3, "val")
    for share in (None, 0.5):
        config = folder.Config(root=tmp_path, val_share=share)
        assert atrous.data.with_validation(config).val_share is None
        assert [len(part) for part in divided(config)] == [5, 3]


def test_a_split_that_is_named_must_exist(tmp_path: Path) -> None:
    config = folder.Config(root=write_photos(tmp_path), val="holdout")
    for share in (None, 0.5):
        with pytest.raises(DataError, match="no split 'holdout'"):
            divided(config.model_copy(update={"val_share": share}))


def test_a_split_that_is_probably_meant_is_not_passed_over(tmp_path: Path) -> None:
    write_photos(write_photos(tmp_path, 5), 3, "test")
    with pytest.raises(DataError, match=r"set data\.val=test, or data\.val_share=0\.1 to set a tenth"):
        divided(folder.Config(root=tmp_path))
    assert [len(part) for part in divided(folder.Config(root=tmp_path, val_share=0.2))] == [4, 1]


def test_damaged_validation_data_are_not_passed_over(tmp_path: Path) -> None:
    write_photos(write_photos(tmp_path, 5), 3, "val")
    (tmp_path / "masks" / "val" / "001.png").unlink()
    with pytest.raises(DataError, match="001"):
        divided(folder.Config(root=tmp_path))
    shutil.rmtree(tmp_path / "masks" / "val")
    with pytest.raises((AtrousError, OSError)):
        divided(folder.Config(root=tmp_path))
    shutil.rmtree(tmp_path / "images" / "val")
    write_photos(tmp_path, 1, "val")
    (tmp_path / "images" / "val" / "000.png").rename(tmp_path / "images" / "val" / "000.heic")
    with pytest.raises(DataError, match="the suffix must be one of"):
        divided(folder.Config(root=tmp_path))


def test_too_few_images_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 images of 'train' are too few to set one aside .* data\.val=train"):
        divided(folder.Config(root=write_photos(tmp_path, 2)))
    with pytest.raises(DataError, match=r"1 image of 'train' is too few"):
        divided(folder.Config(root=write_photos(tmp_path / "one", 1)))


def test_a_class_that_is_only_among_the_images_to_learn_from_is_said_with_a_way_out(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "data")
    to_learn, to_validate = divided(folder.Config(root=root))
    for name in to_validate:
        save(root / "masks" / "train" / f"{name}.png", np.zeros((40, 40), np.uint8))
    config = load("folder/deeplab_v3plus", [*QUICK, f"data.root={root}"])
    with pytest.raises(DataError, match=r"'val': nothing to validate on: .*are left.*another data\.val_seed or data"):
        train.train(config, tmp_path / "run", device="cpu", console=QUIET)
    for name in to_learn:
        save(root / "masks" / "train" / f"{name}.png", np.zeros((40, 40), np.uint8))
    save(root / "masks" / "train" / f"{to_validate[0]}.png", np.eye(40, dtype=np.uint8))
    with pytest.raises(DataError, match=r"'train': nothing to learn from: .*are left.*another data\.val_seed or data"):
        train.train(config, tmp_path / "run", device="cpu", console=QUIET)


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "2", "much", "nan"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.val_share"):
        load("folder/deeplab_v3plus", ["data.root=x", f"data.val_share={share}"])


# ---- every layout


def test_a_list_is_divided(tmp_path: Path) -> None:
    root = write_photos(tmp_path)
    lines = [f"images/train/{number:03}.png masks/train/{number:03}.png" for number in range(20)]
    write(root / "train.txt", "\n".join(lines))
    config = list_files.Config(root=root, names=("left", "right"))
    to_learn, to_validate = divided(config)
    assert len(to_learn) + len(to_validate) == 20 and not set(to_learn) & set(to_validate)
    write(root / "val.txt", "")
    assert divided(config) == (to_learn, to_validate)
    (root / "val.txt").rename(root / "other.txt")
    with pytest.raises(FileNotFoundError, match=r"lists: other\.txt, train\.txt"):
        divided(config)


def test_packed_data_are_divided_as_what_they_were_packed_from(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "data")
    expected = divided(folder.Config(root=root))
    for form, kind in (("shards", shards.Config), ("tfrecord", tfrecord.Config)):
        out = tmp_path / form
        options = {"shard_size": 0.02} if form == "shards" else {"to": form}
        pack.run(str(root), out, ["data.val=train"], checked_options(**options), console=QUIET)
        assert len(list(out.glob("train*"))) > 2
        config = atrous.data.with_validation(kind(root=out))
        parts = [atrous.data.samples(config, split) for split in (config.train, config.val)]
        assert [[sample.name for sample in part] for part in parts] == list(expected) or form == "tfrecord"
        assert sum(map(len, parts)) == 20 and not inventory(parts[0]).keys() & inventory(parts[1]).keys()
        for part in parts:
            assert sorted(atrous.data.loader.order_of(part, 0, 0).tolist()) == list(range(len(part)))


def test_parts_of_a_mix_are_divided_one_by_one(tmp_path: Path) -> None:
    write_photos(write_photos(tmp_path / "a", 6), 2, "val")
    write_photos(tmp_path / "b", 10)
    parts = {name: {"format": "folder", "root": str(tmp_path / name)} for name in ("a", "b")}
    to_learn, to_validate = divided(mix.Config(parts=parts))
    assert [name for name in to_validate if name.startswith("a/")] == ["a/000", "a/001"], "it has its own"
    alone = divided(folder.Config(root=tmp_path / "b"))
    assert [name for name in to_validate if name.startswith("b/")] == [f"b/{name}" for name in alone[1]]
    assert [name for name in to_learn if name.startswith("b/")] == [f"b/{name}" for name in alone[0]]


def test_mapped_classes_are_divided_alike(tmp_path: Path) -> None:
    config = folder.Config(root=write_photos(tmp_path))
    assert divided(config.model_copy(update={"map": {"all": ("*",), "right": ("right",)}})) == divided(config)


# ---- a run


def test_a_run_is_measured_reported_and_resumed_on_the_same_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = write_photos(tmp_path / "data"), tmp_path / "run"
    _, to_validate = divided(folder.Config(root=root))
    console = Console(record=True, width=1000, file=io.StringIO())
    recipe, settings = "folder/deeplab_v3plus", [*QUICK, f"data.root={root}"]
    train.train(load(recipe, settings), run, device="cpu", console=console)
    line = f"no images of a split 'val': {len(to_validate)} of 20 images of 'train' are set aside to validate on"
    assert line in console.export_text()
    stored = configs.load(str(run / "config.yaml"))
    assert (stored.data.val_share, stored.data.val_seed) == (0.1, 0)
    assert "set aside from the split train" in (run / "report.html").read_text()

    figures = tmp_path / "scores.json"
    assert cli.run(["evaluate", str(run), "--workers", "0", "--device", "cpu", "--json", str(figures)]) == 0
    best = json.loads(figures.read_text())["scores"]
    rows = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert best == next(row["scores"] for row in rows if "scores" in row)

    more = ["train.steps=3", "--resume", "--out", str(run), "--workers", "0", "--device", "cpu"]
    assert cli.run(["train", recipe, *settings, *more]) == 0
    write_photos(root, 21)
    assert cli.run(["train", recipe, *settings, *more[:-1], "cpu", "train.steps=4"]) == 2
    assert "the data is not that of the run" in capsys.readouterr().err
    write_photos(root, 4, "val")
    assert cli.run(["train", recipe, *settings, *more]) == 2, "what it is measured on has changed"


def test_epochs_are_of_the_images_that_are_left(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "data")
    to_learn, _ = divided(folder.Config(root=root))
    config = load("folder/deeplab_v3plus", [*QUICK, f"data.root={root}", "train.epochs=1", "train.batch=1"])
    in_full = in_steps(settled(config, QUIET), World(0, 1, torch.device("cpu")))
    assert in_full.train.steps == len(to_learn)
