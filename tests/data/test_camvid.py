"""CamVid's own files."""

from pathlib import Path

import numpy as np
import pytest

import atrous.data
from atrous.data import camvid
from atrous.data.recognising import recognised
from tests.conftest import SHARED
from tests.data.conftest import complaint, names, save, semantic, write

CAMVID = SHARED / "data" / "camvid"


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid in {CAMVID}")
def test_camvid_itself_can_be_read() -> None:
    above = [*(camvid.CAMVID.names.index(name) for name in ("sky", "tree", "building")), camvid.CAMVID.ignore]
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        samples = camvid.samples(camvid.Config(root=CAMVID), split)
        assert len(samples) == count
        for sample in (samples[0], samples[count // 2], samples[-1]):
            assert sample.image.shape == (360, 480, 3)
            assert set(np.unique(semantic(sample))) <= set(range(12))
            assert np.isin(semantic(sample)[:20], above).mean() > 0.7


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid in {CAMVID}")
def test_the_frames_of_the_original_are_divided_as_segnet_did() -> None:
    frames = {split: {path.stem for path in (CAMVID / split).iterdir()} for split in ("train", "val", "test")}
    for split, stems in frames.items():
        assert {camvid._split_of(stem) for stem in stems} == {split}


def write_original(root: Path) -> camvid.Config:
    """A frame of each split; the training label has every colour, in the order of the table."""
    colors = np.array([list(camvid.ORIGINAL.values())], np.uint8)
    for stem in ("0006R0_f00930", "0016E5_07959", "Seq05VD_f05100"):
        save(root / "701_StillsRaw_full" / f"{stem}.png", colors)
        save(root / "LabeledApproved_full" / f"{stem}_L.png", colors)
    return camvid.Config(root=root)


def test_the_original_has_31_classes_and_void(tmp_path: Path) -> None:
    config = write_original(tmp_path)
    space = atrous.data.label_space(config)
    assert (space.num_classes, space.names[0], space.names[-1], "Void" in space.names) == (31, "Animal", "Wall", False)
    assert [names(config, split) for split in ("train", "val", "test")] == [
        ["0006R0_f00930"],
        ["0016E5_07959"],
        ["Seq05VD_f05100"],
    ]
    (sample,) = atrous.data.samples(config, "train")
    assert semantic(sample)[0].tolist() == [*range(30), 255, 30]
    assert recognised(tmp_path, atrous.data.FORMATS) == "camvid"
    assert complaint(config, "all").startswith("no split 'all'")


def test_the_original_may_have_a_table_of_its_own(tmp_path: Path) -> None:
    config = write_original(tmp_path)
    write(tmp_path / "label_colors.txt", "128 128 128\tSky\r\n0 0 0\t\tVoid\r\n128 64 128 Road\r\n")
    assert atrous.data.label_space(config).names == ("Sky", "Road")
    save(
        tmp_path / "LabeledApproved_full" / "0006R0_f00930_L.png",
        np.array([[[128, 64, 128], [0, 0, 0]] * 16], np.uint8),
    )
    assert semantic(atrous.data.samples(config, "train")[0])[0, :2].tolist() == [1, 255]
    write(tmp_path / "label_colors.txt", "128 128 128 Sky\n128 64 Road\n")
    path = tmp_path / "label_colors.txt"
    assert complaint(config).startswith(f"{path}, line 2 is not a class and its colour: '128 64 Road'")
