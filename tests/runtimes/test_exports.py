"""What holds for every runtime that writes files for any size: the labels of the model, its header, and bad files."""

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import atrous
from atrous import artefact, cli, segmenter
from atrous.artefact import Export
from atrous.commands import options
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.deployed import Decoder, Deployment
from atrous.errors import AtrousWarning, ConfigError, Mismatch, ModelFileError
from atrous.inference import InferenceConfig
from atrous.model_file import FORMAT, header_checksum
from atrous.runtimes import RUNTIMES
from atrous.segmenter import Segmenter
from atrous.tasks import TASKS
from atrous.tasks.panoptic import PanopticDecodeConfig, decoders
from tests.conftest import noise, save
from tests.models.conftest import SMALL
from tests.models.conftest import small as small_model

TARGETS = [name for name, row in RUNTIMES.items() if row.write is not None and not row.has_one_size]
PROTOCOLS = {
    "whole": InferenceConfig(),
    "flipped": InferenceConfig(flip=True),
    "scales": InferenceConfig(scales=(0.5, 1.5), flip=True),
    "sliding": InferenceConfig(mode="sliding", window=(33, 33)),
    "canvas": InferenceConfig(mode="canvas", window=(65, 65)),
}


def of(name: str) -> Segmenter:
    """A small network of four classes."""
    model = small_model(name)
    for key, parameter in model.named_parameters():
        if key.endswith((".gamma", ".output.weight")):  # attentions begin at 0
            torch.nn.init.normal_(parameter)
    return segmenter.of_model(model, LabelSpace(names=numbered_names(model.num_classes), things=(1, 3)))


@pytest.fixture(scope="module")
def model() -> Segmenter:
    """Each class is likely somewhere; the classes have names."""
    network = small_model("fcn", 3).eval()
    names = ("sky", "road", "car")
    made = segmenter.of_model(network, LabelSpace(names=names)).with_header(results={"scores": {"miou": 0.5}})
    last = network.get_submodule("head.classify")
    torch.nn.init.normal_(last.weight, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    return made


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def exported(target: str, model: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(target) / f"model{RUNTIMES[target].suffix}"
    artefact.write(model.model, model.header, path, Export(target, probabilities=True))
    return path


def copy_of(path: Path, folder: Path) -> Path:
    for file in path.parent.glob(f"{path.stem}.*"):
        shutil.copy(file, folder)
    return folder / path.name


# ---- what it predicts


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_exported_file_predicts_what_the_model_does(exported: Path, model: Segmenter, protocol: str) -> None:
    ours, theirs = (one.with_inference(PROTOCOLS[protocol]) for one in (model, atrous.load(exported)))
    image = noise(65, 97)  # on the network's grid, as is half and one and a half of it
    assert np.mean(ours.predict(image).semantic == theirs.predict(image).semantic) > 0.9995
    one, other = (each.predict(image, probabilities=True).probabilities for each in (ours, theirs))
    assert one is not None and other is not None and np.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 5), (16, 16), (17, 18), (33, 250)])
def test_images_of_any_size_are_predicted(exported: Path, model: Segmenter, size: tuple[int, int]) -> None:
    image = noise(*size)
    assert np.array_equal(model.predict(image).semantic, atrous.load(exported).predict(image).semantic)


def test_many_images_of_one_size_go_together(exported: Path, model: Segmenter) -> None:
    images = [noise(40, 30), noise(40, 30)[::-1].copy(), noise(20, 30)]
    pairs = zip(model.predict(images), atrous.load(exported).predict(images), strict=True)
    assert all(np.array_equal(one.semantic, other.semantic) for one, other in pairs)


def test_the_header_is_in_the_file(exported: Path, model: Segmenter, target: str) -> None:
    loaded = atrous.load(exported)
    assert loaded.header == model.header
    assert loaded.runtime == target
    assert loaded.classes == ("sky", "road", "car")


def test_what_an_exported_network_can_not_do_is_answered(exported: Path, tmp_path: Path) -> None:
    loaded = atrous.load(exported)
    with pytest.raises(ConfigError, match=r"no model to train or change; load the \.safetensors file"):
        loaded.with_output_stride(16)
    with pytest.raises(ConfigError, match="no model to train or change"):
        loaded.save(tmp_path / "model.safetensors")
    off_grid = loaded.with_inference(InferenceConfig(mode="canvas", window=(70, 70)))
    with pytest.raises(ConfigError, match=r"evaluate.window: sides must be k \* 8 \+ 1 .* got 70,70"):
        off_grid.predict(noise(60, 60))


