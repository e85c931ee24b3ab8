"""Panoptic segmentation as a task, on maps drawn by hand, and the whole way: trained, measured, predicted, reported."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import atrous
from atrous import data, evaluate, predict, train
from atrous.config import Config, load, override
from atrous.data.label_space import LabelSpace
from atrous.distributed import World
from atrous.errors import ConfigError, DataError
from atrous.inference import InferenceConfig
from atrous.inference.seen import Seen
from atrous.interrupt import Interrupted
from atrous.prediction import Prediction
from atrous.run_folder import RunFolder
from atrous.tasks import TASKS
from atrous.tasks import panoptic as panoptic_task
from atrous.tasks.contract import Labels, TrainingData
from atrous.tasks.panoptic import PANOPTIC, PanopticDecodeConfig, PanopticLossConfig, PanopticObjective
from atrous.tasks.panoptic_pictures import middle, paint, paint_map, shade, tags
from atrous.tasks.segments import Segment, panoptic_array, segments
from atrous.types import Batch, Facts, Outputs, Sample
from tests.conftest import SMALL_PANOPTIC, noise, save
from tests.runs import QUIET, assert_same, losses, stop_after, validations, weights

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
COLORS = ((0, 0, 255), (99, 99, 99), (200, 60, 60), (60, 200, 60))
SPACE = LabelSpace(names=("sky", "road", "car", "person"), colors=COLORS, things=(2, 3), panoptic_divisor=10)
FACTS = Facts("panoptic", 4, (0.0, 0.0, 0.0), 8, 4, "aligned_corners")
VOID = 2550
SURE = 100.0  # a logit: the others' probabilities are 0


def drawn(semantic: str, instance: str) -> tuple[Tensor, Tensor]:
    """Maps with one character a pixel, one word a row: `.` sky, `r` road, `c` car, `p` person, `x` ignored."""
    numbers = {".": 0, "r": 1, "c": 2, "p": 3, "x": 255}
    classes = torch.tensor([[numbers[letter] for letter in row] for row in semantic.split()])
    return classes, torch.tensor([[int(letter) for letter in row] for row in instance.split()])


def sample(semantic: str, instance: str, name: str = "street") -> Sample:
    classes, instances = drawn(semantic, instance)
    return Sample(name, noise(*classes.shape), classes.numpy().astype(np.uint8), instances.numpy().astype(np.int32))


def predicted(semantic: str, instance: str) -> Labels:
    classes, instances = drawn(semantic, instance)
    is_void = classes == 255
    maps = torch.where(is_void, VOID, classes * SPACE.panoptic_divisor + instances)
    return Labels(classes.where(~is_void, 0), panoptic=maps)


# ---- the objective


def objective(space: LabelSpace = SPACE, heads: tuple[str, ...] = (), **settings: object) -> PanopticObjective:
    config = PanopticLossConfig.model_validate(settings)
    return panoptic_task.objective(config, FACTS, heads, TrainingData(space, None, CPU))


def batch(*samples: Sample) -> Batch:
    semantic = torch.from_numpy(np.stack([x.semantic for x in samples if x.semantic is not None]))
    instance = torch.from_numpy(np.stack([x.instance for x in samples if x.instance is not None]))
    images = torch.zeros(len(samples), 3, *semantic.shape[1:], dtype=torch.uint8)
    return Batch(tuple(x.name for x in samples), images, semantic, instance)


def outputs(*size: int, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    count, height, width = size
    semantic, center, offset = (torch.randn(count, k, height, width, generator=generator) for k in (4, 1, 2))
    return Outputs(semantic, center=center, offset=offset)


def image_of(values: Outputs, index: int) -> Outputs:
    assert values.center is not None and values.offset is not None
    one = slice(index, index + 1)
    return Outputs(values.semantic[one], center=values.center[one], offset=values.offset[one])


STREET = sample(".....  rcccr  rcccr", "00000 01110 01110")
CROWD = sample("..... pp.cc ppxcc", "00000 00011 00011")


def test_each_term_is_its_loss_times_its_weight() -> None:
    one, values = objective(center=200, offset=0.01, sigma=1, small_area=0), outputs(1, 3, 5)
    targets = one.targets(batch(STREET))
    counts = one.counts(targets, step=0)
    assert counts is not None and counts.dtype == torch.float64
    assert counts.tolist() == [15, 15, 6]  # all pixels have a class and a height, those of the car an offset
    terms = one.terms(values, targets, counts, step=0)
    assert terms.keys() == {"semantic", "center", "offset"}
    classes, _ = drawn(".....  rcccr  rcccr", "00000 01110 01110")
    torch.testing.assert_close(terms["semantic"], F.cross_entropy(values.semantic, classes[None]))
    ys, xs = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")
    bell = torch.exp(-((ys - 2) ** 2 + (xs - 2) ** 2) / 2)  # rows 1 and 2: the mean 1.5 is rounded to the even 2
    assert values.center is not None and values.offset is not None
    torch.testing.assert_close(terms["center"], 200 * (values.center[0, 0] - bell).square().mean())
    truth = torch.stack([2 - ys, 2 - xs]).float()
    car = slice(1, 3), slice(1, 4)
    torch.testing.assert_close(terms["offset"], 0.01 * (values.offset[0] - truth)[:, *car].abs().mean())


def test_the_class_of_a_crowd_is_learnt_on_request_alone() -> None:
    ignored, learnt = (objective(crowds=word).targets(batch(CROWD))["semantic"][0] for word in ("ignored", "learnt"))
    assert torch.equal(learnt, drawn("..... pp.cc ppxcc", "00000 00011 00011")[0].byte())
    assert torch.equal(ignored, drawn("..... xx.cc xxxcc", "00000 00011 00011")[0].byte())
    assert learnt.dtype == ignored.dtype == torch.uint8


def test_a_crowd_has_a_class_but_neither_center_nor_offset() -> None:
    one = objective(crowds="learnt")
    counts = one.counts(one.targets(batch(CROWD)), 0)
    assert counts is not None
    assert counts.tolist() == [14, 10, 4]  # one pixel is ignored, four are a crowd, four a car


def test_passes_of_an_update_weigh_each_pixel_the_same() -> None:
    one = objective()
    first, second = (one.targets(batch(x)) for x in (STREET, CROWD))
    both = one.targets(batch(STREET, CROWD))
    counts = [one.counts(x, 0) for x in (first, second, both)]
    assert counts[0] is not None and counts[1] is not None and counts[2] is not None
    assert torch.equal(counts[0] + counts[1], counts[2])
    values = outputs(2, 2, 3)
    parts = [one.terms(image_of(values, i), targets, counts[2], 0) for i, targets in enumerate((first, second))]
    whole = one.terms(values, both, counts[2], 0)
    for name, term in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], term)


def test_small_things_weigh_more_among_the_classes() -> None:
    values = outputs(1, 3, 5)
    plain, heavy = (objective(small_area=area, small_weight=3, center=0, offset=0) for area in (6, 7))
    losses = [one.terms(values, one.targets(batch(STREET)), None, 0)["semantic"] for one in (plain, heavy)]
    classes = drawn(".....  rcccr  rcccr", "00000 01110 01110")[0]
    each = F.cross_entropy(values.semantic, classes[None], reduction="none")[0]
    torch.testing.assert_close(losses[0], each.mean())
    torch.testing.assert_close(losses[1], (each * torch.where(classes == 2, 3.0, 1.0)).mean())


def test_at_the_grid_of_the_logits_small_things_weigh_more_too() -> None:
    values = outputs(1, 3, 5)  # the grid is the image's size, so that both forms of the loss are one
    image, grid = (objective(labels=labels, small_weight=3, center=0, offset=0) for labels in ("image", "grid"))
    targets = image.targets(batch(STREET))
    terms = [one.terms(values, targets, None, 0)["semantic"] for one in (image, grid)]
    torch.testing.assert_close(terms[0], terms[1])


def test_images_without_things_have_no_offsets_to_learn() -> None:
    one = objective()
    targets = one.targets(batch(sample("... rrr", "000 000")))
    terms = one.terms(outputs(1, 2, 3), targets, one.counts(targets, 0), 0)
    assert terms["offset"] == 0
    assert terms["center"] > 0  # the heights must become 0
    assert all(term.isfinite() for term in terms.values())


def test_hard_pixels_have_means_of_their_own() -> None:
    one = objective(hard_pixels=0.2)
    targets = one.targets(batch(STREET))
    assert one.counts(targets, 0) is None
    easy = objective()
    assert (
        one.terms(outputs(1, 3, 5), targets, None, 0)["semantic"]
        > (easy.terms(outputs(1, 3, 5), targets, None, 0)["semantic"])
    )


def test_a_label_space_needs_things() -> None:
    with pytest.raises(ConfigError, match="a panoptic model needs classes of things"):
        objective(SPACE.model_copy(update={"things": ()}))
    with pytest.raises(ConfigError, match=r"loss\.class_weights: 2 values for 4 classes"):
        objective(class_weights=(1, 2))
    with pytest.raises(ConfigError, match=r"loss\.weights\.auxiliary: the model has no such training head"):
        objective(weights={"auxiliary": 0.5})


# ---- decoded


def seen(semantic: Tensor, center: Tensor, offset: Tensor, size: tuple[int, int] | None = None) -> Seen:
    """Of one image, at its own size."""
    logits = SURE * F.one_hot(semantic, 4).permute(2, 0, 1)[None].float()
    frame: tuple[int, int] = (semantic.shape[0], semantic.shape[1])
    return Seen(
        Outputs(logits, center=center[None, None], offset=offset[None]),
        frame,
        frame,
        size or frame,
        "aligned_corners",
        is_mean=False,
    )


def two_cars() -> tuple[Tensor, Tensor, Tensor]:
    """Cars whose centres are at (1, 1) and (1, 5), on sky; each pixel points at its own."""
    semantic, _ = drawn("....... ccc.ccc ccc.ccc", "0000000 0000000 0000000")
    center = torch.zeros(3, 7)
    center[1, 1], center[1, 5] = 0.9, 0.4
    ys, xs = torch.meshgrid(torch.arange(3), torch.arange(7), indexing="ij")
    return semantic, center, torch.stack([1 - ys, torch.where(xs < 4, 1, 5) - xs]).float()


def decoded(maps: tuple[Tensor, Tensor, Tensor], size: tuple[int, int] | None = None, **settings: object) -> Labels:
    config = PanopticDecodeConfig.model_validate({"stuff_area": 0, **settings})
    (labels,) = PANOPTIC.decode(seen(*maps, size), SPACE, config)
    return labels


def test_pixels_are_grouped_by_the_center_that_they_point_at() -> None:
    labels = decoded(two_cars())
    assert labels.semantic is not None and labels.panoptic is not None and labels.scores is not None
    assert labels.panoptic.tolist() == [[0] * 7, *[[21, 21, 21, 0, 22, 22, 22]] * 2]
    assert torch.equal(labels.semantic.long(), two_cars()[0])
    torch.testing.assert_close(labels.scores, torch.tensor([[21, 0.9], [22, 0.4]]).double())


def test_a_thing_is_as_certain_as_its_center_is_high_and_its_class_probable() -> None:
    panoptic = torch.tensor([[21, 21, 22, 0], [21, 31, VOID, 0]])
    heights = torch.tensor([[0.5, 0.5, 0.25, 0.0], [0.5, 1.0, 0.0, 0.0]])
    probabilities = torch.tensor([[0.2, 0.4, 0.8, 1.0], [0.6, 0.1, 1.0, 1.0]])
    asked: list[Tensor] = []

    def probability(places: Tensor, classes: Tensor) -> Tensor:
        asked.append(classes)
        return probabilities[places[:, 0], places[:, 1]]

    scores = panoptic_task.thing_scores(panoptic, heights, probability, SPACE)
    expected = torch.tensor([[21, 0.5 * 0.4], [22, 0.25 * 0.8], [31, 0.1]])
    torch.testing.assert_close(scores, expected.double())
    assert asked[0].tolist() == [2, 2, 2, 2, 3]  # the class of the thing, whatever its pixels' own classes are
    none = panoptic_task.thing_scores(panoptic, torch.zeros(2, 4), probability, SPACE)
    assert none.shape == (0, 2)


def test_settings_of_the_decoding() -> None:
    maps = two_cars()
    assert values(decoded(maps, threshold=0.5)) == {0, 21}  # one centre: both cars are one
    assert values(decoded(maps, threshold=0.95)) == {0, VOID}  # no centre
    assert values(decoded(maps, threshold=0.95, without_center="thing")) == {0, 21}
    assert values(decoded(maps, kernel=11)) == {0, 21}  # the lower centre lies in the higher one's surroundings
    assert values(decoded(maps, top_k=1)) == {0, VOID}  # the best k are those above the k-th, as in the original
    assert values(decoded(maps, stuff_area=9)) == {0, 21, 22}
    assert values(decoded(maps, stuff_area=10)) == {VOID, 21, 22}
    assert values(decoded(maps, stuff_area=9, at_limit="void")) == {VOID, 21, 22}


def values(labels: Labels) -> set[int]:
    assert labels.panoptic is not None
    return set(labels.panoptic.flatten().tolist())


def test_maps_have_the_size_of_the_image() -> None:
    labels = decoded(two_cars(), size=(6, 14))
    assert labels.semantic is not None and labels.panoptic is not None
    expected = torch.tensor([[0] * 7, *[[21, 21, 21, 0, 22, 22, 22]] * 2]).repeat_interleave(2, 0)
    assert torch.equal(labels.panoptic.long(), expected.repeat_interleave(2, 1))


# ---- measured


def test_figures_by_hand() -> None:
    truth = sample(".... cccc ccpp", "0000 1122 1133")
    labels = predicted(".... ccc. ccpp", "0000 1120 1111")  # the second car loses half; a number is only a number
    figures = PANOPTIC.report(PANOPTIC.statistics(labels, truth, SPACE), SPACE)
    assert figures.headline == "pq"
    # sky: 4 of 5 pixels; cars: 1 of 1 and a half, which is no match: a false and a missed one; the person: 1
    expected = {"sky": (0.8, 1, 0, 0), "car": (1.0, 1, 1, 1), "person": (1.0, 1, 0, 0)}
    for name, (quality, *counts) in expected.items():
        recognition = 2 / 4 if name == "car" else 1
        assert figures.table.rows[name][:6] == pytest.approx((quality * recognition, quality, recognition, *counts))
    assert figures.table.rows["road"][:6] == (None, None, None, 0, 0, 0)
    assert figures.scores["pq"] == pytest.approx((0.8 + 0.5 + 1) / 3)
    assert figures.scores["sq"] == pytest.approx((0.8 + 1 + 1) / 3)
    assert figures.scores["rq"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert figures.scores["pq_things"] == pytest.approx(0.75)
    assert figures.scores["pq_stuff"] == pytest.approx(0.8)
    assert figures.scores["miou"] == pytest.approx((4 / 5 + 5 / 6 + 1) / 3)
    assert figures.notes["panoptic quality"].startswith("mean over 3 of 4 classes, 2 of things")
    assert figures.confusion is not None
    json.dumps(figures.to_tree())


def test_statistics_add_up() -> None:
    truth, labels = sample("..cc", "0011"), predicted("...c", "0001")
    one = PANOPTIC.statistics(labels, truth, SPACE)
    both = PANOPTIC.report({name: value + value for name, value in one.items()}, SPACE)
    assert both.scores == PANOPTIC.report(one, SPACE).scores
    assert both.table.rows["sky"][3] == 2


def test_more_things_than_the_divisor_leaves_room_for_are_refused() -> None:
    crowded = sample("..cc", "0019")
    many = crowded._replace(instance=np.array([[0, 0, 1, 10]], np.int32))
    PANOPTIC.statistics(predicted("..cc", "0019"), crowded, SPACE)
    with pytest.raises(DataError, match=r"street: thing 10, but panoptic_divisor=10 leaves numbers up to 9"):
        PANOPTIC.statistics(predicted("..cc", "0019"), many, SPACE)


def test_numbers_on_stuff_count_nothing() -> None:
    truth = sample(".. cc", "11 11")
    scores = PANOPTIC.report(PANOPTIC.statistics(predicted(".. cc", "00 11"), truth, SPACE), SPACE).scores
    assert scores["pq"] == 1


# ---- shown


def test_segments_are_written_as_in_coco() -> None:
    labels = predicted("..rx cccc", "0000 1122")._replace(scores=torch.tensor([[21, 0.5], [22, 0.25]]))
    with Image.open(io.BytesIO(PANOPTIC.results["panoptic"].encode(labels, SPACE))) as png:
        pixels = np.asarray(png.convert("RGB")).astype(int)
    numbers = pixels @ np.array([1, 256, 65536])
    assert numbers.tolist() == [[1, 1, 11, 0], [22, 22, 23, 23]]
    tree = json.loads(PANOPTIC.results["segments"].encode(labels, SPACE))
    assert [segment["id"] for segment in tree["segments_info"]] == [1, 11, 22, 23]
    road, car = tree["segments_info"][1], tree["segments_info"][3]
    assert road == {"id": 11, "category_id": 1, "category": "road", "isthing": 0, "area": 1, "bbox": [2, 0, 1, 1]}
    assert car["bbox"] == [2, 1, 2, 1]
    assert car["score"] == 0.25


def test_segments_of_a_prediction() -> None:
    labels = predicted("..rx cc.c", "0000 1102")._replace(scores=torch.tensor([[21, 0.5], [22, 0.25]]))
    prediction = Prediction(labels, noise(2, 4), SPACE, PANOPTIC)
    assert prediction.panoptic.dtype == np.int32
    assert prediction.panoptic.tolist() == [[0, 0, 10, VOID], [21, 21, 0, 22]]
    assert prediction.segments == (
        Segment(0, 0, None, 3, (0, 0, 2, 3)),
        Segment(10, 1, None, 1, (0, 2, 1, 1)),
        Segment(21, 2, 0.5, 2, (1, 0, 1, 2)),
        Segment(22, 2, 0.25, 1, (1, 3, 1, 1)),
    )
    nothing = Labels(torch.zeros(0, 4).long(), panoptic=torch.zeros(0, 4).long())
    assert Prediction(nothing, noise(1, 4), SPACE, PANOPTIC).segments == ()
    semantic = Prediction(Labels(labels.semantic), noise(2, 4), SPACE, TASKS["semantic"])
    for name in ("panoptic", "segments"):
        with pytest.raises(AttributeError, match="predicts no things"):
            getattr(semantic, name)


@given(st.lists(st.integers(0, 30), min_size=12, max_size=12))
def test_segments_equal_a_plain_count(values: list[int]) -> None:
    maps = torch.tensor(values).reshape(3, 4)
    for segment in Prediction(Labels(panoptic=maps), noise(3, 4), SPACE, PANOPTIC).segments:
        ys, xs = (maps == segment.id).nonzero().unbind(1)
        box = int(ys.min()), int(xs.min()), int(ys.max() - ys.min()) + 1, int(xs.max() - xs.min()) + 1
        assert (segment.category, segment.area, segment.box) == (segment.id // 10, len(ys), box)


def test_an_ignored_class_is_void_in_files() -> None:
    """COCO's class 0 is void: the network has a logit for it, the format has no such category."""
    space = SPACE.model_copy(update={"ignore": 0})
    labels = Labels(torch.zeros(1, 2).long(), panoptic=torch.tensor([[0, 21]]))
    segments = json.loads(PANOPTIC.results["segments"].encode(labels, space))["segments_info"]
    assert [segment["category"] for segment in segments] == ["car"]


