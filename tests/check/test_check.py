"""`atrous check` from the command line and from Python: what it reads, prints and writes, and how it ends."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import atrous
from atrous import cli
from atrous.check import Checkup
from atrous.check.checks import CHECKS
from atrous.check.run import check
from atrous.errors import AtrousError, ConfigError, DataError
from tests.check import broken
from tests.check.broken import change, image, label, painted, read, save, write_clean
from tests.data.conftest import ROAD, write_coco, write_coco_panoptic
from tests.runs import QUIET


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_clean(tmp_path / "data")


def names(root: Path, *overrides: str) -> set[str]:
    return {finding.name for finding in check(str(root), overrides, console=QUIET).findings}


# ---- exit codes


def test_a_clean_data_set_exits_with_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", str(root), "--workers", "0"]) == 0
    assert capsys.readouterr().out.endswith("train 8, val 4: nothing found\n")


def test_findings_exit_with_1_and_notes_with_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "images" / "train" / ".DS_Store").write_bytes(b"x")
    assert cli.run(["check", str(root), "--workers", "0"]) == 0
    assert "hidden-files" in capsys.readouterr().out
    change(label(root), painted(broken.MANY, 77))
    assert cli.run(["check", str(root), "--workers", "0"]) == 1
    output = capsys.readouterr().out
    assert "values-outside" in output and "train/aaa: value 77: not a class" in output and "mend: " in output
    assert "1 error, 1 note" in output
    assert cli.run(["check", str(root), "--workers", "0", "--ignore", "values-outside"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such folder, recipe or YAML file: nowhere"),
        (["{archive}"], r"data\.tar\.gz is an archive: unpack it, and name the folder"),
        (["{flat}"], "it holds no folders and 1 image in no folder of images or of labels"),
        (["{empty}"], "no layout that is known|its layout is none that is known"),
        (["{root}", "data.trian=a"], "data.trian"),
        (["{root}", "--ignore", "nothing"], "--ignore nothing: no such finding"),
        (["{root}", "--fix", "{root}"], "it is there already"),
        (["{root}", "--fix", "{root}/mended"], "it lies within the data set"),
        (["{root}", "--json", "{root}"], "it is a folder"),
        (["{root}", "data.train=nothing", "data.val=nothing"], "no split 'nothing'"),
    ],
)
def test_what_cannot_be_read_exits_with_2_in_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    deep = tmp_path / "a" / "b" / "c"  # folders of other tests must not be what is meant
    places = {name: deep / name for name in ("empty", "flat", "data.tar.gz")}
    for folder in (places["empty"], places["flat"]):
        folder.mkdir(parents=True)
    save(places["flat"] / "a.png", np.zeros((4, 4), np.uint8))
    places["data.tar.gz"].write_bytes(b"anything")
    names = {"root": root, "archive": places["data.tar.gz"], **places}
    before = sorted(tmp_path.rglob("*"))
    assert cli.run(["check", *(word.format(**names) for word in words), "--workers", "0"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_names_is_told_what_to_write(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "classes.yaml").unlink()
    assert cli.run(["check", str(root), "data.format=folder", "--workers", "0"]) == 1
    assert "write a classes.yaml" in capsys.readouterr().out


# ---- what is written


def test_json_and_page_hold_every_finding(root: Path, tmp_path: Path) -> None:
    broken.near_pair(root, "val")
    change(label(root), painted((slice(20, 25), slice(3, 9)), 77))
    broken.truncate(image(root, 1))
    (root / "images" / "train" / "<b>&.txt").write_text("x")
    assert cli.run(["check", str(root), "--out", str(tmp_path / "out"), "--workers", "0"]) == 1
    tree = json.loads((tmp_path / "out" / "check.json").read_text())
    assert tree["format"] == 1 and tree["images"] == {"train": 8, "val": 5} and not tree["clean"]
    assert (tree["errors"], tree["warnings"], tree["notes"]) == (3, 0, 1)
    found = {finding["name"]: finding for finding in tree["findings"]}
    assert set(found) == {"unreadable-files", "values-outside", "near-shared-images", "other-files"}
    (item,) = found["values-outside"]["items"]
    assert item == {
        "split": "train",
        "name": "aaa",
        "text": "value 77: not a class",
        "path": None,
        "box": [20, 3, 25, 9],
    }
    assert found["unreadable-files"]["items"][0]["path"] == str(image(root, 1))
    assert set(tree["class_weights"]) == set(broken.NAMES)
    page = (tmp_path / "out" / "check.html").read_text()
    assert all(f'id="{name}"' in page for name in found)
    assert page.count("<img") >= 5 and "<b>&.txt" not in page and "&lt;b&gt;&amp;.txt" in page
    assert "http:" not in page and "https:" not in page


def test_a_clean_page_says_so(root: Path, tmp_path: Path) -> None:
    check(str(root), page_path=tmp_path / "a.html", console=QUIET)
    assert "Nothing was found" in (tmp_path / "a.html").read_text()


def test_every_finding_can_be_drawn(root: Path, tmp_path: Path) -> None:
    """One of each kind of label: colours, other sizes, no class at all, a label without its image."""
    save(label(root, 0), broken.COLORS[read(label(root, 0))])
    change(label(root, 1), lambda pixels: pixels[:-3])
    change(label(root, 2), lambda pixels: pixels * 0 + 255)
    broken.truncate(image(root, 3))
    broken.bomb(image(root, 4))
    change(label(root, 5), lambda pixels: pixels[:, ::-1] + 1)
    (root / "images" / "train" / "iii.png").write_bytes(image(root, 6).read_bytes())
    checkup = check(str(root), page_path=tmp_path / "a.html", console=QUIET)
    assert len(checkup.findings) >= 6
    assert (tmp_path / "a.html").stat().st_size < 2_000_000


# ---- mending


def test_a_mended_copy_is_what_was_meant(root: Path, tmp_path: Path) -> None:
    truth = {path.name: read(path) for path in sorted((root / "masks" / "train").iterdir())}
    change(label(root, 0), lambda pixels: pixels + 1)
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    check(str(root), fix=tmp_path / "mended", console=QUIET)
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before
    for name, labels in truth.items():
        assert (read(tmp_path / "mended" / "masks" / "train" / name) == labels).all()
        copied = tmp_path / "mended" / "images" / "train" / name
        assert copied.read_bytes() == (root / "images" / "train" / name).read_bytes()
    record = json.loads((tmp_path / "mended" / "mended.json").read_text())
    assert record == {"changed": {"train/aaa": ["off-by-one"]}, "left_out": {}}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["binary", "grey palette", "VOC's colours", "renumbered palette", "rgb", "one less"])
def test_mended_labels_are_those_before_the_breakage(root: Path, tmp_path: Path, name: str) -> None:
    breaker = next(breaker for breaker in broken.BREAKERS if breaker.name == name)
    if name == "binary":
        broken.two_classes(root)
    truth = {path.relative_to(root): read(path) for path in broken.labels(root)}
    breaker.function(root)
    check(str(root), fix=tmp_path / "mended", console=QUIET)
    for path, labels in truth.items():
        assert (read(tmp_path / "mended" / path) == labels).all(), path


def test_smoothed_labels_are_nearly_those_before(root: Path, tmp_path: Path) -> None:
    truth = {path.relative_to(root): read(path) for path in broken.labels(root)}
    broken.anti_aliased(root)
    check(str(root), fix=tmp_path / "mended", console=QUIET)
    for path, labels in truth.items():
        assert (read(tmp_path / "mended" / path) != labels).mean() < 0.03


def test_exif_is_applied_to_the_copy(root: Path, tmp_path: Path) -> None:
    broken.turn(image(root), 6)
    check(str(root), fix=tmp_path / "mended", console=QUIET)
    upright = PIL.Image.open(tmp_path / "mended" / "images" / "train" / "aaa.png")
    assert upright.size == broken.SIZE and not upright.getexif()
    original = np.asarray(PIL.Image.open(image(root)))
    assert (np.asarray(upright) == np.rot90(original, -1)).all()
    assert (read(tmp_path / "mended" / "masks" / "train" / "aaa.png") == np.rot90(read(label(root)), -1)).all()


def test_a_copy_that_cannot_be_finished_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atrous.check.mending._save", full)
    with pytest.raises(OSError, match=r"cannot write .*mended: No space left"):
        check(str(root), fix=tmp_path / "mended", console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_names_of_a_list_stay_within_the_copy(root: Path, tmp_path: Path) -> None:
    """Names are paths there, of which some lead out, and two may end alike."""
    away = tmp_path / "away"
    away.mkdir()
    for path in (image(root), label(root)):
        shutil.copyfile(path, away / f"{path.parent.parent.name}.png")
    lines = [f"{away}/images.png\t{away}/masks.png", "images/train/bbb.png\tmasks/train/bbb.png"]
    lines += ["../data/images/train/ccc.png\tmasks/train/ccc.png", "images/val/bbb.png\tmasks/val/bbb.png"]
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text(
            "\n".join(lines if split == "train" else ["images/val/aaa.png\tmasks/val/aaa.png"])
        )
    overrides = ["data.format=list", "data.names=[background, road, car]"]
    check(str(root), overrides, fix=tmp_path / "deep" / "mended", console=QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["away", "data", "deep"]
    assert sum(1 for _ in (tmp_path / "deep" / "mended" / "masks").rglob("*.png")) == 5
    assert names(tmp_path / "deep" / "mended") == set()


def test_greys_become_the_classes_of_their_colours(root: Path, tmp_path: Path) -> None:
    before = read(label(root))
    broken.many_classes_grey(root)
    check(str(root), fix=tmp_path / "mended", console=QUIET)
    mended = read(tmp_path / "mended" / "masks" / "train" / "aaa.png")
    expected = np.array([0, 7, 14])[before]
    expected[0:3, 0:9] = 255  # the grey of VOC's borders
    assert (mended == expected).all()


@pytest.mark.parametrize("quality", [95, 75])
def test_colours_that_jpeg_shifted_become_their_classes(root: Path, tmp_path: Path, quality: int) -> None:
    before = {path.relative_to(root): read(path) for path in broken.labels(root)}
    broken.jpeg_colors(root, quality)
    check(str(root), fix=tmp_path / "mended", console=QUIET)
    for path, labels in before.items():
        assert (read(tmp_path / "mended" / path) != labels).mean() < 0.005, path


# ---- lists


def list_of(root: Path, *lines: str) -> list[str]:
    pairs = [f"images/train/{broken.name(index)}.png masks/train/{broken.name(index)}.png" for index in range(8)]
    (root / "train.txt").write_text("\n".join([*pairs, *lines]))
    (root / "val.txt").write_text("images/val/aaa.png masks/val/aaa.png\n")
    return ["data.format=list", "data.names=[background, road, car]"]


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("images/train/aaa.png masks/train/aaa.png", "repeated-names"),
        ("images/train/zzz.png masks/train/zzz.png", "listed-files-missing"),
    ],
)
def test_a_list_is_checked_whatever_is_wrong_with_it(root: Path, tmp_path: Path, line: str, finding: str) -> None:
    checkup = check(str(root), list_of(root, line), fix=tmp_path / "mended", console=QUIET)
    assert {finding.name for finding in checkup.findings} == {finding} and not checkup.is_clean
    assert checkup.images == {"train.txt": 8, "val.txt": 1}
    assert names(tmp_path / "mended") == set()


# ---- files of outlines


def cvat_of(root: Path, *names: str) -> Path:
    """The images of the clean data set, with a rectangle on each; those named `names` come last."""
    rows = [f"train/{broken.name(index)}.png" for index in range(8)]
    box = '<box label="car" xtl="20" ytl="20" xbr="60" ybr="50"/>'
    images = [
        f'<image id="{number}" name="{name}" width="96" height="64">{box}</image>'
        for number, name in enumerate([*rows, *names])
    ]
    head = "<meta><task><labels><label><name>car</name></label></labels></task></meta>"
    path = root.with_name("outlines") / "train.xml"
    shutil.copytree(root / "images", path.parent / "images")
    path.write_text(f"<annotations>{head}{''.join(images)}</annotations>")
    return path


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("train/aaa.png", "repeated-names"),
        ("train/zzz.png", "listed-files-missing"),
        ("../../etc/passwd.png", "listed-files-missing"),
        ("/etc/passwd", "listed-files-missing"),
    ],
)
def test_outlines_are_checked_whatever_their_file_lists(root: Path, tmp_path: Path, name: str, finding: str) -> None:
    path = cvat_of(root, name)
    checkup = check(str(path.parent), ["data.val=train"], fix=tmp_path / "mended", console=QUIET)
    assert {finding.name for finding in checkup.findings} == {finding}
    assert checkup.images == {"train": 8}
    assert not list((tmp_path / "mended").rglob("passwd*"))


def test_a_damaged_file_of_outlines_is_named(root: Path) -> None:
    path = cvat_of(root)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: not XML"):
        check(str(path.parent), console=QUIET)


# ---- ids of COCO's files


def changed_ids(path: Path, **changes: object) -> None:
    """A row that ends each list, made of the first one and the changes; its place is told by the list's name."""
    tree = json.loads(path.read_text())
    for key, new in changes.items():
        tree[key].append({**tree[key][0], **(new if isinstance(new, dict) else {})})
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("changes", "finding", "items"),
    [
        ({"images": {}}, "repeated-ids", {"1"}),
        ({"images": {"file_name": "b.png"}}, "repeated-ids", {"1"}),
        ({"annotations": {}}, "repeated-ids", {"1"}),
        ({"categories": {"name": "lorry"}}, "repeated-ids", {"7"}),
        ({"annotations": {"id": 5, "image_id": 9}}, "unlisted-ids", {"image_id 9"}),
        ({"annotations": {"id": 5, "category_id": 9}}, "unlisted-ids", {"category_id 9"}),
    ],
)
def test_ids_of_coco_instances_that_leave_open_what_is_meant_are_findings(
    tmp_path: Path, changes: dict[str, object], finding: str, items: set[str]
) -> None:
    write_coco(tmp_path)
    changed_ids(tmp_path / "annotations" / "instances_train2017.json", **changes)
    checkup = check(str(tmp_path), ["data.val=train"], console=QUIET)
    by_name = {one.name: {item.name for item in one.items} for one in checkup.findings}
    assert by_name[finding] == items and {"repeated-ids", "unlisted-ids"} & by_name.keys() == {finding}
    assert not checkup.is_clean and checkup.images == {"train": 1}


