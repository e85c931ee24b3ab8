"""The folder of results."""

from pathlib import Path

from atrous.predicting.output import is_one_file


def test_whether_a_disk_takes_two_names_for_one(tmp_path: Path) -> None:
    assert is_one_file(tmp_path, Path("deep/a"), Path("deep/../deep/a"))
    assert not is_one_file(tmp_path, Path("deep/a"), Path("deep/b"))
    assert list(tmp_path.iterdir()) == []