def test_things_of_a_class_have_shades_of_its_color_and_void_shows_the_image() -> None:
    labels, image = predicted("..rx cccc", "0000 1122"), noise(2, 4)
    picture = PANOPTIC.paint(image, labels, SPACE, 1.0)
    assert np.array_equal(picture[0, 3], image[0, 3])
    assert shade(20, SPACE) == COLORS[2]
    one, other = shade(21, SPACE), shade(22, SPACE)
    assert one != other
    assert np.abs(np.subtract(one, COLORS[2])).max() <= 60
    assert shade(21, SPACE) == one
    assert PANOPTIC.painted(labels, SPACE) == {"sky": COLORS[0], "road": COLORS[1], "car": COLORS[2]}
    assert np.array_equal(PANOPTIC.paint(image, labels, SPACE, 0.0), image)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (("#",), (0, 0)),
        (("####", "####"), (0, 1)),
        (("###.", "#...", "###."), (1, 0)),  # a C: its centre of mass lies outside
        (("#.##", "#.##", "#.##"), (1, 2)),  # two parts: in the wider one
    ],
)
def test_a_name_stands_inside_its_thing(rows: tuple[str, ...], expected: tuple[int, int]) -> None:
    assert middle(np.array([[pixel == "#" for pixel in row] for row in rows])) == expected


