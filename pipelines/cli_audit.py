"""The verbs about what happened: reading the ledger, checking that all is as signed, handing it to a stranger."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.settings import Workspace
from pipelines.output import AsJson, finish, print_lines

audit_app = typer.Typer(no_args_is_help=True, help="What happened, and whether it still verifies.")

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run, or the request whose latest run is meant.")]


@audit_app.command("log")
def audit_log(as_json: AsJson = False) -> None:
    """List what the ledger holds, oldest first."""
    from expunge.auditing import log_lines

    lines = log_lines(Workspace.locate().require())
    finish(lines, as_json, lambda out: print_lines(
        out, (f"{line['index']:>4}  {line['sha256'][:12]}  {line['by']}  {line['what']}" for line in lines)))


@audit_app.command("show")
def audit_show(run: RunName, as_json: AsJson = False) -> None:
    """Show what a run did, room by room, and who decided what."""
    from expunge.auditing import show
    from pipelines.tables import show_trail

    trail = show(Workspace.locate().require(), run)
    finish(trail, as_json, lambda out: show_trail(out, trail))


@audit_app.command("verify")
def audit_verify(
    checkpoint: Annotated[list[Path] | None, typer.Option(
        exists=True, dir_okay=False, help="A checkpoint that was kept outside; may be given more than once.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check every statement, record and released file against the ledger; exit 40 if anything differs."""
    from expunge.evidence import audits, copies
    from expunge.evidence.database import Database
    from expunge.evidence.findings import checked
    from expunge.evidence.verify import verify_workspace
    from pipelines.tables import show_findings

    workspace = Workspace.locate().require()
    Database(workspace)  # config.yaml and the workspace may disagree about which it is: that is no tampering
    outside = list(copies.kept(workspace))
    findings = verify_workspace(workspace, [*(file.read_bytes() for file in checkpoint or ()),
                                            *(note for _, note, _ in outside if note is not None)])
    wrong = [finding for finding in findings if not finding.ok]
    audits.note(workspace, "verify", success=not wrong)
    finish({"verified": not wrong, "checked": checked(findings),
            "wrong": [finding.model_dump(mode="json") for finding in wrong],
            "notes": [*(finding.message for finding in findings if finding.ok and finding.message),
                      *(f"{place}: {problem}" for place, _, problem in outside if problem)]}, as_json,
           lambda out: show_findings(out, findings), 40 if wrong else 0)


@audit_app.command("copy")
def audit_copy(as_json: AsJson = False) -> None:
    """Copy the newest checkpoint to the places of config.yaml; exit 40 if a copy is not how this ledger began."""
    from expunge.evidence.copies import send

    sent = send(Workspace.locate().require())
    finish([place.model_dump(mode="json") for place in sent], as_json, lambda out: print_lines(
        out, [f"{place.place}: {place.problem or f'the checkpoint over {place.size} entries'}" for place in sent]
        or ["config.yaml names no place"]), 1 if any(place.problem for place in sent) else 0)


@audit_app.command("move")
def audit_move(as_json: AsJson = False) -> None:
    """Move the ledger, and where runs stand, from the workspace's file to the database that config.yaml names."""
    from expunge.evidence.moving import move

    moved = move(Workspace.locate().require())
    finish({"entries": moved.entries, "root": moved.root, "runs": moved.runs, "kept": str(moved.kept)}, as_json,
           lambda out: print_lines(out, [
               f"{moved.entries} entries and where {moved.runs} runs stand are in the database now; root {moved.root}",
               f"the file is kept as {moved.kept}: it refuses to be written to, and nothing reads it"]))


@audit_app.command("live")
def audit_live(as_json: AsJson = False) -> None:
    """List what is served, and whether it is tainted: exit 41 if so, 40 if its bytes are not what was released."""
    from expunge.evidence import audits
    from expunge.live import lines, live

    workspace = Workspace.locate().require()
    found = live(workspace)
    audits.note(workspace, "live", success=not found.exit_code)
    finish(found.model_dump(mode="json"), as_json, lambda out: print_lines(out, lines(found)), found.exit_code)


@audit_app.command("export")
def audit_export(
    run: RunName,
    bundle: Annotated[Path, typer.Argument(dir_okay=False, help="The zip file to write.")],
    without_weights: Annotated[bool, typer.Option(
        "--without-weights", help="Only the digest of the released weights goes along.")] = False,
    reasons: Annotated[bool, typer.Option("--reasons", help="People's own words go along as well.")] = False,
    checkpoint: Annotated[list[Path] | None, typer.Option(
        exists=True, dir_okay=False, help="An older checkpoint that the ledger must still begin with; may be given "
        "more than once.")] = None,
    sign_model: Annotated[bool, typer.Option(
        "--sign-model", help="Sign the released model in the form of OpenSSF Model Signing.")] = False,
    deep: Annotated[bool, typer.Option(
        "--deep", help="The features that distances were computed from go along, for 'verify.py --deep'.")] = False,
    summary: Annotated[Path | None, typer.Option(
        dir_okay=False, help="Write a summary for the public here: Markdown that names nobody.")] = None,
    letter: Annotated[Path | None, typer.Option(
        dir_okay=False, help="Write a letter to the person who asked here: plain text.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's evidence as one zip file that a stranger can check; exit 40 if it would not verify."""
    from pipelines.exporting import export

    done = export(Workspace.locate().require(), run, bundle, weights=not without_weights, reasons=reasons,
                  checkpoints=checkpoint or (), sign_model=sign_model, deep=deep, summary=summary, letter=letter)
    finish(done, as_json, lambda out: print_lines(out, [
        *(f"{kind.lower():9}  {text}" for kind, text in done["says"]),
        *(f"left out   {what}" for what in done["left_out"]),
        *(f"{what:9}  {file}" for what, file in done["written"].items()), f"sha256     {done['sha256']}"]))


@audit_app.command("verifier")
def audit_verifier(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Where the program goes.")] = Path("verify.py"),
    as_json: AsJson = False,
) -> None:
    """Write the program that checks bundles, apart from any bundle, and print its digest: publish both."""
    from expunge.digests import sha256_bytes, write_atomically
    from expunge.evidence.bundle.writing import verifier

    program = verifier()
    write_atomically(file, program, mode=0o755)
    finish({"file": str(file), "sha256": sha256_bytes(program)}, as_json, lambda out: print_lines(
        out, [f"{sha256_bytes(program)}  {file}"]))


@audit_app.command("again")
def audit_again(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One released model; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate what is served again, from new samples where it can draw some; exit 20 if what was forgotten is back."""
    from pipelines.reauditing import lines, reaudit, worst

    found = reaudit(Workspace.locate().require(), model)
    finish([{**one.said.model_dump(mode="json"), "changed": one.changed, "waived": list(one.waived)} for one in found],
           as_json, lambda out: print_lines(out, lines(found)), worst(found))
