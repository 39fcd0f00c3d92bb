"""The verbs about labelled images of one's own."""

import typer

samples_app = typer.Typer(no_args_is_help=True, help="Labelled images of your own.")