def test_things_bear_their_names_and_stuff_does_not() -> None:
    panoptic = torch.zeros(90, 300).long()
    panoptic[:, 150:], panoptic[:4] = 21, 10
    scores = torch.tensor([[21.0, 0.875]]).double()
    labels, image = Labels(panoptic=panoptic, scores=scores), np.zeros((90, 300, 3), np.uint8)
    (tag,) = tags(panoptic.numpy().astype(np.int32), segments(labels, SPACE), SPACE)
    assert tuple(tag) == (("car 88%", "car"), (46, 224), (86, 150))
    picture, bare = (paint(image, labels, SPACE, 0.55), paint_map(image, panoptic_array(labels), SPACE, 0.55))
    changed = np.argwhere((picture != bare).any(-1))
    assert len(changed) > 50
    assert np.abs(changed.mean(0) - tag.middle).max() < 4
    assert np.array_equal(PANOPTIC.paint(image, labels, SPACE, 1.0), paint_map(image, panoptic_array(labels), SPACE, 1))


def test_panels_show_the_image_the_truth_the_prediction_and_the_errors() -> None:
    truth, labels = sample("..rx cccc", "0000 1122"), predicted("..rr cccc", "0000 1111")
    panels = dict(PANOPTIC.panels(truth, labels, SPACE))
    assert list(panels) == ["Image", "Truth", "Prediction", "Errors"]
    assert set(PANOPTIC.compared) < set(panels)
    assert np.array_equal(panels["Truth"], PANOPTIC.paint_truth(truth, SPACE))
    assert np.array_equal(panels["Truth"][0, 3], truth.image[0, 3])  # an ignored pixel stays the image's
    assert not np.array_equal(panels["Truth"], panels["Prediction"])