@pytest.mark.parametrize(
    ("changes", "finding", "items"),
    [
        ({"images": {}}, "repeated-ids", {"0"}),
        ({"annotations": {}}, "repeated-ids", {"0", "a.png"}),
        ({"annotations": {"file_name": "b.png"}}, "repeated-ids", {"0", "b.png"}),
        ({"categories": {}}, "repeated-ids", {str(ROAD)}),
        ({"annotations": {"file_name": "c.png", "image_id": 9}}, "unlisted-ids", {"9"}),
        ({"images": {"id": 5, "file_name": "c.jpg"}}, "images-without-label", {"c.jpg"}),
    ],
)
def test_ids_of_coco_panoptic_that_leave_open_what_is_meant_are_findings(
    tmp_path: Path, changes: dict[str, object], finding: str, items: set[str]
) -> None:
    write_coco_panoptic(tmp_path)
    changed_ids(tmp_path / "annotations" / "panoptic_train2017.json", **changes)
    checkup = check(str(tmp_path), ["data.val=train"], console=QUIET)
    by_name = {one.name: {item.name for item in one.items} for one in checkup.findings}
    assert by_name[finding] == items
    assert not checkup.is_clean and checkup.images == {"train": 2}


# ---- things


def with_things(root: Path) -> None:
    """Each car is a thing."""
    (root / "classes.yaml").write_text(f"names: [{', '.join(broken.NAMES)}]\nthings: [car]\n")
    for path in broken.labels(root):
        save(root / "instances" / path.relative_to(root / "masks"), (read(path) == 2).astype(np.uint8) * 3)


