"""The command line: verbs that read like what they do, exit codes that say how it went.

`--json` on any verb prints one object on standard output and nothing else there. Errors are one line on
standard error: what is wrong, then what to do about it.
"""

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

from expunge import __version__
from expunge.errors import BadInput, Cancelled, ExpungeError, NoSpace, out_of_space
from expunge.settings import WORKSPACE_VARIABLE, Workspace
from pipelines.cli_audit import RunName, audit_app
from pipelines.cli_cluster import Endpoint, Namespace, Store, compile_plans, schedule, submit
from pipelines.cli_console import console
from pipelines.cli_custody import dispose
from pipelines.cli_keys import keys_app
from pipelines.cli_policies import policies_app
from pipelines.cli_queue import queue_app
from pipelines.cli_samples import samples_app
from pipelines.output import AsJson
from pipelines.output import finish as _finish
from pipelines.output import out as _out
from pipelines.output import print_lines as _print

if TYPE_CHECKING:
    from pipelines.notices import Told

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Make trained image models forget, and prove to a stranger what was done.")
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")
app.add_typer(samples_app, name="samples")
app.add_typer(policies_app, name="policies")
app.add_typer(queue_app, name="queue")
app.command()(dispose)
app.command("compile")(compile_plans)
app.command()(submit)
app.command()(schedule)
app.command()(console)

Person = Annotated[str, typer.Option("--as", metavar="PERSON", help="Whose key signs.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in your words; it is kept with the decision.")]
Runner = Annotated[Literal["subprocess", "docker"], typer.Option(
    help="Where rooms work: in processes of this installation, or each in a container of its own.")]
Image = Annotated[str | None, typer.Option(help="With --runner docker: the image, expunge-python:cpu by default.")]


def main() -> NoReturn:
    """Entry point of the `expunge` command."""
    signal.signal(signal.SIGTERM, _stop)  # so that a stopped run is recorded as cancelled
    sys.exit(carry_out(sys.argv[1:]))


def carry_out(arguments: list[str]) -> int:
    """Does what a command line says; returns the exit code. What is wrong is said in one line."""
    try:
        ended = app(arguments, standalone_mode=False)  # returns the code of an Exit
    except (typer.Abort, KeyboardInterrupt):
        return Cancelled.exit_code
    except Exception as error:
        if hasattr(error, "format_message") and not error.format_message():
            error.show()  # type: ignore[attr-defined]  # nothing was asked: typer's own error prints the help
            return BadInput.exit_code
        told = _told(error)
        if told is None:
            raise
        _complain(told, "--json" in arguments)
        return told.exit_code
    return ended or 0


def _told(error: Exception) -> ExpungeError | None:
    """An error as a person can use it; None for a mistake of ours, which needs its traceback."""
    if out_of_space(error):
        return error if isinstance(error, NoSpace) else NoSpace.on(Workspace.locate().root)
    if isinstance(error, ExpungeError):
        return error
    if hasattr(error, "format_message"):
        return BadInput(error.format_message(), "see --help")
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP) and error.filename is not None:
        return BadInput(f"{os.fsdecode(error.filename)[:60]}…: {error.strerror}", "name another file")
    if isinstance(error, OSError) and error.errno in _SYSTEM_SAYS_NO and error.filename is not None:
        return ExpungeError(f"{os.fsdecode(error.filename)}: {error.strerror}", _SYSTEM_SAYS_NO[error.errno])
    return None


_SYSTEM_SAYS_NO = {
    errno.EACCES: "give yourself permission, or use another workspace",
    errno.EPERM: "give yourself permission, or use another workspace",
    errno.EROFS: "use a workspace on a disk that can be written",
    errno.EIO: "the disk does not answer as it should: check it",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has too many open files",
}


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _complain(error: ExpungeError, as_json: bool) -> None:
    from expunge.contracts import shorten

    if as_json:
        print(json.dumps({"error": type(error).__name__, "problem": error.problem, "remedy": error.remedy,
                          "exit_code": error.exit_code}))
    print(f"expunge: {shorten(str(error), 4000)}", file=sys.stderr)  # one line, whatever names are in it


