"""`atrous demo`: the whole way once, from synthetic scenes to a report."""

from io import BytesIO
from pathlib import Path

import torch
from PIL import Image as PILImage
from rich.console import Console

from atrous import config as configs
from atrous import data, evaluate, predict, run_folder, terminal, train
from atrous.config import Config
from atrous.files import user_path, write_atomically
from atrous.run_folder import RunFolder

RECIPE = "synthetic/demo"
NUM_NEW = 6  # scenes to predict that are in neither split


def run(out: Path, *, device: str | None = None, console: Console | None = None) -> None:
    """Train, evaluate on unseen scenes, predict, report. If `out` already holds a demo, it is resumed."""
    console = console or terminal.console()
    torch.set_num_threads(1)  # the network is so small that a second thread costs more than it gains
    config, out = configs.load(RECIPE), user_path(out)
    folder = RunFolder(out)
    if is_old_demo(folder, config):
        console.print(f"{out} holds a demo with other settings: removing it")
        run_folder.remove(folder)
    console.print("\n== 1 of 3  train a small model on synthetic street scenes")
    train.train(config, out, resume=folder.is_saved, device=device, workers=1, console=console)
    console.print("\n== 2 of 3  evaluate the best model on scenes that it has not seen")
    evaluation = evaluate.run(folder.best, json_path=out / "metrics.json", device=device, workers=1, console=console)
    console.print("\n== 3 of 3  segment new scenes")
    write_new_scenes(config, out / "images")
    predict.run(folder.best, [str(out / "images")], out, device=device, console=console)
    figures = evaluation.figures
    console.print(
        f"\n{figures.describe(figures.headline)} on {len(evaluation.images)} unseen scenes. Look at\n"
        f"  {folder.report}  a verdict, what was trained, every scene, curves\n"
        f"  {out / 'overlays'}  new scenes in the colours of the predicted classes\n"
        f"and then train on images of your own: README.md"
    )


def is_old_demo(folder: RunFolder, config: Config) -> bool:
    """Whether the folder holds a demo with settings other than the current ones; other runs are not ours to remove."""
    if not (folder.is_saved and folder.config.exists()):
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
