"""Which images are done: by whom, and whether that still holds."""

import errno
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from atrous import predict, prediction_log, segmenter
from atrous.data.finding import NamedImage
from atrous.predicting import one_image, stages
from atrous.prediction_log import Log, Reader
from atrous.segmenter import Segmenter
from atrous.types import Image
from tests.conftest import noise, save
from tests.runs import QUIET
from tests.test_files import full_disk


@pytest.fixture
def image(tmp_path: Path) -> NamedImage:
    save(tmp_path / "images" / "a.png", noise())
    return NamedImage(tmp_path / "images" / "a.png", Path("a"))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path / "out", "maker")
    log.out.mkdir()
    prediction_log.begin(log)
    return log


def add(log: Log, image: NamedImage) -> list[Path]:
    files = [log.out / folder / "a.png" for folder in ("masks", "overlays")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    prediction_log.add(log, image, files)
    return files


def test_another_model_ends_a_prediction_into_the_same_folder(log: Log, image: NamedImage) -> None:
    other = log._replace(maker="other")
    prediction_log.begin(other)
    with pytest.raises(
        OSError, match="out: another model, or the same with other settings, has begun to predict"
    ) as error:
        add(log, image)
    assert error.value.errno == errno.EBUSY
    assert done(log, image, "masks") == []
    add(other, image)
    prediction_log.begin(log)
    add(log, image)
    assert done(other, image, "masks") == []


def done(log: Log, image: NamedImage, *folders: str) -> list[Path]:
    reader = Reader(log)
    reader.update()
    return reader.files_of(image, folders)


def test_an_image_is_done_while_its_files_and_itself_are_as_they_were(log: Log, image: NamedImage) -> None:
    assert done(log, image, "masks") == []
    files = add(log, image)
    assert done(log, image, "masks") == done(log, image, "masks", "overlays") == files
    assert done(log, image, "masks", "probabilities") == []
    assert done(log, NamedImage(image.path, Path("b")), "masks") == []
    assert done(log._replace(maker="other"), image, "masks") == []
    os.utime(image.path, ns=(0, 0))
    assert done(log, image, "masks") == []
    add(log, image)
    assert done(log, image, "masks") == files
    files[1].unlink()
    assert done(log, image, "masks") == []
    image.path.unlink()
    assert done(log, image, "masks") == []


def test_lines_that_a_kill_cut_off_or_a_disk_damaged_are_left_out(log: Log, image: NamedImage) -> None:
    files = add(log, image)
    whole = log.own.read_bytes()
    for rest in (b'{"na', b"\0" * 40 + b"\n", b"[]\n", b"7\n", b'{"name": 1, "image": [], "files": [1]}\n', b"\xff\n"):
        log.own.write_bytes(rest + (b"" if rest.endswith(b"\n") else b"\n") + whole + rest)
        assert done(log, image, "masks") == files


def test_a_reader_goes_on_where_it_was(log: Log, image: NamedImage) -> None:
    reader = Reader(log)
    reader.update()
    add(log, image)
    line = log.own.read_bytes()
    log.own.write_bytes(line[:20])
    reader.update()
    assert reader.rows == {}
    log.own.write_bytes(line)
    reader.update()
    assert list(reader.rows) == ["a"]


def test_another_maker_forgets_what_it_replaces(log: Log, image: NamedImage) -> None:
    add(log, image)
    prediction_log.begin(log)
    assert log.own.exists()
    prediction_log.begin(log._replace(maker="other"))
    assert not log.own.exists()


def test_a_full_disk_is_told(log: Log, image: NamedImage) -> None:
    with full_disk(0), pytest.raises(OSError, match=f"cannot write {log.own}"):
        add(log, image)


# ---- in predictions


def test_two_predictions_at_once_leave_the_results_of_one(
    small: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins and ends while the first reads an image."""
    model, images, out = tmp_path / "model.safetensors", [str(tmp_path / "images")], tmp_path / "out"
    small.save(model)
    for name in "abcd":
        save(tmp_path / "images" / f"{name}.png", noise())
    second = partial(predict.run, model, images, overrides=["evaluate.flip=false"], console=QUIET)
    begun: list[Path] = []
    read = one_image.read_pixels

    def interrupted(image: NamedImage) -> Image:
        if not begun:
            begun.append(image.path)
            second(out=out)
        return read(image)

    monkeypatch.setattr(stages, "read_pixels", interrupted)
    with pytest.raises(
        OSError, match=r"has begun to predict into this folder; name another one; \d of 4 images are done"
    ):
        predict.run(model, images, out, console=QUIET)
    monkeypatch.undo()
    assert second(out=out).images == 0
    second(out=tmp_path / "alone")
    for name in "abcd":
        mask = Path("masks", f"{name}.png")
        assert (out / mask).read_bytes() == (tmp_path / "alone" / mask).read_bytes()


def test_a_prediction_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "deep/c.png"):
        save(tmp_path / "images" / name, noise())
    models = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for seed, path in enumerate(models):
        segmenter.create("deeplab_v3", num_classes=3, output_stride=32, seed=seed).save(path)
    out, sources = tmp_path / "out", [str(tmp_path / "images")]

    def predicted(model: Path, *settings: str, **options: Any) -> tuple[int, int]:  # noqa: ANN401
        summary = predict.run(model, sources, out, settings, console=QUIET, **options)
        return summary.images, summary.earlier

    assert predicted(models[0]) == (3, 0)
    whole = {path: path.read_bytes() for path in (out / "masks").rglob("*.png")}
    assert predicted(models[0]) == (0, 3)
    (out / "masks" / "b.png").unlink()
    assert predicted(models[0]) == (1, 2)
    assert {path: path.read_bytes() for path in (out / "masks").rglob("*.png")} == whole
    assert predicted(models[0], overlays=False) == (0, 3)
    assert predicted(models[0], probabilities=True) == (3, 0)
    assert predicted(models[0], legend=True) == (3, 0)
    assert predicted(models[0], "evaluate.flip=true") == (3, 0)
    assert predicted(models[1]) == (3, 0)
    assert predicted(models[0]) == (3, 0)
    save(tmp_path / "images" / "a.png", noise(33, 44))
    assert predicted(models[0]) == (1, 2)
    (tmp_path / "images" / "broken.png").write_bytes(b"")
    for _ in range(2):
        summary = predict.run(models[0], sources, out, console=QUIET)
        assert (summary.images, summary.earlier, len(summary.failures)) == (0, 3, 1)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise())
    segmenter.create("deeplab_v3", num_classes=3, output_stride=32).save(tmp_path / "m.safetensors")
    console = Console(width=60)
    for _ in range(2):
        with console.capture() as capture:
            summary = predict.run(
                tmp_path / "m.safetensors", [str(tmp_path / "a.png")], tmp_path / "out", console=console
            )
    assert summary.describe() == "nothing was left to do"
    assert capture.get() == (
        "done already, by this model with these settings: 1 of 1 images; to predict them again, name another "
        f"folder, or remove {tmp_path / 'out' / '.atrous'}\n"
    )