@app.callback(invoke_without_command=True)
def options(
    workspace: Annotated[Path | None, typer.Option(help="The workspace; ./.expunge by default.")] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options of every verb."""
    if version:
        print(f"expunge {__version__}")
        raise typer.Exit
    if workspace is not None:
        os.environ[WORKSPACE_VARIABLE] = str(workspace.absolute())


@app.command()
def init(as_json: AsJson = False) -> None:
    """Make a workspace: its signing key, its policies, its ledger. Harmless when there is one."""
    from pipelines.workspace import initialise

    workspace = initialise(Workspace.locate())
    _finish({"workspace": str(workspace.root), "keys": str(workspace.keys)}, as_json,
            lambda out: _print(out, [f"workspace {workspace.root}",
                                     f"keys      {workspace.keys}  (keep these apart and safe)"]))


@app.command()
def run(
    request: Annotated[Path, typer.Argument(dir_okay=False, help="The request: a YAML or JSON file.")],
    again: Annotated[bool, typer.Option(help="Make another attempt although this request was decided.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would happen; change nothing.")] = False,
    runner: Runner = "subprocess", image: Image = None, as_json: AsJson = False,
) -> None:
    """Carry out a request: fetch, curate, adapt, unlearn, evaluate, gate. The same command continues a cut run."""
    image_id = _image_for(runner, image)
    if plan:
        return _plan(request, again, as_json)
    from expunge.contracts import Request, read_record
    from expunge.runs import Run
    from expunge.stores.sources import pin
    from pipelines import supervisor
    from pipelines.display import Display
    from pipelines.tables import show_run

    workspace = Workspace.locate().require()
    pinned = pin(read_record(Request, request), request.parent, workspace)
    out = _out(as_json)
    with Display(out) as display:
        state = supervisor.start(workspace, pinned, display, again, image_id)
    _finish_run(Run.find(workspace, state.run), as_json, show_run)


def _image_for(runner: str, image: str | None) -> str | None:
    """The id of the image that rooms work in, if they are to have containers."""
    if runner == "subprocess":
        if image is not None:
            raise BadInput("--image: rooms work in no image without --runner docker", "give both, or neither")
        return None
    from pipelines.containers import IMAGE, find_image

    return find_image(IMAGE if image is None else image)


def _plan(file: Path, again: bool, as_json: bool) -> None:
    from expunge.contracts import Request, read_record
    from expunge.stores.sources import pin
    from pipelines import planning
    from pipelines.tables import show_plan

    workspace = Workspace.locate().require()
    named = read_record(Request, file)
    with planning.untouched(workspace) as reading:
        made = planning.plan(workspace, pin(named, file.parent, reading), named, again)
    _finish(made.model_dump(mode="json"), as_json, lambda out: show_plan(out, made))


@app.command()
def cancel(run: RunName, as_json: AsJson = False) -> None:
    """Stop a run, from any shell. The same 'expunge run' would continue it."""
    from expunge.runs import Run
    from pipelines import supervisor

    state = supervisor.cancel(Run.find(Workspace.locate().require(), run))
    _finish({"run": state.run, "state": state.state, "reason": state.reason}, as_json,
            lambda out: out.print(f"{state.run} is {state.state}: the same 'expunge run' continues it"))


@app.command()
def release(run: RunName, runner: Runner = "subprocess", image: Image = None, as_json: AsJson = False) -> None:
    """Continue an approved run: gate again, then deploy exactly the bytes that were approved."""
    image_id = _image_for(runner, image)
    from expunge.runs import Run
    from pipelines import supervisor
    from pipelines.display import Display
    from pipelines.tables import show_run

    workspace = Workspace.locate().require()
    found = Run.find(workspace, run)
    with Display(_out(as_json)) as display:
        supervisor.release(workspace, found, display, image_id)
    _finish_run(found, as_json, show_run)


@app.command()
def collect(
    endpoint: Endpoint, store: Store,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="One run; without it, all.")] = None,
    namespace: Namespace = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended, and exit as a run does.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take what a cluster has done of a submitted run into the ledger, in the workspace that its steps share."""
    from pipelines import collecting
    from pipelines.display import Display
    from pipelines.kubeflow import Kubeflow
    from pipelines.tables import show_run

    kubeflow = Kubeflow(endpoint, namespace)
    with Display(_out(as_json)) as display:
        found = collecting.collect(Workspace.locate().require(), kubeflow, store, run, display, wait)
    if run is not None and wait:
        _finish_run(found[0], as_json, show_run)
        return
    for one in found[:1]:
        _tell_people(one.workspace)
    states = {one.name: one.state() for one in found}
    lines = [f"{name}: {state.state.replace('_', ' ')}" for name, state in states.items()]
    _finish([{"run": name, "state": state.state, "reason": state.reason or None} for name, state in states.items()],
            as_json, lambda out: _print(out, lines or ["nothing was submitted"]))


def _tell_people(workspace: Workspace) -> "Told":
    """Gives the notices that are due; what could not be delivered is said, and stops nothing."""
    from expunge.contracts import shorten
    from pipelines.notices import look

    told = look(workspace)
    for warning in told.warnings:
        print(f"expunge: warning: {shorten(warning, 400)}", file=sys.stderr)
    return told


def _finish_run(run: Any, as_json: bool, show: Callable[[Console, dict[str, Any]], None]) -> None:
    from pipelines.summary import summarise

    _tell_people(run.workspace)
    state, summary = run.state(), summarise(run)
    if state.state == "failed":
        raise state.failure()
    _finish(summary, as_json, lambda out: show(out, summary), state.exit)


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="One run; without it, all.")] = None,
    remind: Annotated[bool, typer.Option("--remind", help=(
        "Say only which notices were given now; exit 1 if one could not be. For a cron line."))] = False,
    as_json: AsJson = False,
) -> None:
    """Say where runs stand, reject those past their deadline, and tell reviewers of the others what is due."""
    from expunge.runs import Run
    from pipelines.summary import standing, summarise, tries
    from pipelines.tables import show_run, show_runs

    workspace = Workspace.locate().require()
    told = _tell_people(workspace)
    if remind:
        _finish([notice.model_dump(mode="json", by_alias=True) for notice in told.notices], as_json,
                lambda out: _print(out, (f"{notice.run}: {notice.event.replace('_', ' ')}" for notice in told.notices)),
                1 if told.warnings else 0)
        return
    if run is not None:
        summary = summarise(Run.find(workspace, run))
        _finish(summary, as_json, lambda out: show_run(out, summary))
        return
    tried = tries(workspace)
    standings = [standing(found, tried) for found in Run.all(workspace)]
    _finish(standings, as_json, lambda out: show_runs(out, standings))