# ---- the whole way

SMALL = (
    *SMALL_PANOPTIC,
    "data.size=64,96",
    "data.num_train=8",
    "data.num_val=3",
    "augment.crop=49,65",
    "optim.warmup_steps=0",
    "train.batch=2",
    "train.steps=4",
    "train.eval_every=2",
    "train.save_every=2",
    "train.log_every=1",
)


def tiny(*overrides: str) -> Config:
    return override(load("synthetic/panoptic_demo", SMALL), overrides, "synthetic/panoptic_demo")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train.train(tiny(), tmp_path_factory.mktemp("panoptic") / "run", console=QUIET)


def test_a_panoptic_model_is_trained_and_reported(run: RunFolder) -> None:
    assert [row["step"] for row in losses(run)] == [1, 2, 3, 4]
    assert {"semantic", "center", "offset"} <= losses(run)[0].keys()
    assert {"pq", "sq", "rq", "pq_things", "pq_stuff", "miou"} <= validations(run)[-1]["scores"].keys()
    page = run.report.read_text(encoding="utf-8")
    for text in ("PQ", "Matched", "Missed", "Prediction"):
        assert text in page


@pytest.mark.slow
def test_scenes_are_learnt_by_heart(tmp_path: Path) -> None:
    settings = (
        *("model.backbone=resnet_small", "model.output_stride=8", "data.size=64,96", "data.num_train=4"),
        *("data.num_val=1", "augment.crop=65,97", "augment.flip=0", "loss.sigma=3", "decode.stuff_area=16"),
        *("optim.lr=0.02", "optim.warmup_steps=0", "train.batch=4", "train.batch_norm_momentum=0.1"),
        *("train.steps=150", "train.eval_every=150"),
    )
    config = load("synthetic/panoptic_demo", settings)
    learnt = train.train(config, tmp_path / "run", console=QUIET)
    scenes = data.samples(config.data, "train")
    figures = evaluate.evaluate(atrous.load(learnt.last), scenes, world=ALONE, data_name="by heart").figures
    assert figures.scores["pq"] > 0.85
    assert figures.scores["pq_things"] > 0.75
    assert sum(figures.table.rows[name][3] or 0 for name in ("car", "person")) == 12  # each thing by itself


