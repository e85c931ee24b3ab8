"""`atrous predict`: masks and overlays of images, whatever their size, or what a benchmark's server takes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from atrous import big_images, segmenter, terminal
from atrous import config as configs
from atrous.big_images import Choice
from atrous.files import user_path
from atrous.predicting.all_images import Summary, predict_images
from atrous.predicting.arguments import with_settings
from atrous.predicting.entries import receive_entry, write_entry
from atrous.predicting.images import find_images, notes, require_own_names
from atrous.predicting.job import ALONE, AUTO, Job, Wanted
from atrous.predicting.one_image import write_own, write_results
from atrous.predicting.output import prepare_results
from atrous.predicting.place import place_of, settled
from atrous.predicting.predictors import maker_of
from atrous.prediction_log import Log
from atrous.progress import say as say_line
from atrous.runtimes.contract import Speed
from atrous.submissions import drafts, image_ids


def run(
    path: Path,
    sources: Sequence[str],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    overlays: bool = True,
    probabilities: bool = False,
    legend: bool = False,
    big: Choice | None = None,
    device: str | None = None,
    engine: str = "local",
    address: str | None = None,
    speed: Speed = AUTO,
    runtime: str | None = None,
    console: Console | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Summary:
    """Write the results of each image, such as `masks/NAME.png`, and overlays and probabilities on request.

    `say` is called with a line for each image that fails, at once; the others are predicted. Images whose results are
    there already, by the same model in the same way, are left as they are. `engine` is a row of ENGINES, and `address`
    that of its machines. `big` says which images are predicted a few rows at a time; None: those that are large.
    `runtime` is as in `segmenter.load`.
    """
    console, place, big = console or terminal.console(), place_of(engine, device, address), big or Choice()
    path, out = place.file(user_path(path), runtime), place.folder(out)
    wanted = Wanted(overlays, probabilities, legend)
    model = segmenter.load(path, runtime=place.opener(path, runtime))
    if runtime is not None:
        say_line(f"computed by {model.runtime}", console)
    found = find_images(sources, with_shards=True)
    require_own_names(found.images)
    model = place.of(with_settings(model, overrides, str(path)), speed)
    big_images.require(model, big, probabilities=probabilities)
    folders = tuple(wanted.folders(model.task))
    prepare_results(out, found.images, path, model, folders)
    model = settled(model, found.images, console, big)
    log = Log(out, maker_of(path, model, legend=legend, big=big))
    for note in notes(found):
        console.print(note, soft_wrap=True)
    write, speed = partial(write_own, log, wanted), speed._replace(precision=model.precision)
    job = Job(path.absolute(), tuple(overrides), wanted, write, log, folders, big, speed)
    return predict_images(found, job, model, place, console, say)


def submit(
    path: Path,
    sources: Sequence[str],
    out: Path,
    name: str,
    overrides: Sequence[str] = (),
    *,
    images_json: Path | None = None,
    wanted: Wanted = ALONE,
    device: str | None = None,
    engine: str = "local",
    address: str | None = None,
    speed: Speed = AUTO,
    console: Console | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Summary:
    """Write the archive that the server of a benchmark takes, and its files: see `atrous.submissions`.

    `name` is a row of SUBMISSIONS, `images_json` the benchmark's list of images; all else is as in `run`.
    """
    console, place = console or terminal.console(), place_of(engine, device, address)
    path, out = user_path(path), place.folder(out)
    form = drafts.format_named(name)
    image_list = None if images_json is None else image_ids.read_list(user_path(images_json), form)
    own = [text for text in overrides if text.startswith("format.")]
    model = with_settings(segmenter.load(path), [text for text in overrides if text not in own], str(path))
    entry = drafts.entry_of(name, model.task, model.label_space, configs.parse_overrides(own).get("format", {}))
    found = find_images(sources, with_shards=True)
    ids = image_ids.identified((image.path.absolute() for image in found.images), form, image_list)
    model = place.of(model, speed)
    drafts.require_replaceable(out, entry)
    prepare_results(out, found.images, path, model, [name, *wanted.folders(model.task)])
    for note in notes(found):
        console.print(note, soft_wrap=True)
    with drafts.drafted(entry, out) as draft:
        write = partial(write_entry, draft, ids, image_list, partial(write_results, out, wanted))
        settings = tuple(text for text in overrides if text not in own)
        model = settled(model, found.images, console)
        job = Job(path.absolute(), settings, wanted, write, speed=speed._replace(precision=model.precision))
        receive = partial(receive_entry, draft, ids)
        summary = predict_images(found, job, model, place, console, say, receive)
        if not summary.images:
            return summary
        archive = drafts.publish(draft)
    for note in drafts.notes(draft, ids, image_list):
        console.print(note, soft_wrap=True)
    return summary._replace(folders=(archive, *summary.folders), files=(archive, *summary.files))
