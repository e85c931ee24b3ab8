"""Released models: those of TensorFlow DeepLab with their published results and flags, and weights for ImageNet."""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from atrous.convert.download import download, forget
from atrous.errors import ConfigError, ConversionError
from atrous.files import cache_folder as cache_folder

BASE_URL = "http://download.tensorflow.org/models/"  # as published; https may not exist
TORCHVISION_URL = "https://download.pytorch.org/models/"
SLIM_URL = "https://storage.googleapis.com/mobilenet_v2/checkpoints/"  # TF-slim's MobileNetV2

Option = bool | float | str | tuple[int, ...]


class Result(NamedTuple):
    """A published result with its protocol: whole images, one pass for each scale, and another one if flipped."""

    miou: float  # percent
    output_stride: int
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    split: str = "val"
    pixel_accuracy: float | None = None  # percent
    multiply_adds: float | None = None  # billions
    seconds: float | None = None  # per image, on a CPU E5-1650 v3 at 3.5 GHz unless the model's note says otherwise


class ZooModel(NamedTuple):
    """One archive. `options` are the flags that its weights don't show, for the first result."""

    name: str
    archive: str  # the file's name, without its suffix
    megabytes: float | None  # as published
    dataset: str
    trained_on: tuple[str, ...]
    options: dict[str, Option]
    results: tuple[Result, ...] = ()
    note: str = ""
    base_url: str = BASE_URL
    suffix: str = ".tar.gz"
    system: str = "tf_deeplab"  # a row of SYSTEMS
    sha256: str = ""  # how that of the file begins, where its name says it

    @property
    def file(self) -> str:
        return f"{self.archive}{self.suffix}"


TO_1_25 = (0.75, 1.0, 1.25)
TO_1_75 = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
TO_2 = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)

VOC: dict[str, Option] = {"dataset": "pascal_voc_seg", "crop_size": (513, 513)}
CITYSCAPES: dict[str, Option] = {"dataset": "cityscapes", "crop_size": (1025, 2049)}
ADE20K: dict[str, Option] = {"dataset": "ade20k"}
IMAGENET: dict[str, Option] = {"dataset": "imagenet"}

MOBILENET_V2: dict[str, Option] = {"model_variant": "mobilenet_v2", "output_stride": 16}
EDGE_TPU: dict[str, Option] = {"model_variant": "mobilenet_edgetpu", "output_stride": 32}
XCEPTION_65: dict[str, Option] = {
    "model_variant": "xception_65",
    "output_stride": 16,
    "atrous_rates": (6, 12, 18),
    "decoder_output_stride": (4,),
}
XCEPTION_65_STRIDE_8: dict[str, Option] = {**XCEPTION_65, "output_stride": 8, "atrous_rates": (12, 24, 36)}
XCEPTION_71_DPC: dict[str, Option] = {
    "model_variant": "xception_71",
    "output_stride": 16,
    "decoder_output_stride": (4,),
}
LR_ASPP: dict[str, Option] = {
    "output_stride": 32,
    "image_pooling_crop_size": (769, 769),
    "image_pooling_stride": (4, 5),
    "add_image_level_feature": True,
    "aspp_convs_filters": 128,
    "aspp_with_concat_projection": False,
    "aspp_with_squeeze_and_excitation": True,
    "image_se_uses_qsigmoid": True,
    "decoder_output_stride": (8,),
    "decoder_use_sum_merge": True,
    "decoder_filters": 19,
    "decoder_output_is_logits": True,
}
BETA_GRID: dict[str, Option] = {"multi_grid": (1, 2, 4)}

EIGHT_BIT = "trained with rounding to 8 bits, which the result includes; converted, its weights are floats"
SIMULATED = "seconds: on a simulated Edge TPU of a Pixel 4"
LEAKED = "trained on the images of val: a score on them means nothing"