@app.command()
def metrics(
    file: Annotated[Path | None, typer.Argument(help="Where to write them, in one step; without it they are "
                                                     "printed.")] = None,
    serve: Annotated[str | None, typer.Option(metavar="HOST:PORT", help=(
        "Answer scrapes of /metrics there until told to end."))] = None,
    as_json: AsJson = False,
) -> None:
    """Give what waits, what is late and what must not be served as numbers for Prometheus."""
    from expunge.digests import write_atomically
    from pipelines import metrics as numbers

    if serve is not None:
        if file is not None:
            raise BadInput("metrics: a file and --serve cannot be given together", "give one of them")
        numbers.serve(Workspace.locate().require(), serve, lambda address: _finish(
            {"address": address}, as_json, lambda out: _print(out, [address])))
        return
    text = numbers.in_text(Workspace.locate().require())
    if file is not None:
        write_atomically(file, text.encode())
    _finish({"text": text, "file": str(file) if file else None}, as_json,
            lambda out: _print(out, [str(file)] if file else text.splitlines()))


@app.command()
def approve(
    run: RunName, person: Person, reason: Reason,
    waive: Annotated[list[str] | None, typer.Option(metavar="RULE", help=(
        "An INCONCLUSIVE rule, by its metric, that you let go; may be given twice. Two people must."))] = None,
    as_json: AsJson = False,
) -> None:
    """Sign that these bytes may be released. The requester may not."""
    _decide(run, person, "approve", reason, as_json, waive or [])


@app.command()
def reject(run: RunName, person: Person, reason: Reason, as_json: AsJson = False) -> None:
    """Sign that these bytes may not be released."""
    _decide(run, person, "reject", reason, as_json)


