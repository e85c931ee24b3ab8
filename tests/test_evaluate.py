"""Every figure with its protocol; the same figures however they are measured."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from atrous import config as configs
from atrous import data, evaluate, report, segmenter
from atrous.distributed import World
from atrous.errors import AtrousError, ConfigError, DataError
from atrous.report import Evaluation
from atrous.segmenter import Segmenter
from atrous.tasks import TASKS
from atrous.tasks.contract import joined
from atrous.types import Sample
from tests.conftest import SMALL_PANOPTIC, save, spread_classes, tiny_config
from tests.processes import answers_of
from tests.runs import QUIET, folder_config

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a model for the tiny recipe's data."""
    config = tiny_config()
    created = segmenter.create(config.model, label_space=data.label_space(config.data))
    image = torch.from_numpy(samples()[0].image).permute(2, 0, 1)[None]
    spread_classes(created.model, image)
    path = tmp_path_factory.mktemp("evaluate") / "model.safetensors"
    created.with_header(training=config).save(path)
    return path


def samples() -> Sequence[Sample]:
    return data.samples(tiny_config().data, "val")


@pytest.fixture(scope="module")
def evaluation(model: Path) -> Evaluation:
    return evaluate.run(model, console=QUIET)


def test_json_and_page_hold_the_figures_and_the_protocol(model: Path, tmp_path: Path) -> None:
    evaluation = evaluate.run(model, json_path=tmp_path / "r.json", report_path=tmp_path / "r.html", console=QUIET)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["scores"] == evaluation.figures.scores
    assert set(written["classes"]) == set(segmenter.load(model).label_space.names)
    assert written["protocol"]["data"] == "synthetic, split val"
    assert written["protocol"]["image"] == "whole image"
    assert written["environment"]["torch"] == torch.__version__
    assert written == json.loads(json.dumps(evaluation.to_tree()))
    page = (tmp_path / "r.html").read_text()
    assert f"{evaluation.figures.scores['miou']:.3f}" in page
    assert f"{model.parent.name}/model.safetensors" in page


