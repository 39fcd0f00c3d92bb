"""The main job on real input, as two people would do it: Ada asks, Grace agrees, the digit is gone."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from expunge.contracts import Request, parse_record
from expunge.deciding import decide
from expunge.digests import write_atomically
from expunge.errors import BadInput, DoesNotVerify, Refused
from expunge.evidence.findings import checked
from expunge.evidence.keys import create_key
from expunge.evidence.verify import verify_workspace
from expunge.runs import Run
from expunge.settings import WORKSPACE_VARIABLE, Workspace
from expunge.stores.sources import pin
from pipelines import supervisor
from pipelines.display import Display
from pipelines.summary import summarise
from pipelines.workspace import initialise

REQUESTER, REVIEWER = "ada", "grace"
NEVER_SEEN = 8


def demonstrate(digit: int, seed: int, folder: Path | None, debug_size: bool,
                out: Console) -> tuple[dict[str, Any], int]:
    """Runs the demo. Returns what it found and the exit code."""
    folder = (folder or Path("expunge-demo") / f"{datetime.now():%Y%m%d-%H%M%S}-digit-{digit}").absolute()
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"folder: {folder} is not empty", "name a new one")
    workspace = initialise(Workspace(folder / ".expunge"))
    os.environ[WORKSPACE_VARIABLE] = str(workspace.root)
    create_key(workspace, REQUESTER, ["requester"])
    create_key(workspace, REVIEWER, ["reviewer"])
    document = request_for(digit, seed, debug_size)
    write_atomically(folder / "request.yaml", yaml.safe_dump(document, sort_keys=False).encode())
    request = parse_record(Request, document, "request.yaml")

    out.print(f"{REQUESTER} asks for the digit {digit} to be forgotten: {folder / 'request.yaml'}", highlight=False)
    with Display(out) as display:
        state = supervisor.start(workspace, pin(request, folder, workspace), display)
    run = Run.find(workspace, state.run)
    if state.state != "awaiting_approval":
        out.print(f"The run ended as [red]{state.state}[/]: {state.reason}", highlight=False)
        return summarise(run), state.exit

    out.print("The gate is [yellow]waiting[/]: nothing is released until somebody other than the requester signs.")
    try:
        decide(run, REQUESTER, "approve", "I would like that")
    except Refused as refusal:
        out.print(f"  {REQUESTER} tries to approve: {refusal}", highlight=False)
    else:
        raise DoesNotVerify("the requester's own approval was accepted", "this must never happen: please report it")
    decide(run, REVIEWER, "approve", f"The digit {digit} is gone and the others look as before.")
    out.print(f"  {REVIEWER} has looked at the report and signs.", highlight=False)
    with Display(out) as display:
        state = supervisor.release(workspace, run, display)

    findings = verify_workspace(workspace)
    wrong = [finding for finding in findings if not finding.ok]
    for finding in wrong:
        out.print(f"  [red]✗[/] {finding.object}: {finding.message}", highlight=False)
    out.print(f"  [{'red' if wrong else 'green'}]{'✗' if wrong else '✓'}[/] audit trail: "
              f"{checked(findings):,} objects checked, {len(wrong)} wrong", highlight=False)
    return summarise(run), DoesNotVerify.exit_code if wrong else state.exit


def request_for(digit: int, seed: int, debug_size: bool) -> dict[str, Any]:
    """The demo's request, as a person would write it."""
    request: dict[str, Any] = {
        "id": f"forget-{digit}",
        "requester": REQUESTER,
        "reason": "safety",
        "model": "digits",
        "checkpoint": {"uri": "builtin://digits/dcgan"},
        "forget": {"classes": [digit]},
        "oracle": {"uri": "builtin://digits/oracle"},
        "judge": {"uri": "builtin://digits/judge"},
        "holdout": {"uri": "builtin://digits/holdout"},
        "seed": seed,
    }
    if digit == NEVER_SEEN:  # the one digit for which a model ships that never saw it
        request |= {"reference": {"uri": f"builtin://digits/never-saw-{digit}"}}
    if debug_size:
        request |= {"method": {"name": "adapt_then_unlearn", "preset": "debug"}, "policy": "debug",
                    "threads": 1, "sampling": {"curate": 1_000, "evaluate": 2_000, "search": 20, "lessons": 0}}
    return request