def test_instances_are_checked_and_copied(root: Path, tmp_path: Path) -> None:
    with_things(root)
    assert check(str(root), fix=tmp_path / "mended", console=QUIET).findings == []
    copied = read(tmp_path / "mended" / "instances" / "train" / "aaa.png")
    assert (copied == read(root / "instances" / "train" / "aaa.png")).all()
    assert names(tmp_path / "mended") == set()


def test_instance_maps_that_are_missing_or_of_another_size_are_named(root: Path) -> None:
    with_things(root)
    maps = sorted((root / "instances" / "train").iterdir())
    maps[0].unlink()
    save(maps[1], read(maps[1])[:-4].copy())
    findings = {finding.name: finding for finding in check(str(root), console=QUIET).findings}
    assert {name: [item.name for item in finding.items] for name, finding in findings.items()} == {
        "missing-instances": ["aaa"],
        "size-mismatch": ["bbb"],
    }
    assert findings["size-mismatch"].items[0].text == "image 96 x 64, instance map 96 x 60 (width x height)"


def test_values_that_a_layout_refuses_by_itself_are_named(tmp_path: Path) -> None:
    """Layouts that read a label with its instance ids, as that of Cityscapes."""
    root = tmp_path / "cityscapes"
    for index, value in enumerate((7, 77)):
        for folder, kind in (
            ("leftImg8bit", "leftImg8bit"),
            ("gtFine", "gtFine_labelIds"),
            ("gtFine", "gtFine_instanceIds"),
        ):
            pixels = (
                broken.photo(index, broken.scene(index))
                if folder == "leftImg8bit"
                else np.full((64, 96), value, np.uint8)
            )
            save(root / folder / "train" / "a" / f"a_00000{index}_000019_{kind}.png", pixels)
    findings = {finding.name: finding for finding in check(str(root), ["data.val=train"], console=QUIET).findings}
    assert "value 77" in findings["values-outside"].items[0].text