def _decide(name: str, person: str, decision: Literal["approve", "reject"], reason: str, as_json: bool,
            waives: Sequence[str] = ()) -> None:
    from expunge.deciding import decide
    from expunge.runs import Run

    found = Run.find(Workspace.locate().require(), name)
    signed = decide(found, person, decision, reason, waives)
    waived = f", waiving {' and '.join(waives)}" if waives else ""
    _finish({"run": found.name, "person": person, "decision": decision, "waives": list(waives),
             "state": found.state().state, "envelope": str(signed)}, as_json,
            lambda out: out.print(f"{person} signed: {decision} {found.name}{waived}"))


@app.command()
def rollback(model: Annotated[str, typer.Argument(help="The released model's name.")],
             person: Person, reason: Reason, as_json: AsJson = False) -> None:
    """Serve the newest earlier release that is not tainted; with none to go back to, withdraw the model."""
    _change_service("rollback", model, person, reason, as_json)


@app.command()
def withdraw(model: Annotated[str, typer.Argument(help="The released model's name.")],
             person: Person, reason: Reason, as_json: AsJson = False) -> None:
    """Stop serving a model."""
    _change_service("withdraw", model, person, reason, as_json)


def _change_service(action: Literal["rollback", "withdraw"], model: str, person: str, reason: str,
                    as_json: bool) -> None:
    from expunge.serving import change

    served = change(Workspace.locate().require(), action, model, person, reason,
                    lambda text: typer.echo(text, err=True))
    _finish(served.model_dump(mode="json", by_alias=True), as_json, lambda out: out.print(served.text))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the machine and the workspace; exit 1 if anything that a run needs is broken."""
    from pipelines.doctor import examine
    from pipelines.tables import show_checks

    checks = examine(Workspace.locate())
    broken = any(check.level == "fail" for check in checks)
    _finish({"healthy": not broken, "checks": [check.model_dump(mode="json") for check in checks]}, as_json,
            lambda out: show_checks(out, checks), 1 if broken else 0)


@app.command()
def gc(
    remove: Annotated[bool, typer.Option("--remove", help="Remove what nothing needs.")] = False,
    tampered: Annotated[bool, typer.Option("--tampered", help="With --remove: evidence of tampering as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is kept, how large it is and who needs it; with --remove, remove what nothing needs."""
    from pipelines import keeping
    from pipelines.tables import show_kept

    workspace = Workspace.locate().require()
    if tampered and not remove:
        raise BadInput("--tampered: nothing is removed without --remove", "give both, or look first")
    items = keeping.remove(workspace, tampered) if remove else keeping.survey(workspace)
    total = {fate: sum(item.size for item in items if item.fate == fate) for fate in ("kept", "removable", "evidence")}
    _finish({"removed": remove, "bytes": total, "items": [item.model_dump(mode="json") for item in items]}, as_json,
            lambda out: show_kept(out, items, remove))


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One method; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods of unlearning, or explain one: what it does, needs and costs, and its parameters."""
    from pipelines.explaining import explain_all, explain_one
    from pipelines.tables import show_method, show_methods

    if name is not None:
        one = explain_one(name)
        _finish(one.model_dump(mode="json"), as_json, lambda out: show_method(out, one))
        return
    every = explain_all()
    _finish([each.model_dump(mode="json", exclude={"parameters"}) for each in every], as_json,
            lambda out: show_methods(out, every))


@app.command()
def demo(
    digit: Annotated[int, typer.Option(min=0, max=9, help="Which handwritten digit is to be forgotten.")] = 8,
    folder: Annotated[Path | None, typer.Option(help="Where; a new folder under ./expunge-demo by default.")] = None,
    debug_size: Annotated[bool, typer.Option("--debug-size", help="A tiny run: shows that all works.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random in the run.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Forget a handwritten digit, end to end: request, run, second person's signature, release, audit."""
    from pipelines.demo import demonstrate
    from pipelines.tables import show_demo

    out = _out(as_json)
    found, exit_code = demonstrate(digit, seed, folder, debug_size, out)
    _finish(found, as_json, lambda console: show_demo(console, found), exit_code)


if __name__ == "__main__":
    main()