def test_a_page_is_reproducible_and_makes_its_folder(model: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    loaded = segmenter.load(model)
    pages = [tmp_path / "new" / name for name in ("a.html", "b.html")]
    for page in pages:
        report.write_page(page, loaded, samples(), evaluation, title="a page")
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.html", "b.html"]


@pytest.mark.parametrize("limit", [1_000_000, 100_000])
def test_a_page_keeps_its_size(limit: int, model: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    report.write_page(page, segmenter.load(model), samples(), evaluation, title="a page", max_bytes=limit)
    assert page.stat().st_size <= limit
    number = page.read_text(encoding="utf-8").count('<figure class="card"')
    assert number == 3 if limit > 500_000 else number <= 3


def test_images_that_vanished_are_left_out_of_the_page(model: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    class Vanishing(Sequence[Sample]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
            if index == 1:
                raise FileNotFoundError("gone")
            return samples()[index]

    page = tmp_path / "a.html"
    report.write_page(page, segmenter.load(model), Vanishing(), evaluation, title="a page")
    assert page.read_text(encoding="utf-8").count('<figure class="card"') == 2


def test_the_figures_are_those_of_predicting_each_image(model: Path, evaluation: Evaluation) -> None:
    loaded = segmenter.load(model)
    counts = np.zeros((8, 8), np.int64)
    for sample in (samples()[index] for index in range(len(samples()))):
        semantic, predicted = np.asarray(sample.semantic), loaded.predict(sample.image).semantic
        known = semantic != loaded.label_space.ignore
        np.add.at(counts, (semantic[known], predicted[known]), 1)
    assert evaluation.figures.confusion is not None
    assert evaluation.figures.confusion.tolist() == counts.tolist()
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert evaluation.figures.scores["miou"] == pytest.approx(np.mean(counts.diagonal()[union > 0] / union[union > 0]))


def test_processes_share_the_images_and_each_has_the_figures_of_all(
    model: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = segmenter.load(model)
    parts: list[list[object]] = []

    def gather(items: list[object]) -> list[object]:
        parts.append(items)
        return items

    monkeypatch.setattr("atrous.distributed.gather", gather)
    worlds = [World(rank, 2, torch.device("cpu")) for rank in (0, 1)]
    finished: list[int] = []
    halves = [
        evaluate.evaluate(loaded, samples(), world=world, data_name="x", advance=finished.append) for world in worlds
    ]
    assert [[image.sample for image in half.images] for half in halves] == [[0, 2], [1]]
    assert finished == [2, 2, 2]
    totals = [half.figures.confusion for half in halves]
    assert totals[0] is not None and totals[1] is not None and evaluation.figures.confusion is not None
    assert np.array_equal(totals[0] + totals[1], evaluation.figures.confusion)
    assert len(parts) == 2 * 2


def panoptic_evaluation(world: World) -> dict[str, Any]:
    """Every figure of a small panoptic network, also those that are sums of fractions."""
    config = configs.load("synthetic/panoptic_demo", [*SMALL_PANOPTIC, "data.size=64,96", "data.num_val=5"])
    model = segmenter.create(config.model, label_space=data.label_space(config.data))
    images = data.samples(config.data, config.data.val)
    evaluation = evaluate.evaluate(model, images, world=world, data_name="x", metrics=["all"])
    names = [(image.sample, image.name) for image in evaluation.images]
    return {**evaluation.figures.to_tree(), "images": names, "protocol": evaluation.protocol}


@pytest.mark.slow
def test_figures_have_the_same_bits_however_many_processes_share_the_images(tmp_path: Path) -> None:
    """One of six processes has no image at all."""
    alone = json.dumps(panoptic_evaluation(World(0, 1, torch.device("cpu"))))
    for size in (2, 3, 4, 6):
        answers = answers_of(size, tmp_path, panoptic_evaluation)
        assert [json.dumps(one) for one in answers] == [alone] * size


def test_fractions_are_added_in_the_order_of_the_images() -> None:
    """Whole numbers are exact in any order, and added at once."""
    whole, fraction = torch.tensor([2, 3]), torch.tensor([0.1], dtype=torch.float64)
    counts, others = evaluate.divided({"miou": whole, "pq": fraction, "ap": ["a"]})
    assert counts == {"miou": whole}
    assert others == {"pq": fraction, "ap": ["a"]}


def test_the_protocol_can_be_changed_and_is_reported(model: Path, evaluation: Evaluation) -> None:
    overrides = [
        "evaluate.mode=sliding",
        "evaluate.window=49,65",
        "evaluate.flip=true",
        "evaluate.scales=0.5,1",
        "evaluate.output_stride=8",
    ]
    protocol = evaluate.run(model, overrides, console=QUIET).protocol
    assert protocol["image"] == "windows of 49 x 65, 33% overlap"
    assert (protocol["scales"], protocol["flipped too"], protocol["output stride"]) == ("0.5, 1", "yes", "8")
    own = evaluation.protocol
    assert (own["scales"], own["flipped too"], own["output stride"]) == ("1", "no", "16")


def test_the_originals_canvas_and_a_crf_are_in_the_protocol(model: Path) -> None:
    overrides = ["evaluate.mode=canvas", "evaluate.window=49,65", "evaluate.crf=v1_large_fov"]
    refined, plain = (evaluate.run(model, some, console=QUIET) for some in (overrides, overrides[:2]))
    assert refined.protocol["image"] == "on a canvas of 49 x 65, shrunk to fit"
    assert refined.protocol["CRF"] == "v1_large_fov"
    assert refined.figures.confusion is not None and plain.figures.confusion is not None
    assert not np.array_equal(refined.figures.confusion, plain.figures.confusion)


def test_an_absent_class_is_left_out_of_the_mean_and_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = segmenter.load(model)
    total = torch.diag(torch.tensor([5, 5, 5, 5, 5, 5, 5, 0]))
    figures = TASKS["semantic"].report({"miou": total}, loaded.label_space)
    protocol = evaluate.protocol(loaded, figures, 1, 0, "by hand")
    assert figures.scores["miou"] == 1.0
    assert [name for name, row in figures.table.rows.items() if row[0] is None] == ["person"]
    assert protocol["mean over"] == "7 of 8 classes; in neither labels nor predictions, so left out: person"
    report.print_evaluation(Evaluation(figures, [], [], protocol, {}), Console(width=200))
    printed = capsys.readouterr().out
    assert "absent" in printed
    assert "mIoU 1.0000" in printed


def test_metrics_are_chosen(model: Path, evaluation: Evaluation) -> None:
    assert "boundary_iou" not in evaluation.figures.scores
    figures = evaluate.run(model, metrics=["all"], console=QUIET).figures
    assert list(figures.scores) == [*evaluation.figures.scores, "boundary_iou"]
    assert {name: figures.scores[name] for name in evaluation.figures.scores} == evaluation.figures.scores
    assert "boundary IoU" in figures.table.columns
    with pytest.raises(ConfigError, match="no metric pq; there are miou, boundary_iou, and all"):
        evaluate.run(model, metrics=["pq"], console=QUIET)


def test_a_wide_table_is_printed_in_parts(model: Path, evaluation: Evaluation) -> None:
    wide = evaluation._replace(figures=joined([evaluation.figures] * 4))
    for width, number in ((200, 1), (80, 2), (30, 12)):
        console = Console(width=width, record=True, file=io.StringIO())
        report.print_evaluation(wide, console)
        text = console.export_text()
        assert text.count("┃ class") == number
        assert text.count("accuracy ┃") == 4


def test_an_evaluation_leaves_the_modes_of_the_model_alone(model: Path) -> None:
    loaded = segmenter.load(model)
    loaded.model.train()
    loaded.model.backbone.eval()
    modes = [module.training for module in loaded.model.modules()]
    evaluate.evaluate(loaded, samples(), world=ALONE)
    assert [module.training for module in loaded.model.modules()] == modes


def test_an_unreadable_image_is_skipped_on_request_and_counted(model: Path, folder_data: Path) -> None:
    truncate(folder_data / "images" / "val" / "1.png")
    overrides = ["data.format=folder", f"data.root={folder_data}", "data.on_error=skip"]
    path = model_of_two_classes(folder_data)
    evaluation = evaluate.run(path, overrides, console=QUIET)
    assert len(evaluation.images) == 1
    assert len(evaluation.skipped) == 1
    assert "images/val/1.png" in evaluation.skipped[0]
    assert evaluation.protocol["images"] == "1 (1 could not be read)"
    with pytest.raises(DataError, match=r"images/val/1\.png"):
        evaluate.run(path, overrides[:2], console=QUIET)


def test_a_split_without_a_readable_image_is_refused(folder_data: Path) -> None:
    for index in (0, 1):
        truncate(folder_data / "images" / "val" / f"{index}.png")
    path = model_of_two_classes(folder_data)
    overrides = ["data.format=folder", f"data.root={folder_data}", "data.on_error=skip"]
    with pytest.raises(DataError, match=r"images/val/1\.png"):
        evaluate.run(path, overrides, console=QUIET)
    loaded = segmenter.load(path)
    config = evaluate.settings(loaded, overrides, str(path)).data
    with pytest.raises(DataError, match="mine: none of 2 images could be read, so there is nothing to measure"):
        evaluate.evaluate(loaded, data.samples(config, "val"), world=ALONE, skip_errors=True, data_name="mine")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def model_of_two_classes(folder: Path) -> Path:
    path = folder / "model.safetensors"
    segmenter.create(tiny_config().model, num_classes=2).save(path)
    return path


REFUSED = (
    (["model.output_stride=8"], "model: only settings of data, evaluate and decode apply here"),
    (["data.format=ade20k", "data.root=nowhere"], "is 8, but the label space has 150 classes"),
    (["data.names=sky,building,road,pavement,tree,pole,car,person"], "class 4 is 'vegetation' in {path} but 'tree'"),
    (["data.val=nowhere"], "nowhere"),
    (["evaluate.scales=[]"], "evaluate.scales"),
    (["evaluate.overlap=1"], "at most 0.95"),
)


def test_what_does_not_fit_is_refused(model: Path) -> None:
    for overrides, reason in REFUSED:
        with pytest.raises(AtrousError) as error:
            evaluate.run(model, overrides, console=QUIET)
        assert reason.format(path=model) in str(error.value)


def test_a_model_without_an_experiment_needs_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    segmenter.create("deeplab_v3", num_classes=8).save(path)
    with pytest.raises(ConfigError, match=r"names no dataset; add data\.format=\.\.\. data\.root="):
        evaluate.run(path, console=QUIET)
    overrides = ["data.format=synthetic", "data.num_val=1", "data.size=64,96"]
    assert len(evaluate.run(path, overrides, console=QUIET).images) == 1


def test_a_dataset_without_the_labels_that_the_model_needs_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*arguments: object, **options: object) -> None:
        raise AssertionError("an image was predicted")

    path = tmp_path / "classifier.safetensors"
    segmenter.create("image_classifier", num_classes=8).save(path)
    monkeypatch.setattr(Segmenter, "decode", decode)
    overrides = ["data.format=synthetic", "data.num_val=2", "data.size=64,96"]
    with pytest.raises(DataError, match=r"data\.format=synthetic: its samples lack category, which the model needs"):
        evaluate.run(path, overrides, console=QUIET)


def test_labels_of_one_class_are_told_and_wrong_ones_refused_with_the_setting(
    folder_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = folder_config(folder_data)
    created = segmenter.create(config.model, label_space=data.label_space(config.data))
    path = tmp_path / "model.safetensors"
    created.with_header(training=config).save(path)
    for mask in (folder_data / "masks" / "val").iterdir():
        save(mask, np.full((40, 60), 1, np.uint8))
    evaluate.run(path, console=Console(width=300))
    assert "split 'val': all 4800 labelled pixels of 2 masks are right\n" in capsys.readouterr().out
    for mask in (folder_data / "masks" / "val").iterdir():
        save(mask, np.resize(np.array([1, 2], np.uint8), (40, 60)))
    with pytest.raises(DataError, match=r'value 2 .*; 1 more of split .*set "data\.names={1: left, 2: right}"$'):
        evaluate.run(path, console=QUIET)
