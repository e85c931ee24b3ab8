"""Do the benchmarks' own programs give ground truth that Atrous has written 100 %?

    python benchmarks/official_scores.py DATA --python OFFICIAL/bin/python --panopticapi FOLDER

DATA holds what each check needs, and a check whose data isn't there is left out: `cityscapes/gtFine/val`,
`coco_panoptic_samples/` of panopticapi, `VOCdevkit/VOC2012`, `ade20k_samples/annotations`. OFFICIAL is another
environment with cityscapesscripts, pycocotools, scipy and "numpy<2"; FOLDER holds a checkout of panopticapi
(github.com/cocodataset/panopticapi) under that name. VOC and ADE20K have no program in Python: their files are compared
with the labels, pixel by pixel.
"""

import argparse
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atrous.data import ade20k, cityscapes, coco_panoptic, voc
from atrous.data.label_space import LabelSpace
from atrous.data.pixels import read_label
from atrous.prediction import Prediction
from atrous.submissions import write_official
from atrous.tasks import TASKS
from atrous.tasks.contract import Labels

Map = NDArray[np.int64]
Named = tuple[Path, Prediction]
VOID = 255


def prediction_of(classes: Map, numbers: Map | None, space: LabelSpace) -> Prediction:
    """Of a map of classes and, for a panoptic model, one of the numbers of things, 0 for stuff."""
    semantic = torch.from_numpy(classes)
    panoptic = None if numbers is None else torch.from_numpy(classes * space.panoptic_divisor + numbers)
    task = TASKS["semantic" if numbers is None else "panoptic"]
    return Prediction(Labels(semantic, panoptic), np.zeros((*classes.shape, 3), np.uint8), space, task)


def classes_of(values: Map, space: LabelSpace, void: int = VOID) -> Map:
    """Raw ids as classes."""
    table = np.full(2**16, void)
    for raw, index in space.raw_ids or enumerate(range(space.num_classes)):
        table[raw] = index
    return table[values]


# ---- ground truth as predictions


