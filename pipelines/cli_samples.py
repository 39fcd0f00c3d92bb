"""The verbs about labelled images of one's own."""

from pathlib import Path
from typing import Annotated

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
    as_json: AsJson = False,
) -> None:
    """Bring labelled images into the workspace, encrypted; what cannot be used is left out and listed."""
    from pipelines.importing import bring, describe_import, show_import

    done = bring(Workspace.locate().require(), name, path, size, channels, out(as_json))
    finish(describe_import(done), as_json, lambda console: show_import(console, done))


@samples_app.command("list")
def samples_list(as_json: AsJson = False) -> None:
    """List the sets that were imported."""
    from pipelines.importing import all_sets, describe, show_sets

    records = all_sets(Workspace.locate().require())
    finish([describe(record) for record in records], as_json, lambda console: show_sets(console, records))
