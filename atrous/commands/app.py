"""The program's verbs: each is a file here, which imports what does the work only when it runs."""

from typing import Annotated

import typer

from atrous import __version__
from atrous.commands import bench, check, convert, demo, evaluate, export, pack, plan, predict, recipes, train

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"atrous {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main_options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """From labelled images to a segmentation model.

    \b
    atrous demo                                              everything once, on synthetic scenes
    atrous check MYDATA                                      what is wrong with images and labels
    atrous plan folder/deeplab_v3plus data.root=MYDATA       what fits the memory, and how fast it is
    atrous train folder/deeplab_v3plus data.root=MYDATA --out runs/mine
    atrous evaluate runs/mine                                scores of the best model
    atrous predict runs/mine photos/ --out predicted         masks and overlays

    What belongs to the experiment is a setting, section.field=value: train.steps=1000. What belongs to this call is
    an option: --device cpu.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# In the order of `atrous --help`.
app.command(short_help="train, evaluate and predict once, on synthetic scenes")(demo.demo)
app.command(short_help="train a model")(train.train)
app.command(short_help="what fits the memory, and how fast it is")(plan.plan)
app.command(short_help="find what is wrong with images and labels, and mend it")(check.check)
app.command(short_help="measure a model on labelled images")(evaluate.evaluate)
app.command(short_help="segment images: masks and overlays")(predict.predict)
app.command(short_help="measure how fast a model predicts, and what memory that takes")(bench.bench)
app.command(
    context_settings={"ignore_unknown_options": True},  # --output_stride=8, as the original programs write it
    short_help="convert a model of another program",
)(convert.convert)
app.command(short_help="write a model as a file for other programs")(export.export)
app.command(short_help="pack a dataset into a few large files")(pack.pack)
app.command(short_help="list the recipes, or print one")(recipes.recipes)
