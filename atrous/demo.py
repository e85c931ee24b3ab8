"""`atrous demo`: the whole way once, from synthetic scenes to a report."""

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image as PILImage
from rich.console import Console

from atrous import config as configs
from atrous import data, evaluate, predict, run_folder, terminal, train
from atrous.config import Config
from atrous.files import user_path, write_atomically
from atrous.run_folder import RunFolder

NUM_NEW = 6  # scenes to predict that are in neither split
SCENES = "images"  # the folder of these, which only a demo has


class Demo(NamedTuple):
    """One row of DEMOS."""

    recipe: str
    overlays: str  # what is seen in the pictures of new scenes
    guide: str  # where to read on


DEMOS = {
    "demo": Demo("synthetic/demo", "new scenes in the colours of the predicted classes", "README.md"),
    "panoptic_demo": Demo(
        "synthetic/panoptic_demo",
        "new scenes, each car and each person in a shade of its own",
        "docs/panoptic.md",
    ),
}


def run(
    out: Path | None = None, *, name: str = "demo", device: str | None = None, console: Console | None = None
) -> None:
    """Train, evaluate on unseen scenes, predict, report. If `out` already holds a demo, it is resumed.

    `name` is a row of DEMOS; the folder is `runs/<name>` if `out` is None.
    """
    console = console or terminal.console()
    torch.set_num_threads(1)  # the network is so small that a second thread costs more than it gains
    demo = DEMOS[name]
    config, out = configs.load(demo.recipe), user_path(out or Path("runs", name))
    folder = RunFolder(out)
    if is_old_demo(folder, config):
        console.print(f"{out} holds a demo with other settings: removing it")
        run_folder.remove(folder)
    if not folder.is_saved:
        (out / SCENES).mkdir(parents=True, exist_ok=True)  # now: an interrupted demo must be known as one
    console.print("\n== 1 of 3  train a small model on synthetic street scenes")
    train.train(config, out, resume=folder.is_saved, device=device, workers=1, console=console)
    console.print("\n== 2 of 3  evaluate the best model on scenes that it has not seen")
    evaluation = evaluate.run(folder.best, json_path=out / "metrics.json", device=device, workers=1, console=console)
    console.print("\n== 3 of 3  segment new scenes")
    write_new_scenes(config, out / SCENES)
    predict.run(folder.best, [str(out / SCENES)], out, device=device, console=console)
    figures = evaluation.figures
    console.print(
        f"\n{figures.describe(figures.headline)} on {len(evaluation.images)} unseen scenes. Look at\n"
        f"  {folder.report}  a verdict, what was trained, every scene, curves\n"
        f"  {out / 'overlays'}  {demo.overlays}\n"
        f"and then train on images of your own: {demo.guide}"
    )


def is_old_demo(folder: RunFolder, config: Config) -> bool:
    """Whether the folder holds a demo with settings other than the current ones; other runs are not ours to remove."""
    if not (folder.is_saved and folder.config.exists() and (folder.path / SCENES).is_dir()):
        return False
    stored = configs.read_tree(str(folder.config))
    return stored.get("data", {}).get("format") == config.data.format and stored != configs.to_tree(config)


def write_new_scenes(config: Config, folder: Path) -> None:
    """Write scenes from beyond the end of the validation split."""
    first = len(data.samples(config.data, config.data.val))
    more = config.data.model_copy(update={"num_val": first + NUM_NEW})
    samples = data.samples(more, more.val)
    for index in range(first, first + NUM_NEW):
        buffer = BytesIO()
        PILImage.fromarray(samples[index].image).save(buffer, "PNG")
        write_atomically(folder / f"{samples[index].name}.png", buffer.getvalue())