def test_an_interrupted_training_is_resumed_to_the_same_weights(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(3, patch, task="panoptic")
        with pytest.raises(Interrupted):
            train.train(tiny(), tmp_path / "run", console=QUIET)
    resumed = train.train(tiny(), tmp_path / "run", resume=True, console=QUIET)
    assert_same(weights(resumed), weights(run))


PROTOCOLS = (
    InferenceConfig(),
    InferenceConfig(scales=(0.75, 1.0), flip=True),
    InferenceConfig(mode="sliding", window=(49, 65)),
    InferenceConfig(mode="canvas", window=(49, 65)),
)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["whole", "scales and flip", "sliding", "canvas"])
def test_a_panoptic_model_is_measured_by_each_protocol(run: RunFolder, protocol: InferenceConfig) -> None:
    samples = data.samples(tiny().data, "val")
    model = atrous.load(run.best).with_inference(protocol)
    evaluation = evaluate.evaluate(model, samples, world=ALONE, data_name="by hand")
    assert 0 <= evaluation.figures.scores["pq"] <= 1
    assert len(evaluation.images) == 3


def test_predictions_of_a_panoptic_model_are_files(run: RunFolder, tmp_path: Path) -> None:
    save(tmp_path / "images" / "street.png", data.samples(tiny().data, "val")[0].image)
    out = tmp_path / "out"
    summary = predict.run(run.best, [str(tmp_path / "images")], out, console=QUIET)
    assert summary.images == 1
    with Image.open(out / "panoptic" / "street.png") as png:
        numbers = np.asarray(png).astype(int) @ np.array([1, 256, 65536])
    segments = json.loads((out / "segments" / "street.json").read_text())["segments_info"]
    assert {segment["id"] for segment in segments} == set(np.unique(numbers)) - {0}
    assert all(segment["area"] == (numbers == segment["id"]).sum() for segment in segments)
    assert (out / "overlays" / "street.jpg").is_file()


