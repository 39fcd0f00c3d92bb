"""Tables that people read."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from expunge.evidence.verify import Finding
from pipelines.display import TITLES
from pipelines.runs import RunState

_NEXT = {
    "awaiting_approval": "next: expunge approve {run} --as REVIEWER --reason '...'   then: expunge release {run}",
    "inconclusive": "next: draw more samples (sampling.evaluate), or accept that this cannot be decided yet",
    "cancelled": "next: the same 'expunge run' continues it",
}
_COLOURS = {"released": "green", "awaiting_approval": "yellow", "running": "blue", "releasing": "blue"}


def _percent(measured: dict[str, Any] | None) -> str:
    if measured is None or measured["estimate"] is None:
        return "not measured" if measured is None else f"not measured: {measured['missing']}"
    bounds = f"  ({measured['lower']:.2%} to {measured['upper']:.2%}, n = {measured['n']:,})"
    return f"{measured['estimate']:.2%}" + (bounds if measured["lower"] is not None else "")


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _two_columns() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def show_run(out: Console, summary: dict[str, Any]) -> None:
    """A run's state and what is known of it."""
    state = summary["state"]
    table = _two_columns()
    table.add_row("run", f"{summary['run']}  (attempt {summary['attempt']})")
    table.add_row("state", f"[{_COLOURS.get(state, 'red')}]{state.replace('_', ' ')}[/]")
    if summary["reason"]:
        table.add_row("because", summary["reason"])
    _add_numbers(table, summary)
    out.print()
    out.print(table)
    if state in _NEXT:
        out.print(f"\n{_NEXT[state].format(run=summary['run'])}", highlight=False)


def _add_numbers(table: Table, summary: dict[str, Any]) -> None:
    if summary["pul"] is not None:
        fid, kid = summary["fid"], summary["kid"]
        table.add_row("unlearned (PUL)", _percent(summary["pul"]))
        table.add_row("residual rate", _percent(summary["residual_rate"]))
        table.add_row("FID of the rest", f"{_number(fid['before'])} → {_number(fid['after'])}"
                                         f"  (real against real {_number(fid['floor'])})")
        table.add_row("KID of the rest", f"{_number(kid['before'])} → {_number(kid['after'])}")
    rooms = [f"{TITLES[room]} {'reused' if spent is None else f'{spent:.1f}'}"
             for room, spent in summary["seconds"].items() if room in TITLES]
    table.add_row("seconds", ", ".join(rooms) + f"; in all {summary['seconds']['total']:.1f},"
                                                f" overhead {summary['overhead_seconds']:.1f}")
    if summary["release"]:
        table.add_row("released", summary["release"]["path"])
    if summary["report"]:
        table.add_row("report", summary["report"])


def show_runs(out: Console, states: Iterable[RunState]) -> None:
    """One line per run."""
    table = Table(box=None, header_style="dim")
    for heading in ("run", "state", "started", "because"):
        table.add_column(heading, overflow="fold")
    for state in states:
        table.add_row(state.run, f"[{_COLOURS.get(state.state, 'red')}]{state.state.replace('_', ' ')}[/]",
                      state.started_at[:19].replace("T", " "), state.reason)
    out.print(table)


def show_demo(out: Console, found: dict[str, Any]) -> None:
    """What the demo did, in one table."""
    table = _two_columns()
    table.add_row("forgotten", f"the digit {found['forgotten'][0]}  ({found['state'].replace('_', ' ')},"
                               f" verdict {found['verdict'] or 'none'})")
    _add_numbers(table, found)
    if found["approval"]:
        table.add_row("agreed", f"{found['approval']['by']}, asked by {found['approval']['requester']}")
    table.add_row("audit trail", f"{found['ledger']['size']} entries, root {found['ledger']['root'][:16]}…")
    table.add_row("MLflow UI", f"mlflow ui --backend-store-uri {found['mlflow']['tracking_uri']}")
    out.print()
    out.print(table)


def show_trail(out: Console, trail: dict[str, Any]) -> None:
    """A run's trail: rooms with inputs and outputs, then decisions."""
    for entry in trail["entries"]:
        out.print(f"[bold]{entry['what']}[/]  [dim]ledger {entry['index']}, signed by {entry['by']}[/]",
                  highlight=False)
        for label, names in (("from", entry["inputs"]), ("made", entry["subjects"])):
            for name, digest in names.items():
                out.print(f"    {label}  {digest[:12]}  {name}", highlight=False)


def show_findings(out: Console, findings: Iterable[Finding]) -> None:
    """What verification found: everything wrong by name, then what was and was not shown."""
    checked = list(findings)
    wrong = [finding for finding in checked if not finding.ok]
    for finding in wrong:
        out.print(f"[red]✗[/] {finding.object}: {finding.message}", highlight=False)
    if not wrong:
        out.print(f"[green]✓[/] {len(checked)} objects verified", highlight=False)
    for finding in checked:
        if finding.ok and finding.message:
            out.print(f"[dim]  {finding.object}: {finding.message}[/]", highlight=False)