def test_the_kind_of_a_file_is_told_by_its_content(exported: Path, model: Segmenter, tmp_path: Path) -> None:
    copy = copy_of(exported, tmp_path)
    renamed = copy.rename(tmp_path / "model.download")
    assert atrous.load(renamed).header == model.header


# ---- bad files


def stripped_of_metadata(path: Path) -> None:
    """By the format's own means."""
    if path.suffix == ".onnx":
        import onnx

        proto = onnx.load(path)
        del proto.metadata_props[:]
        onnx.save(proto, path)
    elif path.suffix == ".xml":
        path.write_text(re.sub(r"<atrous>.*?</atrous>", "", path.read_text(), flags=re.DOTALL))
    else:
        rewrite_archive(path, lambda name, content: None if name.endswith("extra/atrous") else content)


def rewrite_archive(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            if content is not None:
                archive.writestr(name, content)


def test_without_metadata_classes_are_numbered_which_is_said(exported: Path, model: Segmenter, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    stripped_of_metadata(path)
    with pytest.warns(AtrousWarning, match="its metadata was stripped: classes are numbered"):
        loaded = atrous.load(path)
    assert loaded.classes == numbered_names(3)
    image = noise(50, 71)
    assert np.array_equal(loaded.predict(image).semantic, model.predict(image).semantic)
    with pytest.raises(ConfigError, match="metadata was stripped, so that it predicts whole images"):
        loaded.with_inference(InferenceConfig(flip=True)).predict(image)
    with pytest.raises(ConfigError, match="metadata was stripped"):
        loaded.predict(image, probabilities=True)


def test_a_file_of_a_newer_format_is_refused(model: Segmenter, target: str, tmp_path: Path) -> None:
    path = tmp_path / f"newer{RUNTIMES[target].suffix}"
    deployment = artefact.deployment_of(model.model, model.header, Export(target))
    metadata = {**deployment.metadata, "atrous_format": str(int(FORMAT) + 1)}
    del metadata["header_checksum"]
    newer = Deployment(deployment.module, None, {**metadata, "header_checksum": header_checksum(metadata)})
    write = RUNTIMES[target].write
    assert write is not None
    write(newer, path)
    with pytest.raises(ModelFileError, match=r"newer.*: made by a newer Atrous, in format 3"):
        atrous.load(path)


def test_damage_is_told_or_changes_nothing(exported: Path, model: Segmenter, tmp_path: Path) -> None:
    path, image = copy_of(exported, tmp_path), noise(40, 30)
    expected, random = model.predict(image).semantic, np.random.default_rng(0)
    for number in range(30):
        damaged = path if number % 3 or not path.with_suffix(".bin").exists() else path.with_suffix(".bin")
        whole = damaged.read_bytes()
        content = bytearray(whole)
        place = int(random.integers(len(content)))
        if number % 2:
            content[place] ^= 1 << int(random.integers(8))
        damaged.write_bytes(content if number % 2 else content[:place])
        try:
            assert np.array_equal(atrous.load(path).predict(image).semantic, expected)
        except ModelFileError as error:
            assert "\n" not in str(error) and path.stem in str(error)
        damaged.write_bytes(whole)
    assert np.array_equal(atrous.load(path).predict(image).semantic, expected)


def test_a_foreign_onnx_file_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    x, y = (helper.make_tensor_value_info(name, kinds.FLOAT, [1, 3, "h", "w"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "a.onnx")
    with pytest.raises(ModelFileError, match=r"a.onnx: not exported by Atrous: it takes x float \[1, 3, \?, \?\]"):
        atrous.load(tmp_path / "a.onnx")


def test_an_archive_that_could_run_code_is_refused(model: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    artefact.write(model.model, model.header, path, Export("pt2"))
    bad = path.with_name("bad.pt2")
    changes: tuple[Callable[[str, bytes], bytes], ...] = (
        lambda name, content: content.replace(b'"expr_str": "', b'"expr_str": "__import__(\'os\').getcwd() + ', 1),
        lambda name, content: content.replace(b'"use_pickle": false', b'"use_pickle": true'),
        lambda name, content: b"cos\nsystem\n(S'true'\ntR." if "sample_inputs" in name else content,
    )
    for change in changes:
        shutil.copy(path, bad)
        rewrite_archive(bad, change)
        with pytest.raises(ModelFileError, match=r"bad.pt2: .*could run code"):
            atrous.load(bad)


def test_weights_that_are_not_beside_the_graph_are_missed(model: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<?xml version="1.0"?>\n<net name="a" version="11"></net>')
    with pytest.raises(ModelFileError, match=r"a.xml: its weights, a.bin, are not beside it"):
        atrous.load(tmp_path / "a.xml")


# ---- writing


def test_a_file_that_differs_from_the_model_is_not_kept(
    exported: Path, model: Segmenter, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_of(exported, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def other(deployment: Deployment, path: Path) -> None:
        with torch.no_grad():
            deployment.module.network.get_parameter("head.classify.bias").add_(torch.tensor([0.0, 0.1, 0.0]))
        row.write(deployment, path)  # type: ignore[misc]

    row = RUNTIMES[target]
    monkeypatch.setitem(RUNTIMES, target, row._replace(write=other))
    with pytest.raises(Mismatch, match=r"was not written: what was exported computes something else .* 4 of 4 images"):
        artefact.write(model.model, model.header, path, Export(target))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_target_that_is_not_installed_names_the_command(
    exported: Path, model: Segmenter, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = RUNTIMES[target]
    if not row.packages:
        pytest.skip("it is part of PyTorch")
    monkeypatch.setitem(RUNTIMES, target, row._replace(packages=("no_such_package",)))
    command = re.escape(f"no_such_package: pip install 'atrous[{row.extra}]'")
    with pytest.raises(ConfigError, match=f"--to {target} needs {command}"):
        artefact.write(model.model, model.header, tmp_path / f"a{row.suffix}", Export(target))
    assert list(tmp_path.iterdir()) == []


def test_files_of_one_size(model: Segmenter, target: str, tmp_path: Path) -> None:
    path = tmp_path / f"one{RUNTIMES[target].suffix}"
    artefact.write(model.model, model.header, path, Export(target, size=(49, 65)))
    loaded = atrous.load(path)
    assert loaded.network.facts.size == (49, 65)
    image = noise(49, 65)
    whole = loaded.with_inference(InferenceConfig())
    assert np.array_equal(whole.predict(image).semantic, model.predict(image).semantic)
    with pytest.raises(ConfigError, match=r"exported for images of 49 x 65, got .*evaluate.mode=canvas or sliding"):
        whole.predict(noise(60, 80))
    sliding = InferenceConfig(mode="sliding", window=(49, 65))
    predictions = [one.with_inference(sliding).predict(noise(90, 120)).semantic for one in (model, loaded)]
    assert np.mean(predictions[0] == predictions[1]) > 0.9995
    small, canvas = noise(30, 40), InferenceConfig(mode="canvas", window=(49, 65))
    predictions = [loaded.with_inference(one).predict(small).semantic for one in (sliding, canvas)]
    assert np.array_equal(predictions[0], predictions[1])  # a window that is larger than the image


LACKING = {("lraspp", "openvino")}  # a window of the mean that may be larger than the map


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_model_is_exported_for_every_target(name: str, tmp_path: Path) -> None:
    made = of(name)
    for target in TARGETS:
        path, size = tmp_path / f"{name}{RUNTIMES[target].suffix}", None
        if (name, target) in LACKING:
            with pytest.raises(ConfigError, match=f"--to {target}: it lacks the operator .*; with one size"):
                artefact.write(made.model, made.header, path, Export(target))
            size = (65, 97)
        assert all(one.is_same for one in artefact.write(made.model, made.header, path, Export(target, size)))
        image = noise(*(size or (60, 70)))
        whole = InferenceConfig()
        outputs = [one.with_inference(whole).decode(image) for one in (made, atrous.load(path))]
        for own, other in zip(*outputs, strict=True):
            if own is not None and not own.is_floating_point():
                assert float((own == other).double().mean()) > 0.999


# ---- by another runtime


@pytest.fixture(scope="module")
def onnx_file(model: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    artefact.write(model.model, model.header, path, Export("onnx", (49, 65)))
    return path


def test_openvino_opens_onnx(onnx_file: Path, model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    image = noise(49, 65)
    for asked, used in (("openvino", "openvino"), ("auto", "openvino"), ("onnx", "onnx"), (None, "onnx")):
        loaded = atrous.load(onnx_file, runtime=asked)
        assert loaded.runtime == used and loaded.header == atrous.load(onnx_file).header
        assert np.mean(loaded.predict(image).semantic == model.predict(image).semantic) > 0.999
    with pytest.raises(ConfigError, match=r"--runtime pt2: .*model.onnx is a file for onnx"):
        atrous.load(onnx_file, runtime="pt2")
    monkeypatch.setitem(RUNTIMES, "openvino", RUNTIMES["openvino"]._replace(packages=("no_such_package",)))
    assert atrous.load(onnx_file, runtime="auto").runtime == "onnx"
    with pytest.raises(
        ConfigError, match=r"--runtime openvino needs no_such_package: pip install 'atrous\[openvino\]'"
    ):
        atrous.load(onnx_file, runtime="openvino")


def test_openvino_opens_onnx_without_metadata(onnx_file: Path, model: Segmenter, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path, image = copy_of(onnx_file, tmp_path), noise(49, 65)
    stripped_of_metadata(path)
    with pytest.warns(AtrousWarning, match="its metadata was stripped: classes are numbered"):
        loaded = atrous.load(path, runtime="openvino")
    assert loaded.runtime == "openvino" and loaded.classes == numbered_names(3)
    assert np.mean(loaded.predict(image).semantic == model.predict(image).semantic) > 0.999


def test_integers_stay_with_the_runtime_that_they_were_measured_by(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(artefact, "_is_int8", lambda path: True)
    assert atrous.load(onnx_file, runtime="auto").runtime == "onnx"


# ---- things


@pytest.fixture(scope="module")
def panoptic() -> Segmenter:
    """Things begin and end at blobs of an image, so that there are many, and some stuff is too small."""
    made = of("panoptic_deeplab")
    with torch.no_grad():
        made.model.get_parameter("center_head.classify.bias").add_(0.2)
    return made.with_header(decode=PanopticDecodeConfig(threshold=0.05, stuff_area=300))


def test_the_panoptic_map_is_in_the_file(panoptic: Segmenter, tmp_path: Path) -> None:
    path, image = tmp_path / "model.pt2", noise(60, 70)
    comparisons = artefact.write(panoptic.model, panoptic.header, path, Export("pt2", (60, 70)))
    assert all(one.is_same and one.decoded == {"panoptic": 0} for one in comparisons)
    assert "panoptic map equal" in comparisons[0].describe()
    expected = panoptic.predict(image).panoptic
    assert expected is not None and len(np.unique(expected)) > 5
    outputs = torch.export.load(path).module()(torch.from_numpy(image[None]))
    assert list(outputs) == ["labels", "panoptic", "logits", "center", "offset"]
    assert outputs["panoptic"].dtype == torch.int32
    assert np.array_equal(outputs["panoptic"][0].numpy(), expected)


def test_a_panoptic_map_that_differs_is_not_kept(
    panoptic: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(space: LabelSpace, config: PanopticDecodeConfig) -> dict[str, Decoder]:
        return decoders(space, config.model_copy(update={"threshold": 0.5}))

    monkeypatch.setitem(TASKS, "panoptic", TASKS["panoptic"]._replace(decoders=other))
    with pytest.raises(Mismatch, match=r"pixels of the panoptic map WRONG"):
        artefact.write(panoptic.model, panoptic.header, tmp_path / "model.pt2", Export("pt2", (65, 65)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("top_k", [0, 1000])
def test_things_without_number_are_refused(panoptic: Segmenter, top_k: int, tmp_path: Path) -> None:
    unlimited = panoptic.with_header(decode=PanopticDecodeConfig(top_k=top_k))
    with pytest.raises(ConfigError, match=rf"decode.top_k={top_k}: .* below panoptic_divisor=1000; .* --no-grouping"):
        artefact.write(unlimited.model, unlimited.header, tmp_path / "a.pt2", Export("pt2"))
    deployment = artefact.deployment_of(unlimited.model, unlimited.header, Export("pt2", grouping=False))
    assert deployment.names == ("labels", "logits", "center", "offset")


# ---- the command line


def test_a_folder_in_the_place_of_the_weights_is_told_before_the_work(model: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*a\.bin: it is a folder"):
        artefact.require_writable(tmp_path / "a.xml", "openvino")
    artefact.require_writable(tmp_path / "a.onnx", "onnx")


def test_a_pt2_file_of_another_name_is_opened_without_a_word(
    exported: Path, target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if target != "pt2":
        pytest.skip("PyTorch's reader looks at names")
    atrous.load(shutil.copy(exported, tmp_path / "model.bin")).predict(noise())
    assert not capfd.readouterr().err


def test_export_and_predict_from_the_command_line(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    model.save("model.safetensors")
    save(tmp_path / "a.png", noise(40, 50))
    assert cli.run(["export", "model.safetensors", "--to", "pt2", "--images", "a.png", "--size", "40,50"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "a.png, 40 x 50: 100.0000% of labels equal" in printed and "wrote model.pt2" in printed
    for command, code, said in (
        (["export", "model.safetensors", "--to", "onxx"], 2, "--to onxx: expected onnx, openvino, pt2, litert"),
        (["export", "model.safetensors", "--to", "pt2", "--out", "a.onnx"], 2, "must end in .pt2"),
        (["export", "model.safetensors", "--to", "pt2", "--size", "0,5"], 2, "--size 0,5: must be height and width"),
        (
            ["export", "model.safetensors", "--to", "pt2", "--size", "1,2,3"],
            2,
            "--size 1,2,3: must be height and width",
        ),
        (
            ["export", "model.safetensors", "--to", "pt2", "--size", "65535,65535"],
            2,
            "the maps of an image of this size",
        ),
        (["export", "none.safetensors", "--to", "pt2"], 2, "no such model file: none.safetensors"),
        (["export", "model.safetensors", "--to", "pt2", "--out", "/proc/a.pt2"], 2, "cannot write"),
        (["export", "model.pt2", "--to", "onnx"], 2, "an exported network has no model"),
        (["predict", "model.safetensors", "a.png", "--runtime", "tensorrt"], 2, "--runtime tensorrt: expected auto"),
        (["predict", "model.pt2", "a.png", "--runtime", "onnx"], 2, "name the .safetensors file that it is from"),
        (["predict", "model.safetensors", "a.png", "--runtime", "pt2", "--out", "p"], 0, "exporting"),
        (["predict", "model.safetensors", "a.png", "--runtime", "pt2", "--out", "q"], 0, ""),
    ):
        assert cli.run(command) == code, command
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") <= 1, printed
    assert (tmp_path / "p/masks/a.png").read_bytes() == (tmp_path / "q/masks/a.png").read_bytes()
    assert len(list((tmp_path / "cache").rglob("*.pt2"))) == 1


def test_figures_of_another_runtime_say_so(model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = segmenter.of_model(small_model("fcn", 8).eval(), LabelSpace(names=numbered_names(8)))
    artefact.write(made.model, made.header, tmp_path / "model.pt2", Export("pt2"))
    data = ("data.format=synthetic", "data.num_val=2", "data.size=64,96", "evaluate.scales=0.5,1")
    assert cli.run(["evaluate", "model.pt2", *data, "--json", "a.json", "--workers", "0"]) == 0
    text = (tmp_path / "a.json").read_text()
    assert '"runtime": "pt2"' in text and '"sizes at other scales": "k * 8 + 1"' in text


def test_figures_of_a_file_without_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = segmenter.of_model(small_model("fcn", 8).eval(), LabelSpace(names=numbered_names(8)))
    artefact.write(made.model, made.header, tmp_path / "model.pt2", Export("pt2"))
    stripped_of_metadata(tmp_path / "model.pt2")
    data = ("data.format=synthetic", "data.num_val=2", "data.size=64,96")
    assert cli.run(["evaluate", "model.pt2", *data, "--json", "a.json", "--workers", "0"]) == 0
    assert '"miou"' in (tmp_path / "a.json").read_text()
    assert cli.run(["evaluate", "model.pt2", *data, "evaluate.flip=true", "--workers", "0"]) == 2


def test_the_command_line_lists_the_targets() -> None:
    assert sorted(options.TARGETS) == sorted(name for name, row in RUNTIMES.items() if row.write is not None)