TORCHVISION = (  # its IMAGENET1K_V1: network, how the file's SHA-256 begins, megabytes
    ("resnet18", "f37072fd", 45),
    ("resnet34", "b627a593", 83),
    ("resnet50", "0676ba61", 98),
    ("resnet101", "63fe2227", 171),
    ("resnet152", "394f9c45", 230),
)
MODELS: tuple[ZooModel, ...] = (
    ZooModel(
        "mobilenetv2_dm05_coco_voc_trainaug",
        "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01",
        7.6,
        "pascal_voc_seg",
        ("ImageNet", "COCO", "train_aug"),
        {**VOC, **MOBILENET_V2, "depth_multiplier": 0.5},
        (Result(70.19, 16, multiply_adds=0.88),),
    ),
    ZooModel(
        "mobilenetv2_dm05_coco_voc_trainval",
        "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01",
        7.6,
        "pascal_voc_seg",
        ("ImageNet", "COCO", "train_aug", "trainval"),
        {**VOC, **MOBILENET_V2, "output_stride": 8, "depth_multiplier": 0.5},
        (Result(71.83, 8, split="test", multiply_adds=2.84),),
        LEAKED,
    ),
    ZooModel(
        "mobilenetv2_coco_voc_trainaug",
        "deeplabv3_mnv2_pascal_train_aug_2018_01_29",
        23,
        "pascal_voc_seg",
        ("ImageNet", "COCO", "train_aug"),
        {**VOC, **MOBILENET_V2},
        (
            Result(75.32, 16, multiply_adds=2.75, seconds=0.1),
            Result(77.33, 8, TO_1_75, flip=True, multiply_adds=152.59, seconds=26.9),
        ),
    ),
    ZooModel(
        "mobilenetv2_coco_voc_trainval",
        "deeplabv3_mnv2_pascal_trainval_2018_01_29",
        23,
        "pascal_voc_seg",
        ("ImageNet", "COCO", "train_aug", "trainval"),
        {**VOC, **MOBILENET_V2, "output_stride": 8},
        (Result(80.25, 8, TO_1_75, flip=True, split="test", multiply_adds=152.59, seconds=26.9),),
        LEAKED,
    ),
    ZooModel(
        "xception65_coco_voc_trainaug",
        "deeplabv3_pascal_train_aug_2018_01_04",
        439,
        "pascal_voc_seg",
        ("ImageNet", "COCO", "train_aug"),
        {**VOC, **XCEPTION_65},
        (
            Result(82.20, 16, multiply_adds=54.17, seconds=0.7),
            Result(83.58, 8, TO_1_75, flip=True, multiply_adds=3055.35, seconds=223.2),
        ),
    ),
    ZooModel(
        "xception65_coco_voc_trainval",
        "deeplabv3_pascal_trainval_2018_01_04",
        439,
        "pascal_voc_seg",
        ("ImageNet", "COCO", "train_aug", "trainval"),
        {**VOC, **XCEPTION_65_STRIDE_8},
        (Result(87.80, 8, TO_1_75, flip=True, split="test", multiply_adds=3055.35, seconds=223.2),),
        LEAKED,
    ),
    ZooModel(
        "mobilenetv2_dm05_coco_voc_trainaug_8bit",
        "deeplabv3_mnv2_dm05_pascal_train_aug_8bit_2019_04_26",
        8.2,
        "pascal_voc_seg",
        ("ImageNet", "COCO", "train_aug"),
        {**VOC, **MOBILENET_V2, "depth_multiplier": 0.5},
        (Result(69.65, 16, multiply_adds=0.88),),
        f"{EIGHT_BIT}; also holds a .tflite of 751.1 KB",
    ),
    ZooModel(
        "mobilenetv2_coco_voc_trainaug_8bit",
        "deeplabv3_mnv2_pascal_train_aug_8bit_2019_04_26",
        24,
        "pascal_voc_seg",
        ("ImageNet", "COCO", "train_aug"),
        {**VOC, **MOBILENET_V2},
        (Result(74.26, 16, multiply_adds=2.75),),
        f"{EIGHT_BIT}; also holds a .tflite of 2.2 MB",
    ),
    ZooModel(
        "mobilenetv2_coco_cityscapes_trainfine",
        "deeplabv3_mnv2_cityscapes_train_2018_02_05",
        23,
        "cityscapes",
        ("ImageNet", "COCO", "train_fine"),
        {**CITYSCAPES, **MOBILENET_V2},
        (
            Result(70.71, 16, multiply_adds=21.27, seconds=0.8),
            Result(73.57, 8, TO_1_25, flip=True, multiply_adds=433.24, seconds=51.12),
        ),
    ),
    ZooModel(
        "mobilenetv3_large_cityscapes_trainfine",
        "deeplab_mnv3_large_cityscapes_trainfine_2019_11_15",
        17,
        "cityscapes",
        ("train_fine",),
        {**CITYSCAPES, "model_variant": "mobilenet_v3_large_seg", **LR_ASPP},
        (Result(72.41, 32, multiply_adds=15.95, seconds=0.6),),
    ),
    ZooModel(
        "mobilenetv3_small_cityscapes_trainfine",
        "deeplab_mnv3_small_cityscapes_trainfine_2019_11_15",
        5,
        "cityscapes",
        ("train_fine",),
        {**CITYSCAPES, "model_variant": "mobilenet_v3_small_seg", **LR_ASPP},
        (Result(68.99, 32, multiply_adds=4.63, seconds=0.4),),
    ),
    ZooModel(
        "xception65_cityscapes_trainfine",
        "deeplabv3_cityscapes_train_2018_02_06",
        439,
        "cityscapes",
        ("ImageNet", "train_fine"),
        {**CITYSCAPES, **XCEPTION_65},
        (
            Result(78.79, 16, multiply_adds=418.64, seconds=5.0),
            Result(80.42, 8, TO_1_25, flip=True, multiply_adds=8677.92, seconds=422.8),
        ),
    ),
    ZooModel(
        "xception71_dpc_cityscapes_trainfine",
        "deeplab_cityscapes_xception71_trainfine_2018_09_08",
        445,
        "cityscapes",
        ("ImageNet", "COCO", "train_fine"),
        {**CITYSCAPES, **XCEPTION_71_DPC},
        (Result(80.31, 16, multiply_adds=502.07),),
    ),
    ZooModel(
        "xception71_dpc_cityscapes_trainval",
        "deeplab_cityscapes_xception71_trainvalfine_2018_09_08",
        446,
        "cityscapes",
        ("ImageNet", "COCO", "trainval_fine", "coarse"),
        {**CITYSCAPES, **XCEPTION_71_DPC, "output_stride": 8},
        (Result(82.66, 8, TO_2, flip=True, split="test"),),
        LEAKED,
    ),
    ZooModel(
        "EdgeTPU-DeepLab",
        "edgetpu-deeplab_2020_03_09",
        None,
        "cityscapes",
        ("ImageNet", "train_fine"),
        {**CITYSCAPES, **EDGE_TPU, "aspp_convs_filters": 256},
        (
            Result(70.6, 32, multiply_adds=5.6, seconds=0.0138),
            Result(74.1, 16, multiply_adds=7.1, seconds=0.0175),
        ),
        SIMULATED,
    ),
    ZooModel(
        "EdgeTPU-DeepLab-slim",
        "edgetpu-deeplab-slim_2020_03_09",
        None,
        "cityscapes",
        ("ImageNet", "train_fine"),
        {**CITYSCAPES, **EDGE_TPU, "depth_multiplier": 0.75, "aspp_convs_filters": 128},
        (
            Result(70.0, 32, multiply_adds=3.5, seconds=0.0099),
            Result(73.2, 16, multiply_adds=4.3, seconds=0.0132),
        ),
        SIMULATED,
    ),
    ZooModel(
        "mobilenetv2_ade20k_train",
        "deeplabv3_mnv2_ade20k_train_2018_12_03",
        24.8,
        "ade20k",
        ("ImageNet", "train"),
        {**ADE20K, **MOBILENET_V2, "decoder_output_stride": (4,), "crop_size": (257, 257)},
        (Result(32.04, 16, pixel_accuracy=75.41),),
        "images are first resized to a longer side of 257",
    ),
    ZooModel(
        "xception65_ade20k_train",
        "deeplabv3_xception_ade20k_train_2018_05_29",
        439,
        "ade20k",
        ("ImageNet", "train"),
        {**ADE20K, **XCEPTION_65_STRIDE_8, "crop_size": (513, 513)},
        (Result(45.65, 8, TO_1_75, flip=True, pixel_accuracy=82.52),),
        "images are first resized to a longer side of 513",
    ),
    ZooModel(
        "xception_41_imagenet",
        "xception_41_2018_05_09",
        288,
        "imagenet",
        ("ImageNet",),
        {**IMAGENET, "model_variant": "xception_41"},
    ),
    ZooModel(
        "xception_65_imagenet",
        "deeplabv3_xception_2018_01_04",
        447,
        "imagenet",
        ("ImageNet",),
        {**IMAGENET, "model_variant": "xception_65"},
    ),
    ZooModel(
        "xception_65_imagenet_coco",
        "xception_65_coco_pretrained_2018_10_02",
        292,
        "coco",
        ("ImageNet", "COCO"),
        {"model_variant": "xception_65"},
        note="the classes of its head, if it has one, were not published",
    ),
    ZooModel(
        "xception_71_imagenet",
        "xception_71_2018_05_09",
        474,
        "imagenet",
        ("ImageNet",),
        {**IMAGENET, "model_variant": "xception_71"},
    ),
    ZooModel(
        "resnet_v1_50_beta_imagenet",
        "resnet_v1_50_2018_05_04",
        274,
        "imagenet",
        ("ImageNet",),
        {**IMAGENET, "model_variant": "resnet_v1_50_beta", **BETA_GRID},
    ),
    ZooModel(
        "resnet_v1_101_beta_imagenet",
        "resnet_v1_101_2018_05_04",
        477,
        "imagenet",
        ("ImageNet",),
        {**IMAGENET, "model_variant": "resnet_v1_101_beta", **BETA_GRID},
    ),
    *(
        ZooModel(
            f"mobilenet_v2_{width}_imagenet",
            f"mobilenet_v2_{width}_224",
            None,
            "imagenet",
            ("ImageNet",),
            {**IMAGENET, "model_variant": "mobilenet_v2", "depth_multiplier": width, "divisible_by": 8},
            base_url=SLIM_URL,
            suffix=".tgz",
        )
        for width in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
    ),
    *(
        ZooModel(
            f"{network}_imagenet",
            f"{network}-{sha256}",
            megabytes,
            "imagenet",
            ("ImageNet",),
            {"model": network},
            base_url=TORCHVISION_URL,
            suffix=".pth",
            system="torchvision",
            sha256=sha256,
        )
        for network, sha256, megabytes in TORCHVISION
    ),
)
ZOO: dict[str, ZooModel] = {model.name: model for model in MODELS}