def test_a_prediction_can_be_decoded_with_other_settings(run: RunFolder, tmp_path: Path) -> None:
    save(tmp_path / "street.png", data.samples(tiny().data, "val")[0].image)
    source, out = [str(tmp_path / "street.png")], tmp_path / "out"
    predict.run(run.best, source, out, ["decode.stuff_area=100000", "decode.threshold=0.99"], console=QUIET)
    segments = json.loads((out / "segments" / "street.json").read_text())["segments_info"]
    assert segments == []  # all stuff is too small, and there is no centre
    with pytest.raises(ConfigError, match=r"decode\.kernel=0"):
        predict.run(run.best, source, out, ["decode.kernel=0"], console=QUIET)


# ---- data of one's own


def write_things(root: Path, count: int = 3) -> None:
    """Two boxes in each image of 40 x 48; the second is cut off by the border."""
    rng = np.random.default_rng(0)
    for split, first in (("train", 0), ("val", 10)):
        for index in range(first, first + count):
            instance = np.zeros((40, 48), np.uint8)
            instance[5:25, 5 + index % 3 : 20], instance[28:, 30:] = 1, 2
            image = rng.integers(0, 90, (40, 48, 3), np.uint8) + np.uint8(150) * (instance > 0)[..., None]
            for kind, pixels in (
                ("images", image),
                ("masks", (instance > 0).astype(np.uint8)),
                ("instances", instance),
            ):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / kind / split / f"{index}.png")
    (root / "classes.yaml").write_text("names: [ground, box]\nthings: [box]\n")


