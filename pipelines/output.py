"""How every verb answers: words for people, or one JSON object for machines."""

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def out(as_json: bool) -> Console:
    """Where words for people go: never to standard output when a machine reads that."""
    return Console(stderr=as_json, soft_wrap=True)


def finish(found: Any, as_json: bool, say: Callable[[Console], None], exit_code: int = 0) -> None:
    """Ends a verb: prints what was found, in the form that was asked for, and gives the exit code."""
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        say(out(False))
    if exit_code:
        raise typer.Exit(exit_code)


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Prints lines as they are: nothing in them is markup, nothing is coloured."""
    for line in lines:
        console.print(line, highlight=False, markup=False)
