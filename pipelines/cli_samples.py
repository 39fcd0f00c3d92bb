"""The verbs about labelled images of one's own."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from expunge.settings import Workspace
from pipelines.output import AsJson, finish, out

samples_app = typer.Typer(no_args_is_help=True, help="Labelled images of your own.")


@samples_app.command("import")
def samples_import(
    name: Annotated[str, typer.Argument(help="What the set is to be called; requests say samples://NAME.")],
    path: Annotated[Path, typer.Argument(help="A folder with a subfolder per class, a .csv, .jsonl or .parquet file, "
                                              "or an …-images-idx3-ubyte[.gz] file.")],
    size: Annotated[int | None, typer.Option(min=1, max=4096, help="Resize to SIZE×SIZE pixels.")] = None,
    channels: Annotated[int | None, typer.Option(help="Convert: 1 to grey, 3 to RGB.")] = None,
    bits: Annotated[int | None, typer.Option(min=1, max=8, help="Keep the upper BITS of a pixel's eight: as deep as "
                                                                "the images that a flow was trained on.")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring labelled images into the workspace, encrypted; what cannot be used is left out and listed."""
    from pipelines.importing import bring, describe_import, show_import

    done = bring(Workspace.locate().require(), name, path, size, channels, bits, out(as_json))
    finish(describe_import(done), as_json, lambda console: show_import(console, done))


@samples_app.command("list")
def samples_list(as_json: AsJson = False) -> None:
    """List the sets that were imported."""
    from pipelines.importing import all_sets, describe, show_sets

    records = all_sets(Workspace.locate().require())
    finish([describe(record) for record in records], as_json, lambda console: show_sets(console, records))


@samples_app.command("train-oracle")
def samples_train_oracle(
    images: Annotated[str, typer.Argument(help="Labelled images: samples://NAME, or whatever can be imported.")],
    oracle: Annotated[Path, typer.Option(help="Where the oracle goes; its card goes beside it.")] = Path(
        "oracle.safetensors"),
    judge: Annotated[Path, typer.Option(help="Where the judge goes; its card goes beside it.")] = Path(
        "judge.safetensors"),
    holdout: Annotated[Path | None, typer.Option(help="Where the held-out images go, as a .parquet file.")] = None,
    architecture: Annotated[Literal["lenet", "resnet"], typer.Option(help="Of the oracle; the judge gets the "
                                                                          "other.")] = "lenet",
    epochs: Annotated[int | None, typer.Option(min=1, max=1000, help="At most so many; by default as many as make "
                                                                     "about 2,000 updates.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the division and the training.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads; part of what makes it repeatable.")] = 2,
    force: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train an oracle and a judge on labelled images, and measure both on images that neither has seen."""
    from pipelines import training

    wanted = training.Wanted(images, oracle, judge, holdout, architecture, epochs, seed, threads, force)
    cards = training.train_oracle_and_judge(wanted, Workspace.locate(), out(as_json))
    finish(training.as_json(wanted, cards), as_json, lambda console: training.show(console, wanted, cards))