def own(root: Path, *overrides: str) -> Config:
    settings = [text for text in SMALL if not text.startswith("data.")]
    changes = [*settings, "data.format=folder", f"data.root={root}", "augment.crop=33,41", *overrides]
    return load("synthetic/panoptic_demo", changes)


def trained(root: Path, out: Path, *overrides: str) -> RunFolder:
    return train.train(own(root, *overrides), out, console=QUIET)


@pytest.mark.parametrize("without", ["", "masks"])
def test_boxes_of_ones_own_are_learnt_scored_and_counted_in_the_report(without: str, tmp_path: Path) -> None:
    write_things(tmp_path / "data")
    if without:
        shutil.rmtree(tmp_path / "data" / without)
    run = trained(tmp_path / "data", tmp_path / "run")
    assert {"pq", "pq_things", "pq_stuff"} <= validations(run)[-1]["scores"].keys()
    counts = json.loads((run.path / "data.json").read_text())
    assert counts["train"]["things"] == counts["val"]["things"] == {"box": 6}
    table = evaluate.run(run.best, console=QUIET).figures.table
    row = dict(zip(table.columns, table.rows["box"], strict=True))
    assert sum(int(row[name] or 0) for name in ("matched", "missed")) == 6


def box(root: Path, change: Callable[[np.ndarray], np.ndarray], kind: str = "instances", split: str = "train") -> None:
    """Change a map of the second image of a split."""
    path = sorted((root / kind / split).iterdir())[1]
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def remove(root: Path, pattern: str) -> None:
    for path in root.glob(pattern):
        path.unlink()


