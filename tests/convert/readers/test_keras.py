"""Files of Keras: what they hold is read, and no other file, whatever they claim."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from atrous.convert.kinds import kind_of
from atrous.convert.readers.keras import read_keras
from atrous.errors import ConversionError
from tests.convert.readers.test_fuzz import damaged
from tests.reference import keras

ARRAYS = {
    "conv/kernel": np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2),
    "conv/bias": np.ones(2, np.float32),
    "depth/depthwise_kernel": np.ones((3, 3, 2, 1), np.float32),
    "norm/gamma": np.ones(2, np.float32),
    "norm/beta": np.zeros(2, np.float32),
    "norm/moving_mean": np.zeros(2, np.float32),
    "norm/moving_variance": np.ones(2, np.float32),
}
HUGE = 2**40


def refusal(path: Path) -> str:
    with pytest.raises(ConversionError, match="as a model of Keras") as error:
        read_keras(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_says_what_its_layers_are(tmp_path: Path) -> None:
    path = keras.write_named(
        tmp_path / "m.h5", ARRAYS, keras.config_of(ARRAYS, ("conv", "Conv2D", {"strides": [2, 2]}))
    )
    file = read_keras(path)
    assert file.layers["conv"].kind == "Conv2D"
    assert file.layers["conv"].settings["strides"] == [2, 2]
    assert file.arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(file.arrays[name], array) for name, array in ARRAYS.items())


def test_a_long_list_of_names_is_in_pieces(tmp_path: Path) -> None:
    path = keras.write_named(tmp_path / "m.h5", ARRAYS)
    with h5py.File(path, "a") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]
    assert read_keras(path).arrays.keys() == ARRAYS.keys()


def test_the_kind_is_told_by_content(tmp_path: Path) -> None:
    assert kind_of(keras.write_named(tmp_path / "a", ARRAYS)) == "keras"
    assert kind_of(keras.write_archive(tmp_path / "b", ARRAYS, keras.config_of(ARRAYS))) == "keras"


# ---- what isn't read


BIAS = "conv/conv/bias:0"


def _external_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as other:
        other["bias"] = np.ones(2, np.float32)
    del file[BIAS]
    file[BIAS] = h5py.ExternalLink(str(folder / "secret.h5"), "/bias")


def _external_group(file: h5py.File, folder: Path) -> None:
    del file["conv"]
    file["conv"] = h5py.ExternalLink("/etc/passwd", "/")


def _soft_link(file: h5py.File, folder: Path) -> None:
    del file[BIAS]
    file[BIAS] = h5py.SoftLink("/norm/norm/beta:0")


def _external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(8))
    del file[BIAS]
    file.create_dataset(BIAS, (2,), "f4", external=[(str(folder / "raw"), 0, 8)])


def _virtual(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as other:
        other["bias"] = np.ones(2, np.float32)
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "bias", (2,))
    del file[BIAS]
    file.create_virtual_dataset(BIAS, layout)


def _references(file: h5py.File, folder: Path) -> None:
    del file[BIAS]
    file.create_dataset(BIAS, data=[file["norm"].ref, file.ref], dtype=h5py.ref_dtype)


def _texts(file: h5py.File, folder: Path) -> None:
    del file[BIAS]
    file.create_dataset(BIAS, data=["a", "b"], dtype=h5py.string_dtype())


def _huge(file: h5py.File, folder: Path) -> None:
    del file[BIAS]
    file.create_dataset(BIAS, (HUGE,), "f4", chunks=(1024,))


def _huge_piece(file: h5py.File, folder: Path) -> None:
    del file[BIAS]
    file.create_dataset(BIAS, (2,), "f4", chunks=(2**27,), maxshape=(None,))


def _compressed(file: h5py.File, folder: Path) -> None:
    """A bomb: 400 MB of zeros in a file of kilobytes."""
    del file[BIAS]
    file.create_dataset(BIAS, (10**8,), "f4", chunks=(10**6,), compression="gzip", fillvalue=0)


def _group(file: h5py.File, folder: Path) -> None:
    del file[BIAS]
    file.create_group(BIAS)


def _missing(file: h5py.File, folder: Path) -> None:
    del file[BIAS]


def _missing_layer(file: h5py.File, folder: Path) -> None:
    del file["norm"]


def _unnamed(file: h5py.File, folder: Path) -> None:
    del file.attrs["layer_names"]


def _numbers_for_names(file: h5py.File, folder: Path) -> None:
    file["conv"].attrs["weight_names"] = np.arange(3)


def _compound(file: h5py.File, folder: Path) -> None:
    del file[BIAS]
    file[BIAS] = np.zeros(2, [("a", "f4"), ("b", "f4")])


BAD: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "a link to another file": (_external_link, "is a link, which is not followed"),
    "a layer in another file": (_external_group, "is a link, which is not followed"),
    "a link within the file": (_soft_link, "is a link, which is not followed"),
    "numbers in another file": (_external_storage, "lies in another file"),
    "numbers gathered from another file": (_virtual, "lies in another file"),
    "references to objects": (_references, "only floats and integers are read"),
    "texts": (_texts, "only floats and integers are read"),
    "a huge array": (_huge, "its weights claim 4398046511"),
    "a huge piece of an array": (_huge_piece, "its weights claim 5368"),
    "a bomb": (_compressed, "its weights claim 4000"),
    "a group in place of an array": (_group, "is not an array"),
    "an array that is missing": (_missing, "'conv/bias:0' is missing"),
    "a layer that is missing": (_missing_layer, "'norm' is missing"),
    "no names of layers": (_unnamed, "no weights by layer"),
    "numbers for names": (_numbers_for_names, "its weight_names are not texts"),
    "records": (_compound, "only floats and integers are read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    change, reason = BAD[name]
    path = keras.write_named(tmp_path / "m.h5", ARRAYS)
    with h5py.File(path, "a") as file:
        change(file, tmp_path)
    assert reason in refusal(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "measurements.h5"
    with h5py.File(path, "w") as file:
        file["temperature"] = np.zeros(10)
    assert "it holds no weights by layer, so that it is no model of Keras" in refusal(path)


def test_a_group_that_holds_itself_ends(tmp_path: Path) -> None:
    path = keras.write_named(tmp_path / "m.h5", ARRAYS)
    with h5py.File(path, "a") as file:
        file["norm/again"] = file["/"]
    assert read_keras(path).arrays.keys() == ARRAYS.keys()


@pytest.mark.parametrize("layout", [keras.write_named, keras.write_numbered])
def test_a_truncated_or_damaged_file_is_refused_or_read(layout: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    layout(path, ARRAYS)
    content = path.read_bytes()
    for seed in range(5):
        path.write_bytes(damaged(content, np.random.default_rng(seed)))
        try:
            read_keras(path)
        except ConversionError as error:
            assert "\n" not in str(error)


def test_files_of_weights_whose_layers_have_no_names_are_refused(tmp_path: Path) -> None:
    keras.write_numbered(tmp_path / "m.weights.h5", ARRAYS, named=False)
    assert "its layers have no names: save the whole model" in refusal(tmp_path / "m.weights.h5")


def test_a_model_within_a_model_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file.create_group("layers/functional/layers/conv2d/vars")
    assert "'functional' is a model within the model" in refusal(tmp_path / "m.weights.h5")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"metadata.json": b"{}"}, "an archive without config.json and model.weights.h5"),
        ({"config.json": b"{", "model.weights.h5": b""}, "its configuration is not that of a model"),
        ({"config.json": b"[]", "model.weights.h5": b""}, "its configuration is not that of a model"),
        ({"config.json": b'{"config": {"layers": [3]}}', "model.weights.h5": b""}, "its configuration"),
        ({"config.json": b"\xff", "model.weights.h5": b""}, "truncated or damaged"),
        ({"config.json": b'{"config": {"layers": []}}', "model.weights.h5": b"no"}, "truncated or damaged"),
        ({"config.json": bytes(2**25), "model.weights.h5": b""}, "its members claim 33554432"),
        ({"config.json": b"{}", "model.weights.h5": bytes(2**23)}, "and 8388608 bytes"),
    ],
)
def test_bad_archives_are_refused(members: dict[str, bytes], reason: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert reason in refusal(tmp_path / "m.keras")


def test_an_archive_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = keras.write_archive(tmp_path / "m.keras", ARRAYS, keras.config_of(ARRAYS))
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["conv/kernel"].tobytes())] ^= 1
    path.write_bytes(content)
    assert "truncated or damaged" in refusal(path)


def test_numbers_of_half_precision_are_read(tmp_path: Path) -> None:
    half = {name: array.astype(np.float16) for name, array in ARRAYS.items()}
    content = io.BytesIO()
    keras.write_numbered(content, half)
    (tmp_path / "m.weights.h5").write_bytes(content.getvalue())
    assert read_keras(tmp_path / "m.weights.h5").arrays["conv/kernel"].dtype == np.float16
