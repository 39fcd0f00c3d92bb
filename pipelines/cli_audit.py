"""The verbs about what happened: reading the ledger, and checking that everything still is what was signed."""

from typing import Annotated

import typer

from expunge.settings import Workspace
from pipelines.output import AsJson, finish, print_lines

audit_app = typer.Typer(no_args_is_help=True, help="What happened, and whether it still verifies.")

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run, or the request whose latest run is meant.")]


@audit_app.command("log")
def audit_log(as_json: AsJson = False) -> None:
    """List what the ledger holds, oldest first."""
    from pipelines.auditing import log_lines

    lines = log_lines(Workspace.locate().require())
    finish(lines, as_json, lambda out: print_lines(
        out, (f"{line['index']:>4}  {line['sha256'][:12]}  {line['by']}  {line['what']}" for line in lines)))


@audit_app.command("show")
def audit_show(run: RunName, as_json: AsJson = False) -> None:
    """Show what a run did, room by room, and who decided what."""
    from pipelines.auditing import show
    from pipelines.tables import show_trail

    trail = show(Workspace.locate().require(), run)
    finish(trail, as_json, lambda out: show_trail(out, trail))


@audit_app.command("verify")
def audit_verify(as_json: AsJson = False) -> None:
    """Check every statement, record and released file against the ledger; exit 40 if anything differs."""
    from expunge.evidence.verify import verify_workspace
    from pipelines.tables import show_findings

    findings = verify_workspace(Workspace.locate().require())
    wrong = [finding for finding in findings if not finding.ok]
    finish({"verified": not wrong, "checked": len(findings),
            "wrong": [finding.model_dump(mode="json") for finding in wrong],
            "notes": [finding.message for finding in findings if finding.ok and finding.message]}, as_json,
           lambda out: show_findings(out, findings), 40 if wrong else 0)