def clear(root: Path, pattern: str) -> None:
    for path in root.glob(pattern):
        Image.fromarray(np.zeros((40, 48), np.uint8)).save(path)


def beyond(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.uint16) * 600


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a number above the divisor": (
        lambda root: box(root, beyond),
        r"instances/train/1\.png: a thing has the number 1200, but they may be 1\.\.999",
    ),
    "a thing of two classes": (
        lambda root: box(root, lambda mask: mask * (np.arange(40) > 8)[:, None].astype(np.uint8), "masks"),
        r"instances/train/1\.png: thing 1 has pixels of 2 classes, but a thing has one: ground \(\d+ pixels\), box \(",
    ),
    "a map in colours": (
        lambda root: box(root, lambda numbers: np.stack([numbers] * 3, -1)),
        r"instances/train/1\.png: the instance map is RGB, but numbers of things are expected",
    ),
    "a map of another size": (
        lambda root: box(root, lambda numbers: numbers[:20]),
        r"sizes differ \(width x height\): image .*/1\.png is 48 x 40, its instance map .*/1\.png is 48 x 20",
    ),
    "a damaged map": (
        lambda root: (root / "instances" / "train" / "1.png").write_bytes(b"\x89PNG"),
        r"cannot read label .*/instances/train/1\.png",
    ),
    "a missing map": (
        lambda root: remove(root, "instances/val/11.png"),
        r"split 'val': images without an instance map, .* \(1\): 11; expected: .*/instances/val/",
    ),
    "no maps": (
        lambda root: shutil.rmtree(root / "instances"),
        r"split 'train': images without an instance map, .* needs; expected: .*/instances/train/",
    ),
    "maps without a number": (
        lambda root: clear(root, "instances/*/*.png"),
        r"split 'train': nothing to learn from: no thing has a number; all \d+ pixels of box in 3 masks are 0",
    ),
    "no things": (
        lambda root: (root / "classes.yaml").write_text("names: [ground, box]\n"),
        r"needs classes of things, .*; of ground, box, name those, as in data\.things=\[box\] or, .* `things: \[box\]`",
    ),
    "a thing that is no class": (
        lambda root: (root / "classes.yaml").write_text("names: [ground, box]\nthings: [bx]\n"),
        r"classes\.yaml: things: no class 'bx'; did you mean box\?",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_with_instances_is_told_before_the_first_step(bad: str, tmp_path: Path) -> None:
    change, text = BAD[bad]
    write_things(tmp_path / "data")
    change(tmp_path / "data")
    with pytest.raises((ConfigError, DataError), match=text) as caught:
        trained(tmp_path / "data", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_image_that_can_not_be_used_is_left_out_on_request(tmp_path: Path) -> None:
    write_things(tmp_path / "data")
    for split in ("train", "val"):
        box(tmp_path / "data", beyond, split=split)
    run = trained(tmp_path / "data", tmp_path / "run", "data.on_error=skip")
    counts = json.loads((run.path / "data.json").read_text())
    assert [(counts[kind]["unreadable"], counts[kind]["things"]) for kind in ("train", "val")] == [(1, {"box": 4})] * 2


def test_images_without_a_thing_are_fine(tmp_path: Path) -> None:
    write_things(tmp_path / "data")
    for kind in ("masks", "instances"):
        for split in ("train", "val"):
            box(tmp_path / "data", np.zeros_like, kind, split)
    counts = json.loads((trained(tmp_path / "data", tmp_path / "run").path / "data.json").read_text())
    assert counts["train"]["things"] == {"box": 4}


def test_data_without_instances_is_refused_before_the_first_step(tmp_path: Path, folder_data: Path) -> None:
    with pytest.raises(DataError, match="without an instance map, which a panoptic model needs"):
        trained(folder_data, tmp_path / "run")
