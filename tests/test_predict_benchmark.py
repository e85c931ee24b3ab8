"""The benchmark of predictions: what it times is a prediction of this package, and its ratios are of one round."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import predict as benchmark
from benchmarks.predict import Case, Network, Seconds, Timed

CASE = Case("mobilenet_v2", 33, 49, num_classes=3, threads=1)


def test_a_row_of_ours_is_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmark.NETWORKS, "mobilenet_v2", Network("lraspp", "mobilenet_v3_small_d2", ("smp",)))
    case = benchmark.written(CASE, tmp_path)
    image = benchmark.picture(case)
    program = benchmark.programs(case)["atrous"]()
    labels = program.predict(image)
    assert labels.shape == (33, 49) and labels.max() < 3
    assert 0 < program.share(image) < 1


def test_each_file_of_ours_has_a_name_of_its_own() -> None:
    case = CASE._replace(model="folder/model.safetensors")
    files = {name: own.file(case) for name, own in benchmark.OWN.items() if own.runtime}
    assert files["atrous, OpenVINO, int8, one size"] == Path("folder/model.33x49.int8.xml")
    kinds = {(own.runtime, own.int8, own.is_sized) for own in benchmark.OWN.values() if own.runtime}
    assert len(set(files.values())) == len(kinds)


def test_a_peer_in_one_graph_computes_what_its_pipeline_computes() -> None:
    """Bytes are normalised as `normalized` does it, and the likeliest class is taken."""
    model = torch.nn.Conv2d(3, 5, 1)
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    with torch.inference_mode():
        labels = benchmark.InGraph(model)(torch.from_numpy(image)[None])[0]
        expected = model(torch.from_numpy(benchmark.normalized(image))).argmax(1)[0]
    assert labels.dtype == torch.uint8 and labels.equal(expected.to(torch.uint8))


def rounds(*medians: float) -> list[list[Seconds]]:
    return [[Seconds(clock, clock / 2)] for clock in medians]


def test_ratios_are_of_the_same_round() -> None:
    """Of the medians 2, 1 and 4 against 4, 4 and 4: the middle one of 2, 4 and 1."""
    ours = Timed([[Seconds(one, 1) for one in times] for times in ([2, 9, 1], [1], [4])])
    assert benchmark.ratio(ours, Timed(rounds(4, 4, 4)), "clock") == 2
    assert benchmark.ratio(ours, Timed(rounds(4, 4, 4)), "core") == 2


def test_a_table_names_what_failed_and_the_best_of_both_sides() -> None:
    timed = {
        "smp, eager": Timed(rounds(0.4, 0.4), 100, "33 x 49"),
        "smp, OpenVINO": Timed(rounds(0.3, 0.3), 100, "33 x 49"),
        "atrous": Timed(rounds(0.2, 0.2), 100, "33 x 49", 0.05),
        "atrous, compiled": Timed([], error="there is no compiler"),
    }
    text = "\n".join(benchmark.table(CASE, timed))
    assert "| atrous | 200.0 | 100.0 | 100 | 2.00 | 2.00 | 5.0% | 33 x 49 |" in text
    assert "| atrous, compiled | failed: there is no compiler | | | | | | |" in text
    assert "atrous against smp, OpenVINO, the peers' fastest: 1.50 times as fast, by cores 1.50" in text


def test_images_of_peers_are_normalised_as_imagenet_is() -> None:
    image = np.full((2, 3, 3), (123, 116, 103), np.uint8)
    pixels = benchmark.normalized(image)
    assert pixels.shape == (1, 3, 2, 3) and pixels.flags.c_contiguous
    assert math.isclose(pixels[0, 0, 0, 0], (123 - 123.675) / 58.395, rel_tol=1e-5)


def test_edges_of_a_label_map_are_counted() -> None:
    labels = np.array([[0, 0, 1], [2, 2, 2]], np.uint8)
    assert benchmark.describe(labels) == "2 x 3, 3 classes, 25.0% edges"