def test_instances_that_cross_classes_or_are_too_many_are_named(root: Path) -> None:
    with_things(root)
    path = root / "instances" / "train" / "aaa.png"
    numbers = read(path).copy()
    numbers[60:] = 3
    save(path, numbers)
    other = root / "instances" / "train" / "bbb.png"
    save(other, np.where(read(other) > 0, 1500, 0).astype(np.uint16))
    checkup = check(str(root), console=QUIET)
    found = {finding.name: finding.items for finding in checkup.findings}
    assert set(found) == {"crossing-instances", "too-many-instances"}
    assert found["crossing-instances"][0].name == "aaa" and found["too-many-instances"][0].name == "bbb"


def test_missing_instance_maps_are_named_where_others_have_one(root: Path) -> None:
    with_things(root)
    (root / "instances" / "train" / "aaa.png").unlink()
    (finding,) = check(str(root), console=QUIET).findings
    assert (finding.name, finding.severity) == ("missing-instances", "warning")
    assert [(item.name, item.text) for item in finding.items] == [("aaa", "no instance map")]
    shutil.rmtree(root / "instances")  # a data set for semantic models
    assert check(str(root), console=QUIET).findings == []


def test_a_split_without_a_numbered_thing_is_named(root: Path) -> None:
    with_things(root)
    for path in (root / "instances" / "val").iterdir():
        save(path, read(path) * 0)
    (finding,) = check(str(root), console=QUIET).findings
    assert (finding.name, finding.severity) == ("unnumbered-things", "error")
    (item,) = finding.items
    assert item.split == "val" and item.text.endswith(" pixels of car are 0 in the instance maps")


