"""docs/model_zoo.md, written from the zoo's table: `python -m atrous.convert.zoo_page > docs/model_zoo.md`."""

from atrous.convert.zoo import BASE_URL, MODELS, SLIM_URL, Option, Result, ZooModel

TITLES = {
    "pascal_voc_seg": "PASCAL VOC 2012: 21 classes",
    "cityscapes": "Cityscapes: 19 classes",
    "ade20k": "ADE20K: 151 classes, the first of them 'other'",
    "imagenet": "To initialise a training: ImageNet",
    "coco": "To initialise a training: COCO",
}
OPENING = f"""\
# The model zoo of TensorFlow DeepLab

Generated from the table in `atrous/convert/zoo.py` by `python -m atrous.convert.zoo_page > docs/model_zoo.md`; a test
compares the two. One command converts a model by its name in the first column, another one predicts with it:

```
atrous convert zoo:NAME --out NAME.safetensors
atrous predict NAME.safetensors photos/ --out predicted
```

**The results are the published ones** of the original program; none was measured here. **No archive has been tried
here**: our machines can't reach that address. What is tested is that our networks give the original's logits for
weights from a formula ([parity](parity.md)).

A converted model has the output stride of its first result and predicts in one pass; the rest of a protocol are
settings:

```
atrous evaluate NAME.safetensors data.format=voc data.root=VOCdevkit \\
    evaluate.output_stride=8 evaluate.scales=0.5,0.75,1,1.25,1.5,1.75 evaluate.flip=true
```

The weights at the end of this page, trained on ImageNet and COCO, are meant to initialise a training. Those for
ImageNet need one word, which finds the row of the backbone; for others, `train.init` names the row:

```
atrous train RECIPE model.backbone=xception_65 model.pretrained=imagenet
atrous train RECIPE model.backbone=xception_65 train.init=zoo:xception_65_imagenet_coco train.reuse=backbone
```

mIoU and pixel accuracy are in percent, multiply-adds in billions per image, times in seconds per image on a CPU
(E5-1650 v3, 3.5 GHz). The frozen graphs in the archives have output stride 8 and one scale; the checkpoints work with
any.

## Where the archives come from, and how to verify them

- The address is `{BASE_URL}ARCHIVE.tar.gz`, for TF-slim's MobileNetV2 `{SLIM_URL}ARCHIVE.tgz`;
  archives are cached in `~/.cache/atrous`.
  `ATROUS_ZOO` sets the address of a mirror, `ATROUS_CACHE` another folder. On a machine without a network, put the
  archive into that folder by hand.
- The first address is http, not https, and no hashes were published, so nobody can verify the first download. Its
  SHA-256 is printed, and recorded in a JSON file next to the archive; from then on, other bytes under the same name are
  refused. Compare the printed hash with what others got.
- After an interruption, the same command resumes the download.
- Nothing in an archive is run or unpickled.

## Licence

The original's code is under Apache-2.0. The page that published these weights names no licence for them; terms inside
an archive, if any, apply. The images on which they were trained have their own terms (ImageNet and Cityscapes allow
non-commercial use), and it is for you to find out whether these extend to the weights. Atrous ships none of them.
"""
CLOSING = """\
## What was not released

The original released no segmentation weights of its ResNets, none of its searched networks (Auto-DeepLab, PNASNet), and
none with panoptic heads. For MobileNetV2's initial weights it refers to TF-slim, whose archives are above; of its
MobileNetV3 for segmentation, whose last stage is halved, no weights for ImageNet were released.
"""


def page() -> str:
    """The text of docs/model_zoo.md."""
    return "\n".join([OPENING, *(_section(dataset) for dataset in TITLES), CLOSING])


def _section(dataset: str) -> str:
    models = [model for model in MODELS if model.dataset == dataset]
    results = [_result_row(model, result) for model in models for result in model.results]
    flags = "\n".join(f"{model.name}:\n    {flag_line(model)}" for model in models)
    parts = [
        f"## {TITLES[dataset]}",
        *([_table(RESULT_HEAD, results)] if results else []),
        _table(ARCHIVE_HEAD, [_archive_row(model) for model in models]),
        f"Their flags in the original's programs, which `zoo:NAME` sets:\n\n```\n{flags}\n```\n",
    ]
    return "\n\n".join(parts)


def flag_line(model: ZooModel) -> str:
    """The options on the command line of the original's programs."""
    return " ".join(f"--{name}={_flag_value(value)}" for name, value in model.options.items())


def _flag_value(value: Option) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


RESULT_HEAD = (
    "model",
    "output stride:",
    "scales",
    "flipped",
    "split",
    "mIoU:",
    "pixel accuracy:",
    "multiply-adds:",
    "seconds:",
)
ARCHIVE_HEAD = ("model", "archive", "MB:", "trained on", "note")


def _result_row(model: ZooModel, result: Result) -> list[str]:
    scales = ",".join(f"{scale:g}" for scale in result.scales)
    flip = "yes" if result.flip else "no"
    costs = (result.pixel_accuracy, result.multiply_adds, result.seconds)
    head = [f"`{model.name}`", str(result.output_stride), scales, flip, result.split, f"{result.miou:.2f}"]
    return [*head, *map(_number, costs)]


def _archive_row(model: ZooModel) -> list[str]:
    trained_on = ", ".join(model.trained_on)
    return [f"`{model.name}`", f"`{model.archive}`", _number(model.megabytes), trained_on, model.note]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table; a title that ends in a colon is that of a column of numbers."""
    rule = ["--:" if title.endswith(":") else "---" for title in head]
    return "\n".join(f"| {' | '.join(row)} |" for row in ([title.rstrip(":") for title in head], rule, *rows))


if __name__ == "__main__":
    print(page(), end="")
