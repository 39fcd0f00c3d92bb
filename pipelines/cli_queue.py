"""The verbs about filed requests: filing one, working them, seeing how far they are, taking one back."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.settings import Workspace
from pipelines.output import AsJson, finish, print_lines
from pipelines.output import out as console

queue_app = typer.Typer(no_args_is_help=True, help="Requests that are filed now and carried out later.")

Filed = Annotated[str, typer.Argument(metavar="REQUEST", help="A filed request: its id, or how its digest begins.")]


@queue_app.command("file")
def queue_file(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", dir_okay=False,
                                            help="The request: a YAML or JSON file.")],
    person: Annotated[str | None, typer.Option("--as", metavar="PERSON", help="Who files it; its requester if nobody "
                                                                              "is named.")] = None,
    again: Annotated[bool, typer.Option(help="File one again that failed, was withdrawn or cancelled.")] = False,
    as_json: AsJson = False,
) -> None:
    """File a request for whoever works the queue next. The same request is filed once."""
    from expunge.contracts import Request, read_record
    from expunge.stores.queue import file_request
    from pipelines.queueing import require_usable

    workspace, asked = Workspace.locate().require(), read_record(Request, request)
    require_usable(workspace, asked, request.parent)
    ticket, begun = file_request(workspace, asked, request.parent, person, again)
    said = "is filed" if begun else f"was filed on {ticket.filed_at[:10]} and is {ticket.stage}"
    finish({**_plain(ticket), "filed_now": begun}, as_json, lambda out: print_lines(
        out, [f"{ticket.request_id} {said}: {ticket.request_sha256[:12]}"]))


@queue_app.command("list")
def queue_list(
    request: Annotated[str | None, typer.Argument(metavar="[REQUEST]", help="One; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what was filed and how far it has come: by whom it is worked on, what was tried, what is waited for."""
    from expunge.stores.queue import Queue
    from pipelines.queueing import explained

    queue = Queue.of(Workspace.locate().require())
    found = queue.all() if request is None else [queue.find(request)]
    spoiled = queue.spoiled() if request is None else []
    for wrong in spoiled:
        print(f"expunge: {wrong}", file=sys.stderr)
    finish([{**_plain(seen.ticket), "age": round(seen.age, 1), "says": explained(seen)} for seen in found], as_json,
           lambda out: print_lines(out, [
               f"{seen.ticket.request_id}  {seen.ticket.request_sha256[:12]}  {seen.ticket.stage}: {explained(seen)}"
               for seen in found] or ["nothing was filed"]), spoiled[0].exit_code if spoiled else 0)


@queue_app.command("work")
def queue_work(
    lease: Annotated[float, typer.Option(min=1, help=(
        "Seconds without a sign of life after which another worker takes a request over."))] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Carry out what is filed, release what was approved, then end: for a cron line. Exits as what it gave up on."""
    from pipelines.display import Display
    from pipelines.queueing import Engine, told, work

    workspace, shown = Workspace.locate().require(), console(as_json)
    with Display(shown) as display:
        done = work(workspace, Engine(display), lease,
                    lambda worked: print_lines(shown, [told(worked)]) if not as_json else None)
    finish([worked.model_dump(mode="json") for worked in done], as_json,
           lambda out: print_lines(out, [] if done else ["nothing to do"]),
           next((worked.exit_code for worked in done if worked.exit_code), 0))


@queue_app.command("withdraw")
def queue_withdraw(request: Filed, as_json: AsJson = False) -> None:
    """Take a filed request back that nobody has begun, or that was given up."""
    from expunge.stores.queue import Queue

    queue = Queue.of(Workspace.locate().require())
    ticket = queue.withdraw(queue.find(request))
    finish(_plain(ticket), as_json, lambda out: print_lines(out, [f"{ticket.request_id} is withdrawn"]))


def _plain(ticket: Any) -> dict[str, Any]:
    plain: dict[str, Any] = ticket.model_dump(mode="json", by_alias=True, exclude={"nonce"})
    return plain