def cityscapes_truth(root: Path) -> Iterator[Named]:
    """Pixels of a group (a thing class without a number) are void: official programs ignore them, whatever is there."""
    for path in sorted((root / "gtFine" / "val").glob("*/*_gtFine_instanceIds.png")):
        ids = read_label(path).values.astype(np.int64)
        is_thing = ids >= 1000
        classes = classes_of(np.where(is_thing, ids // 1000, ids), cityscapes.CITYSCAPES)
        is_group = ~is_thing & np.isin(classes, cityscapes.CITYSCAPES.things)
        numbers = np.where(is_thing & (classes != VOID), ids % 1000 + 1, 0)
        name = path.name.replace("gtFine_instanceIds", "leftImg8bit")
        yield Path(name), prediction_of(np.where(is_group, VOID, classes), numbers, cityscapes.CITYSCAPES)


def cityscapes_pixels(root: Path) -> Iterator[Named]:
    for path in sorted((root / "gtFine" / "val").glob("*/*_gtFine_labelIds.png")):
        classes = classes_of(read_label(path).values.astype(np.int64), cityscapes.CITYSCAPES)
        yield (
            Path(path.name.replace("gtFine_labelIds", "leftImg8bit")),
            prediction_of(classes, None, cityscapes.CITYSCAPES),
        )


def coco_truth(root: Path) -> Iterator[Named]:
    space = coco_panoptic.COCO_PANOPTIC
    index_of = dict(space.raw_ids)
    for annotation in json.loads((root / "panoptic_examples.json").read_text())["annotations"]:
        ids = read_label(root / "panoptic_examples" / annotation["file_name"]).values
        classes, numbers = np.zeros(ids.shape, np.int64), np.zeros(ids.shape, np.int64)
        things = 0
        for segment in annotation["segments_info"]:
            index, own = index_of[segment["category_id"]], ids == segment["id"]
            if not segment["iscrowd"]:
                things += index in space.things
                classes[own], numbers[own] = index, things * (index in space.things)
        yield Path(annotation["file_name"]), prediction_of(classes, numbers, space)


def voc_truth(root: Path) -> Iterator[Named]:
    """Void is background: a server takes no void."""
    for path in sorted((root / "SegmentationClass").glob("*.png")):
        values = read_label(path).values.astype(np.int64)
        yield Path(path.name), prediction_of(np.where(values == VOID, 0, values), None, voc.VOC)


def ade20k_truth(root: Path) -> Iterator[Named]:
    for path in sorted((root / "annotations").glob("*.png")):
        values = read_label(path).values.astype(np.int64)
        yield Path(path.name), prediction_of(classes_of(values, ade20k.ADE20K), None, ade20k.ADE20K)


# ---- official programs

CITYSCAPES = """
import glob, json, sys
from cityscapesscripts.evaluation import eval{0}LevelSemanticLabeling as program
truth = sorted(glob.glob(sys.argv[1] + "/gtFine/val/*/*_gtFine_{1}Ids.png"))
program.args.predictionPath, program.args.quiet, program.args.JSONOutput = sys.argv[2], True, False
program.args.gtInstancesFile = sys.argv[3] + "/gtInstances.json"
predictions = [program.getPrediction({2}) for path in truth]
"""
PIXEL = (
    CITYSCAPES.format("Pixel", "label", "program.args, path")
    + """
result = program.evaluateImgLists(predictions, truth, program.args)
print("RESULT", result["averageScoreClasses"])
"""
)
INSTANCE = (
    CITYSCAPES.format("Instance", "instance", "path, program.args")
    + """
result = program.evaluateImgLists(predictions, truth, program.args)
print("RESULT", result["averages"]["allAp"])
"""
)
CITYSCAPES_PANOPTIC = """
import sys
from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
root, written, place = sys.argv[1:]
convert2panoptic(root + "/gtFine", place, setNames=["val"])
name = "/cityscapes_panoptic_val"
truth, own = place + name, written + name
result = evaluatePanoptic(truth + ".json", truth, own + ".json", own, place + "/result.json")
print("RESULT", result["All"]["pq"])
"""
COCO_PANOPTIC = """
import sys
from panopticapi.evaluation import pq_compute
name = sys.argv[1] + "/panoptic_examples"
result = pq_compute(name + ".json", sys.argv[2] + "/panoptic_val2017_atrous_results.json", name)
print("RESULT", result["All"]["pq"])
"""
COCO_INSTANCES = """
import json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO(sys.argv[1] + "/panoptic_coco_detection_format.json")
categories = json.load(open(sys.argv[1] + "/panoptic_examples.json"))["categories"]
things = {category["id"] for category in categories if category["isthing"]}
rows = [row for row in truth.dataset["annotations"] if row["category_id"] in things]
for number, row in enumerate(rows, 1):
    row["id"] = number  # pycocotools takes the number 0 for no match
truth.dataset["annotations"] = rows
truth.createIndex()
result = COCOeval(truth, truth.loadRes(sys.argv[2] + "/detections_val2017_atrous_results.json"), "segm")
result.evaluate(); result.accumulate(); result.summarize()
print("RESULT", result.stats[0])
"""

CHECKS: Mapping[str, tuple[str, Callable[[Path], Iterator[Named]], str, dict[str, str]]] = {
    "cityscapes_pixel": ("cityscapes", cityscapes_pixels, PIXEL, {}),
    "cityscapes_instance": ("cityscapes", cityscapes_truth, INSTANCE, {}),
    "cityscapes_panoptic": ("cityscapes", cityscapes_truth, CITYSCAPES_PANOPTIC, {"split": "val"}),
    "coco_panoptic": ("coco_panoptic_samples", coco_truth, COCO_PANOPTIC, {"split": "val2017"}),
    "coco_instances": ("coco_panoptic_samples", coco_truth, COCO_INSTANCES, {"split": "val2017"}),
}


def official_score(name: str, data: Path, python: str, panopticapi: Path) -> float:
    folder, truth, program, settings = CHECKS[name]
    with tempfile.TemporaryDirectory() as place:
        write_official(truth(data / folder), name, place, **settings)
        call = [python, "-c", program, str(data / folder), f"{place}/{name}", place]
        environment = {**os.environ, "PYTHONPATH": str(panopticapi)}
        answer = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    results = [line for line in answer.stdout.splitlines() if line.startswith("RESULT ")]
    if answer.returncode or not results:
        raise SystemExit(f"{name}: {answer.stdout}\n{answer.stderr}")
    return float(results[0].removeprefix("RESULT "))


# ---- files without a program


def equal_pixels(name: str, data: Path, count: int | None = None) -> float:
    """The share of labelled pixels that the written files, of `count` images, have as the official labels have them."""
    root, truth, labels, files = {
        "voc": (data / "VOCdevkit" / "VOC2012", voc_truth, "SegmentationClass", "results/VOC2012/Segmentation/*"),
        "ade20k": (data / "ade20k_samples", ade20k_truth, "annotations", "."),
    }[name]
    with tempfile.TemporaryDirectory() as place:
        write_official(itertools.islice(truth(root), count), name, place)
        (folder,) = Path(place, name).glob(files) if files != "." else [Path(place, name)]
        pairs = [
            (read_label(path).values, read_label(root / labels / path.name).values) for path in folder.glob("*.png")
        ]
    is_labelled = [true != (VOID if name == "voc" else 0) for _, true in pairs]
    right = sum(int((one == true)[own].sum()) for (one, true), own in zip(pairs, is_labelled, strict=True))
    return right / sum(int(own.sum()) for own in is_labelled)


def main() -> None:
    names = [*CHECKS, "voc", "ade20k"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--python", required=True)
    parser.add_argument("--panopticapi", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="FORMAT")
    options = parser.parse_args()
    for name, (folder, *_) in CHECKS.items():
        if (options.data / folder).is_dir() and name in options.only:
            print(f"{name}: {official_score(name, options.data, options.python, options.panopticapi):.6f}")
    for name, folder in {"voc": "VOCdevkit", "ade20k": "ade20k_samples"}.items():
        if (options.data / folder).is_dir() and name in options.only:
            print(f"{name}: {equal_pixels(name, options.data):.6f}")


if __name__ == "__main__":
    main()
