"""Each way to break a clean data set is found, named, and nothing else is; what can be mended is."""

import shutil
from pathlib import Path

import pytest

from atrous.check.run import check
from tests.check.broken import BREAKERS, Breaker, write_clean
from tests.runs import QUIET


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clean(tmp_path_factory.mktemp("clean") / "data")


def names_of(root: Path, *overrides: str) -> set[str]:
    return {finding.name for finding in check(str(root), overrides, console=QUIET).findings}


def test_a_clean_data_set_has_no_finding(clean: Path) -> None:
    checkup = check(str(clean), console=QUIET)
    assert checkup.findings == [] and checkup.is_clean
    assert checkup.images == {"train": 8, "val": 4}


@pytest.mark.parametrize("breaker", BREAKERS, ids=lambda breaker: breaker.name)
def test_a_breakage_is_named_and_nothing_else(clean: Path, tmp_path: Path, breaker: Breaker) -> None:
    root, out = tmp_path / "data", tmp_path / "mended"
    shutil.copytree(clean, root)
    breaker.function(root)
    checkup = check(str(root), breaker.overrides, fix=out, console=QUIET)
    assert {finding.name for finding in checkup.findings} == breaker.findings
    assert checkup.is_clean == (breaker.code == 0)
    if breaker.is_mended:
        assert names_of(out) == set()


def test_every_check_of_files_has_a_breaker() -> None:
    from atrous.check.checks import CHECKS

    tried = set().union(*(breaker.findings for breaker in BREAKERS))
    instances = {"crossing-instances", "too-many-instances", "missing-instances", "unnumbered-things"}
    elsewhere = {"listed-files-missing", "repeated-names", "repeated-ids", "unlisted-ids", *instances}
    assert {check.name for check in CHECKS} - tried == elsewhere