# ---- from Python


def test_check_does_what_the_verb_does(root: Path, tmp_path: Path) -> None:
    broken.binary(root)
    checkup: Checkup = atrous.check(  # type: ignore[operator]
        root, json=tmp_path / "a.json", html=str(tmp_path / "a.html"), fix=tmp_path / "b", workers=0, console=QUIET
    )
    assert [finding.name for finding in checkup.findings] == ["binary-masks"] and not checkup.is_clean
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(json.dumps(checkup.to_tree()))
    assert (tmp_path / "a.html").is_file() and (tmp_path / "b" / "classes.yaml").is_file()
    with pytest.raises(ConfigError, match="no such finding"):
        atrous.check(root, ignore=["x"], console=QUIET)  # type: ignore[operator]
    with pytest.raises((AtrousError, OSError)):
        atrous.check(tmp_path / "nowhere", console=QUIET)  # type: ignore[operator]


def test_workers_find_the_same(root: Path, tmp_path: Path) -> None:
    for index in range(40):
        save(
            root / "images" / "train" / f"more{'abcdefghij'[index % 10]}{index}x.png",
            broken.photo(500 + index, broken.scene(500 + index)),
        )
        save(root / "masks" / "train" / f"more{'abcdefghij'[index % 10]}{index}x.png", broken.scene(500 + index))
    change(label(root, 2), painted(broken.MANY, 9))
    alone, together = (check(str(root), workers=workers, console=QUIET).to_tree() for workers in (0, 2))
    assert alone == together and alone["errors"] == 1