# ---- fetching


def fetch(
    name: str, *, cache: Path | None = None, base_url: str | None = None, progress: Console | None = None
) -> Path:
    """The archive of a model, from the cache or from the network; `progress` shows the download.

    ATROUS_ZOO may hold the address of a mirror, ATROUS_CACHE another cache. Raises ConfigError for an unknown name,
    ConversionError for an archive that doesn't match its recorded hash, and OSError as `download` does.
    """
    model = find(name)
    base = base_url or os.environ.get("ATROUS_ZOO") or model.base_url
    path = (cache or cache_folder()) / model.file
    digest = download(f"{base.rstrip('/')}/{path.name}", path, progress)
    if not digest.startswith(model.sha256):
        forget(path)
        raise ConversionError(f"{path}: has SHA-256 {digest}, where {model.sha256}... was published: it was deleted")
    return path


NUM_NEAREST = 6  # of each kind: names that begin so, and similar ones


def find(name: str) -> ZooModel:
    """A model by its name. Raises ConfigError with the nearest names, also to the name of an archive."""
    if name in ZOO:
        return ZOO[name]
    names = {alias.lower(): model.name for model in MODELS for alias in (model.archive, model.name)}
    stem = re.sub(r"\.(tar\.gz|tgz|pth)$", "", name.lower())
    longer = [alias for alias in names if stem and alias.startswith(stem)]
    close = longer[:NUM_NEAREST] + get_close_matches(stem, names, n=NUM_NEAREST, cutoff=0.5)
    nearest = list(dict.fromkeys(names[alias] for alias in close)) or list(ZOO)
    kind = "nearest" if close else "known"
    raise ConfigError(f"no model of the zoo is called {name!r}; {kind}: {', '.join(nearest)}")
