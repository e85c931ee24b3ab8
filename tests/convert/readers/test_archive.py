import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from atrous.convert.readers import archive as archives
from atrous.convert.readers.archive import extract, find_model
from atrous.errors import ConversionError
from tests.convert.readers import writers

Member = tuple[str, bytes, bytes]  # name, type, content or the target of a link


def tar(*members: Member, form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content.decode()
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def regular(name: str, content: bytes = b"content") -> Member:
    return name, tarfile.REGTYPE, content


def unpack(tmp_path: Path, data: bytes) -> dict[str, bytes]:
    (tmp_path / "model.tar.gz").write_bytes(data)
    folder = tmp_path / "out"
    extract(tmp_path / "model.tar.gz", folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("compressed", [True, False])
def test_archives_are_extracted(tmp_path: Path, form: int, compressed: bool) -> None:
    big = np.random.default_rng(0).bytes(700_000)
    long = "a" * 80 + "/" + "b" * 90
    members = [("m", tarfile.DIRTYPE, b""), regular("m/big", big), regular("./m/n/empty", b""), regular(long)]
    data = tar(*members, form=form)
    contents = unpack(tmp_path, gzip.compress(data) if compressed else data)
    assert contents == {"m/big": big, "m/n/empty": b"", long: b"content"}


REFUSED: dict[str, tuple[tuple[Member, ...], str]] = {
    "absolute": ((regular("/etc/passwd"),), "'/etc/passwd' is not the name of a file inside"),
    "above": ((regular("m/../../x"),), "is not the name of a file inside"),
    "windows": ((regular("C:\\x"),), "is not the name of a file inside"),
    "backslash": ((regular("..\\x"),), "is not the name of a file inside"),
    "unprintable": ((regular("a\nb"),), "is not the name of a file inside"),
    "long": ((regular("a" * 256),), "is not the name of a file inside"),
    "deep": ((regular("a/" * 600 + "b"),), "is not the name of a file inside"),
    "symbolic link": ((("x", tarfile.SYMTYPE, b"/etc"), regular("x/passwd")), "'x' is a link, a device"),
    "hard link": ((("x", tarfile.LNKTYPE, b"/etc/passwd"),), "'x' is a link, a device"),
    "device": ((("x", tarfile.CHRTYPE, b""),), "'x' is a link, a device"),
    "pipe": ((("x", tarfile.FIFOTYPE, b""),), "'x' is a link, a device"),
    "twice": ((regular("m/x"), regular("./m/x")), "occurs twice"),
    "file and folder": ((regular("m"), regular("m/x")), "both a file and a folder"),
    "folder and file": ((regular("m/x"), regular("m")), "both a file and a folder"),
    "the folder itself": ((regular("."),), "both a file and a folder"),
}


def test_members_that_could_do_harm_are_refused(tmp_path: Path) -> None:
    for case, (members, reason) in REFUSED.items():
        folder = tmp_path / case
        folder.mkdir()
        with pytest.raises(
            ConversionError, match=f"cannot read .*model.tar.gz as a tar archive: .*({reason})"
        ) as error:
            unpack(folder, gzip.compress(tar(*members)))
        assert "\n" not in str(error.value)
        assert {path.name for path in folder.iterdir()} <= {"out", "model.tar.gz"}
    assert {path.name for path in tmp_path.iterdir()} == REFUSED.keys()


def test_members_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="'x' claims 50000000 bytes, more than a model's files have"):
        unpack(tmp_path, gzip.compress(tar(regular("x", bytes(50_000_000)))))


def test_archives_that_grow_too_much_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="it grows far more than a model's files do"):
        unpack(tmp_path, gzip.compress(tar(regular("x")) + bytes(50_000_000)))


def test_chains_of_extended_headers_are_refused(tmp_path: Path) -> None:
    """Each announces the name of the next member, and is handled inside the one before."""
    header = tarfile.TarInfo("x").create_pax_global_header({"comment": "x"})
    extended = bytearray(tar(regular("y" * 200), form=tarfile.PAX_FORMAT)[:1024])
    with pytest.raises(ConversionError, match="cannot read"):
        unpack(tmp_path, gzip.compress(header + bytes(extended) * 3000))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(ConversionError, match="more than 3 members"):
        unpack(tmp_path, tar(*(regular(f"x{number}") for number in range(4))))


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConversionError, match=r"the folder is not empty: .*out"):
        unpack(tmp_path, tar(regular("x")))
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none.tar"):
        extract(tmp_path / "none.tar", tmp_path / "other")


@pytest.mark.parametrize("compressed", [True, False])
def test_every_truncation_is_detected(tmp_path: Path, compressed: bool) -> None:
    """Also between two members, which tarfile takes for the end."""
    plain = tar(regular("a"), regular("b", b"x" * 600))
    data = gzip.compress(plain) if compressed else plain[: 512 * 7]  # without the padding of the last record
    (tmp_path / "model.tar").write_bytes(data)
    extract(tmp_path / "model.tar", tmp_path / "whole")
    for size in range(0, len(data), 1 if compressed else 128):
        (tmp_path / "model.tar").write_bytes(data[:size])
        with pytest.raises(ConversionError, match=r"cannot read .*model.tar"):
            extract(tmp_path / "model.tar", tmp_path / f"out{size}")


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    data = bytearray(tar(regular("a"), regular("b")))
    data[1024] ^= 1  # the name of the second member
    with pytest.raises(ConversionError, match="a header between its members is damaged"):
        unpack(tmp_path, bytes(data))


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_checkpoint_is_preferred(tmp_path: Path) -> None:
    zoo = put(tmp_path, "m/model.ckpt-30000.index", "m/model.ckpt-30000.data-00000-of-00001", "m/model.ckpt-5.index")
    put(zoo, "m/frozen_inference_graph.pb", "m/model.tflite", "m/._model.ckpt-99999.index")
    assert find_model(zoo) == tmp_path / "m" / "model.ckpt-30000"


def test_a_graph_is_preferred_to_a_lite_model(tmp_path: Path) -> None:
    put(tmp_path, "m/model.tflite")
    assert find_model(tmp_path) == tmp_path / "m" / "model.tflite"
    put(tmp_path, "m/saved_model.pb")
    assert find_model(tmp_path) == tmp_path / "m" / "saved_model.pb"
    put(tmp_path, "m/frozen_inference_graph.pb")
    assert find_model(tmp_path) == tmp_path / "m" / "frozen_inference_graph.pb"


def test_folders_of_none_or_several_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .* below"):
        find_model(put(tmp_path, "readme.txt"))
    with pytest.raises(ConversionError, match=r"several models below .*: name one of 'a.tflite', 'b.tflite'"):
        find_model(put(tmp_path, "a.tflite", "b.tflite"))
    with pytest.raises(ConversionError, match=r"several models below .*: name one of 'a', 'b'"):
        find_model(put(tmp_path, "a/x.index", "b/x.index"))


def test_an_extracted_checkpoint_is_located(tmp_path: Path) -> None:
    writers.write_checkpoint(tmp_path / "model.ckpt", {"x": np.ones(3, np.float32)})
    files = [regular(f"zoo/{path.name}", path.read_bytes()) for path in tmp_path.glob("model.ckpt.*")]
    unpack(tmp_path, gzip.compress(tar(*files)))
    assert find_model(tmp_path / "out") == tmp_path / "out" / "zoo" / "model.ckpt"