def test_every_check_says_what_to_do_and_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checking.md").read_text()
    rows = {
        name: "*" in line.split("|")[1]
        for line in page.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([a-z-]+)`", line.split("|")[1])
    }
    marked = {name: bool(re.search(rf"`{name}` \*", page)) for name in rows}
    for row in CHECKS:
        assert row.mend and row.title, row.name
        assert marked[row.name] == row.is_mended, row.name
        assert ("--fix" in row.mend) or not row.is_mended, row.name


def test_all_images_unusable_is_no_crash(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in [*root.rglob("images/*/*.png"), *broken.labels(root)]:
        path.write_bytes(b"")
    assert (
        cli.run(["check", str(root), "--fix", str(tmp_path / "mended"), "--out", str(tmp_path / "o"), "--workers", "0"])
        == 1
    )
    assert "no mended copy" in capsys.readouterr().out
    assert not (tmp_path / "mended").exists()


def test_no_pair_at_all_is_an_error_in_one_line(root: Path) -> None:
    for path in broken.labels(root):
        path.unlink()
    with pytest.raises(DataError, match="without a label"):
        check(str(root), console=QUIET)


@pytest.mark.parametrize(("values", "names"), [((0, 3, 255), {"no-names"}), ((0, 255), {"no-names", "binary-masks"})])
def test_data_without_names_are_checked_by_the_values_in_their_labels(
    tmp_path: Path, values: tuple[int, ...], names: set[str]
) -> None:
    root = write_clean(tmp_path / "data")
    (root / "classes.yaml").unlink()
    rng = np.random.default_rng(0)
    for path in (root / "masks").rglob("*.png"):
        height, width = np.array(PIL.Image.open(path)).shape
        blocks = np.array(values, np.uint8)[rng.integers(0, len(values), (-(-height // 16), -(-width // 16)))]
        PIL.Image.fromarray(np.kron(blocks, np.ones((16, 16), np.uint8))[:height, :width]).save(path)
    checkup = check(str(root), console=QUIET)
    assert {finding.name for finding in checkup.findings} == names
    assert not checkup.is_clean


def test_labels_of_colours_without_names_can_t_be_checked(tmp_path: Path) -> None:
    root = write_clean(tmp_path / "data")
    (root / "classes.yaml").unlink()
    for path in (root / "masks").rglob("*.png"):
        PIL.Image.open(path).convert("RGB").save(path)
    with pytest.raises(DataError, match=r"write a classes\.yaml with the lines"):
        check(str(root), console=QUIET)


# ---- a folder of datasets


def test_the_datasets_in_a_folder_are_checked_one_after_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (write_clean(tmp_path / "all" / name) for name in ("one", "other"))
    assert cli.run(["check", str(tmp_path / "all"), "--workers", "0"]) == 0
    output = capsys.readouterr().out
    assert output.index(str(one)) < output.index(str(other)) and output.count("nothing found") == 2
    change(label(one), painted(broken.MANY, 77))
    assert cli.run(["check", str(tmp_path / "all"), "--workers", "0"]) == 1
    output = capsys.readouterr().out
    assert "values-outside" in output and output.count("nothing found") == 1


def test_a_dataset_that_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (write_clean(tmp_path / "all" / name) for name in ("one", "other"))
    (one / "classes.yaml").write_text("names: [")
    assert cli.run(["check", str(tmp_path / "all"), "--workers", "0"]) == 2
    output = capsys.readouterr()
    assert (
        "can't be checked" in output.out + output.err and "nothing found" in output.out[output.out.index(str(other)) :]
    )


@pytest.mark.parametrize("option", ["--json", "--html", "--out", "--fix"])
def test_files_are_written_for_one_dataset_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    one, other = (write_clean(tmp_path / "all" / name) for name in ("one", "other"))
    assert cli.run(["check", str(tmp_path / "all"), option, str(tmp_path / "written"), "--workers", "0"]) == 2
    error = capsys.readouterr().err
    assert f"holds 2 datasets: name one of them for --json, --html, --out or --fix: {one}, {other}" in error
    assert not (tmp_path / "written").exists()
