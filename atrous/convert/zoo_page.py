"""docs/model_zoo.md, written from the zoo's table: `python -m atrous.convert.zoo_page > docs/model_zoo.md`."""

from atrous.convert.zoo import BASE_URL, MODELS, Figure, Option, ZooModel

TITLES = {
    "pascal_voc_seg": "PASCAL VOC 2012: 21 classes",
    "cityscapes": "Cityscapes: 19 classes",
    "ade20k": "ADE20K: 151 classes, the first of them 'other'",
    "imagenet": "To start a training from: ImageNet",
    "coco": "To start a training from: COCO",
}
OPENING = f"""\
# The model zoo of TensorFlow DeepLab

Made from the table in `atrous/convert/zoo.py`, by `python -m atrous.convert.zoo_page > docs/model_zoo.md`; a test keeps
the two alike. One command makes a model of ours from each name in the first column; the second is what it is for:

```
atrous convert zoo:NAME --out NAME.safetensors
atrous predict NAME.safetensors photos/ --out predicted
```

**The figures are the published ones**, got by the original program; none was measured here. **None of these archives
has been tried here**: our machines have no way to that address. What is tested is that our networks give the
original's logits for weights made by a formula ([parity](parity.md)).

A converted model has the output stride of its first row and looks once; the rest of a protocol are settings:

```
atrous evaluate NAME.safetensors data.format=voc data.root=VOCdevkit \\
    evaluate.output_stride=8 evaluate.scales=0.5,0.75,1,1.25,1.5,1.75 evaluate.flip=true
```

The weights at the end of this page, of ImageNet and COCO, are there to begin a training with:

```
atrous convert zoo:xception_65_imagenet --out xception_65.safetensors
atrous train RECIPE model.backbone=xception_65 train.init=xception_65.safetensors train.reuse=backbone
```

mIoU and pixel accuracy are in percent, multiply-adds in billions an image; seconds an image are those of a CPU (E5-1650
v3, 3.5 GHz). The frozen graphs in the archives are made for output stride 8 and one scale; the checkpoints are for any.

## Where the archives come from, and how you know that they are the right ones

- The address is `{BASE_URL}ARCHIVE.tar.gz`; they are kept in `~/.cache/atrous`.
  `ATROUS_ZOO` is the address of a mirror, `ATROUS_CACHE` another folder. On a machine without network, put the archive
  into that folder by hand.
- The address is http, not https, and no hashes were published: nobody can verify the first download. Its SHA-256 is
  printed, and remembered in a JSON beside the archive; other bytes under the same name are refused from then on.
  Compare what is printed with what others got.
- After a break, the same command goes on where the connection ended.
- Nothing in an archive is run or unpickled.

## Licence

The original's code is under Apache-2.0. The page that published these weights names no licence for them; if there are
terms in an archive, they hold. The images that they learnt from have terms of their own (those of ImageNet and
Cityscapes allow non-commercial use), and whether these reach the weights is for you to find out. Atrous ships none.
"""
CLOSING = """\
## What there is none of

The original released no segmentation weights of its ResNets, none of its searched networks (Auto-DeepLab, PNASNet), and
none with panoptic heads. For MobileNetV2's initial weights it points to TF-slim.
"""


def page() -> str:
    """The text of docs/model_zoo.md."""
    return "\n".join([OPENING, *(_section(dataset) for dataset in TITLES), CLOSING])


def _section(dataset: str) -> str:
    models = [model for model in MODELS if model.dataset == dataset]
    figures = [_figure_row(model, figure) for model in models for figure in model.figures]
    flags = "\n".join(f"{model.name}:\n    {flag_line(model)}" for model in models)
    parts = [
        f"## {TITLES[dataset]}",
        *([_table(FIGURE_HEAD, figures)] if figures else []),
        _table(ARCHIVE_HEAD, [_archive_row(model) for model in models]),
        f"Their flags in the original's programs, which `zoo:NAME` knows:\n\n```\n{flags}\n```\n",
    ]
    return "\n\n".join(parts)


def flag_line(model: ZooModel) -> str:
    """The options as they are given to the original's programs."""
    return " ".join(f"--{name}={_flag_value(value)}" for name, value in model.options.items())


def _flag_value(value: Option) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


FIGURE_HEAD = (
    "model",
    "output stride:",
    "scales",
    "mirrored",
    "split",
    "mIoU:",
    "pixel accuracy:",
    "multiply-adds:",
    "seconds:",
)
ARCHIVE_HEAD = ("model", "archive", "MB:", "trained on", "note")


def _figure_row(model: ZooModel, figure: Figure) -> list[str]:
    scales = ",".join(f"{scale:g}" for scale in figure.scales)
    flip = "yes" if figure.flip else "no"
    costs = (figure.pixel_accuracy, figure.multiply_adds, figure.seconds)
    head = [f"`{model.name}`", str(figure.output_stride), scales, flip, figure.split, f"{figure.miou:.2f}"]
    return [*head, *map(_number, costs)]


def _archive_row(model: ZooModel) -> list[str]:
    trained_on = ", ".join(model.trained_on)
    return [f"`{model.name}`", f"`{model.archive}`", _number(model.megabytes), trained_on, model.note]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table; columns whose title ends in a colon are of numbers."""
    rule = ["--:" if title.endswith(":") else "---" for title in head]
    return "\n".join(f"| {' | '.join(row)} |" for row in ([title.rstrip(":") for title in head], rule, *rows))


if __name__ == "__main__":
    print(page(), end="")
