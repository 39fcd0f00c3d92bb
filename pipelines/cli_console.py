"""The verb that opens the reviewer's web page."""

import json
from typing import Annotated

import typer

from expunge.settings import Workspace
from pipelines.output import AsJson


def console(
    host: Annotated[str, typer.Option(
        help="Where to listen. Others are let in only if config.yaml says how.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    person: Annotated[str | None, typer.Option("--as", metavar="PERSON", help="Who sits at this machine.")] = None,
    as_json: AsJson = False,
) -> None:
    """Open the reviewer's web page: the queue, each run's evidence, signing in the browser, the audit trail."""
    from expunge.console.serving import serve
    from pipelines.metrics import in_text

    workspace = Workspace.locate().require()

    def say(address: str, link: str | None) -> None:
        line = link or f"listening for {address}"
        print(json.dumps({"address": address, "link": link}) if as_json else line, flush=True)

    serve(workspace, host, port, lambda: in_text(workspace), say, person)
