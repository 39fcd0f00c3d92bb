"""Tables that people read."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import filesize
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from expunge import families
from expunge.contracts import shorten
from expunge.events import TITLES
from expunge.evidence.findings import Finding, checked
from expunge.measure import words

if TYPE_CHECKING:  # each verb loads what it needs, not what its neighbours need
    from pipelines.doctor import Check
    from pipelines.explaining import Explained
    from pipelines.keeping import Item
    from pipelines.planning import Plan, RoomPlan

_NEXT = {
    "awaiting_approval": "expunge approve {run} --as REVIEWER --reason '...'   then: expunge release {run}",
    "approved": "expunge release {run}",
    "releasing": "expunge release {run}   continues it",
    "inconclusive": "measure on more (sampling.evaluate; of a classifier: holdout, members), or accept that this "
                    "cannot be decided yet; two people may waive it: expunge approve {run} --as REVIEWER "
                    "--reason '...' --waive RULE",
    "cancelled": "the same 'expunge run' continues it",
    "failed": "mend what it names; the same 'expunge run' continues it",
    "running": "the same 'expunge run' continues it",  # of one on which nobody works
}
_COLOURS = {"released": "green", "not_needed": "green", "awaiting_approval": "yellow", "approved": "yellow",
            "cancelled": "yellow", "running": "blue", "releasing": "blue"}


def _percent(measured: dict[str, Any] | None) -> str:
    if measured is None or measured["estimate"] is None:
        return "not measured" if measured is None else f"not measured: {measured['missing']}"
    bounds = f"  ({measured['lower']:.2%} to {measured['upper']:.2%}, n = {measured['n']:,})"
    return f"{measured['estimate']:.2%}" + (bounds if measured["lower"] is not None else "")


def _plain(measured: dict[str, Any]) -> str:
    """A number that is no share, with its interval."""
    if measured["estimate"] is None or measured["lower"] is None:
        return _number(measured["estimate"]) + (f": {measured['missing']}" if measured["missing"] else "")
    count = "" if measured["n"] is None else f", n = {measured['n']:,}"
    return f"{_number(measured['estimate'])}  ({_number(measured['lower'])} to {_number(measured['upper'])}{count})"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _print_rows(out: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Label and value per line, never wrapped: paths and commands are there to be copied."""
    rows = list(rows)
    width = max((len(label) for label, _ in rows), default=0)
    out.print()
    for label, value in rows:
        out.print(f"[dim]{label:<{width}}[/]  {value}", highlight=False, soft_wrap=True)


def show_run(out: Console, summary: dict[str, Any]) -> None:
    """A run's state and what is known of it."""
    state = summary["state"]
    rows = [("run", f"{summary['run']}  (attempt {summary['attempt']})"), ("state", _state(summary))]
    if summary["due"]:
        rows.append(("due", _due(summary)))
    if summary["deadline"]:
        rows.append(("decide until", summary["deadline"]))
    if kept := _custody(summary):
        rows.append(("samples", kept))
    if summary["reason"]:
        rows.append(("because", escape(summary["reason"])))
    method = summary["method"]
    why = f", chosen by auto, {method['chosen']}" if method["chosen"] else ""
    rows.append(("method", escape(method["name"] + why)))
    _print_rows(out, [*rows, *_numbers(summary)])
    if state in _NEXT and not summary["at_work"]:
        out.print(f"\nnext: {_NEXT[state].format(run=summary['run'])}", highlight=False, soft_wrap=True)


def _numbers(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if summary["pul"] is not None:
        yield "unlearned (PUL)", _percent(summary["pul"])
        if summary["residual_rate"] is not None:
            yield "residual rate", _percent(summary["residual_rate"])
    if summary["forget_z_lowest"] is not None or summary["recognised_excess"] is not None:
        from pipelines.summary import MEASURED  # it is there: it made the summary

        for name in MEASURED[summary["family"]]:
            if name == "residual_rate" and summary["images"]:
                continue  # single images went, and the class they are of stays
            if summary[name] is None:
                continue
            yield words.title(name), (_percent if words.is_percent(name) else _plain)(summary[name])
    if summary["fid"] is not None:
        fid = summary["fid"]
        yield "FID of the rest", (f"{_number(fid['before'])} → {_number(fid['after'])}"
                                  f"  (one half of the real images against the other: {_number(fid['floor'])})")
    if summary["kid"] is not None:
        yield "KID of the rest", f"{_number(summary['kid']['before'])} → {_number(summary['kid']['after'])}"
    if summary["forget_accuracy"] is not None:
        yield "right on the forgotten", _percent(summary["forget_accuracy"])
        yield "right on the rest", _percent(summary["retained_accuracy"])
        yield "lost or gained there", _percent(summary["retained_accuracy_difference"])
    rooms = [f"{TITLES[room]} {'reused' if spent is None else f'{spent:.1f}'}"
             for room, spent in summary["seconds"].items() if room in TITLES]
    yield "seconds", (", ".join(rooms) + f"; in all {summary['seconds']['total']:.1f},"
                                         f" overhead {summary['overhead_seconds']:.1f}")
    if summary["release"]:
        yield "released", summary["release"]["path"]
    if summary["report"]:
        yield "report", summary["report"]


def _state(stands: dict[str, Any]) -> str:
    """A run's state, and where it is if somebody works on it."""
    state = stands["state"]
    text = f"[{_COLOURS.get(state, 'red')}]{state.replace('_', ' ')}[/]"
    if state == "running" and not stands["at_work"]:
        return f"{text}, and nobody works on it"
    progress = stands["progress"]
    if progress is None:
        return text
    step = f" {progress['step']:,} of {progress['total']:,}" if progress["total"] else ""
    left = f", about {progress['seconds_left']:.0f} s left" if progress["seconds_left"] is not None else ""
    return f"{text}: {TITLES[progress['room']]}{step}{left}"


def _due(stands: dict[str, Any]) -> str:
    """How a run stands to its date, in days; empty without a date."""
    if stands["due"] is None:
        return ""
    days = (date.fromisoformat(stands["due"]) - datetime.now(UTC).date()).days
    count = "1 day" if abs(days) == 1 else f"{abs(days)} days"
    if stands["overdue"]:
        return f"[red]overdue by {count}[/]"
    if days < 0:
        return f"was due on {stands['due']}"
    return "due today" if days == 0 else f"due in {count}"


def _custody(stands: dict[str, Any]) -> str:
    """What became of what is to be forgotten, or by when it has to go; empty if nobody said and nothing happened."""
    if stands["custody"] != "kept":
        begun = f": expunge dispose {escape(stands['request_id'])} completes it"
        return stands["custody"] + ("" if stands["custody"] == "disposed" else begun)
    if stands["retention_overdue"]:
        return f"[red]kept too long, since {stands['retain_until']}[/]: expunge dispose {escape(stands['request_id'])}"
    return f"may be kept until {stands['retain_until']}" if stands["retain_until"] else ""


def show_runs(out: Console, standings: Iterable[dict[str, Any]]) -> None:
    """One line per run: where it stands since when, which attempt, by when, and what is to be done next."""
    rows = [("run", "state", "since", "attempt", "due", "next")]
    for stands in standings:
        then = "" if stands["at_work"] else _NEXT.get(stands["state"], "").format(run=stands["run"])
        because = escape(shorten(stands["reason"], 80)) if stands["reason"] else ""
        kept = _custody(stands) if stands["custody"] != "kept" or stands["retention_overdue"] else ""
        rows.append((escape(stands["run"]), _state(stands), stands["since"][:16].replace("T", " "),
                     str(stands["attempt"]), _due(stands), "; ".join(filter(None, (because, escape(then), kept)))))
    texts = [[Text.from_markup(cell) for cell in row] for row in rows]
    widths = [max(row[column].cell_len for row in texts) for column in range(len(rows[0]))]
    for number, row in enumerate(texts):
        line = Text("  ").join([*(cell + Text(" " * (width - cell.cell_len))
                                  for cell, width in zip(row[:-1], widths[:-1], strict=True)), row[-1]])
        out.print(line, style="dim" if number == 0 else "", highlight=False, soft_wrap=True)


_WOULD = {
    "start": "would start {run}",
    "continue": "would continue {run}, which was cut off",
    "nothing": "nothing would happen: {run} has decided it; --again makes another attempt",
}


def show_plan(out: Console, plan: "Plan") -> None:
    """What a run would do, line by line; what it needs and lacks comes last, where it is seen."""
    method, samples = plan.method, plan.samples
    tries = f"; {plan.verdicts} of {plan.attempts} earlier runs came to a verdict" if plan.attempts else ""
    changed = ", ".join(f"{name} {value}" for name, value in method.changed.items()) or "nothing changed"
    share = (f"; {samples.unwanted_share:.2%} of the parent's were unwanted in {samples.measured_in}"
             if samples.unwanted_share is not None else "")
    rows = [
        ("request", f"{escape(plan.request_id)}, asked by {escape(plan.requester)}, for {plan.reason}"),
        ("", _WOULD[plan.would].format(run=plan.run) + tries),
        ("to be forgotten", escape(f"{_with(plan.forget, ())}{': ' if plan.images else ''}{_with((), plan.images)}")),
        *((("forgotten before", escape(_with(plan.earlier, plan.earlier_images))),)
          if plan.earlier or plan.earlier_images else ()),
        ("parent", escape(f"{plan.parent}  {plan.parent_sha256[:12]}")),
        ("method", escape(f"{method.name}, for {families.words(method.family)}; {method.why}")),
        ("", escape(f"preset {method.preset}, {changed}; claim: {method.claim}")),
        ("", escape(f"it may read {method.may_read}")),
        *((TITLES[room.room], escape(room.does) + f"  [dim]{_when(room)}[/]") for room in plan.rooms),
        ("in all", _expected(plan)),
        ("samples", f"{samples.planned:,} {samples.of}{share}"),
        *(("", f"{escape(f'{words.title(rule.metric)}, {rule.limit}: {rule.note}')}") for rule in samples.rules),
        ("policy", f"{escape(plan.policy)}; {plan.approvals} must sign: "
                   f"{escape(', '.join(plan.reviewers)) or 'nobody here may'}; {escape(plan.requester)} may not"),
        *(("not shown" if number == 0 else "", escape(text)) for number, text in enumerate(plan.not_shown)),
    ]
    _print_rows(out, rows)
    for warning in plan.warnings:
        out.print(f"[yellow]![/] {escape(warning)}", highlight=False, soft_wrap=True)


def _with(classes: tuple[int | str, ...], images: tuple[int, ...]) -> str:
    """Classes, then single images."""
    single = f"of training, {'image' if len(images) == 1 else 'images'} {', '.join(map(str, images))}"
    return shorten("; ".join(([", ".join(map(str, classes))] if classes else []) + ([single] if images else [])))


def _when(room: "RoomPlan") -> str:
    if room.reuses:
        return f"reused: {room.reuses}"
    if room.seconds is None:
        return "time not known"
    return f"about {room.seconds:.1f} s, by {room.measured_in}" + (f" ({room.scaled})" if room.scaled else "")


def _expected(plan: "Plan") -> str:
    due = "" if plan.due is None else f"; due on {plan.due}" + (
        "" if plan.in_time is None else ", in time" if plan.in_time else ", too late")
    unknown = [TITLES[room.room] for room in plan.rooms if room.seconds is None]
    if plan.seconds is None:
        return f"not known: no earlier run here says how long {', '.join(unknown)} take{due}"
    return f"about {plan.seconds:.0f} s{due}"


def show_methods(out: Console, methods: "Sequence[Explained]") -> None:
    """One row per method; where to read more comes last."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("name", "family", "what it does"):
        table.add_column(title, no_wrap=title != "what it does", overflow="fold")
    for method in methods:
        mark = "[dim]baseline:[/] " if method.baseline else ""
        table.add_row(escape(method.name), escape(method.family), mark + escape(method.does))
    out.print(table, soft_wrap=False)
    out.print("\nexpunge methods NAME   what one needs and costs, and all its parameters", highlight=False)


def show_method(out: Console, method: "Explained") -> None:
    """All that a method says of itself: what for, then its presets, then every parameter."""
    from pipelines.explaining import in_words

    kind = (", a baseline" if method.baseline else "") + ("" if method.built_in else ", from an installed package")
    rows = [("method", f"{method.name}, for {families.words(method.family)}{kind}"), ("does", method.does),
            ("choose", method.choose), ("needs", in_words(method.needs) or "no images of yours"),
            ("costs", method.costs), ("claim", method.claim), ("paper", method.paper), ("auto", _by_auto(method))]
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, text in rows:
        facts.add_row(label, escape(text))
    for number, (preset, changed) in enumerate(method.presets.items()):
        values = ", ".join(f"{name} {value}" for name, value in changed.items()) or "the parameters' defaults"
        facts.add_row("presets" if number == 0 else "", escape(f"{preset}: {values}"))
    parameters = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("parameter", "default", "allowed", "meaning"):
        parameters.add_column(title, no_wrap=title in ("parameter", "default"), overflow="fold")
    for each in method.parameters:
        parameters.add_row(*(escape(str(cell)) for cell in (each.name, each.default, each.allowed, each.meaning)))
    out.print(facts, soft_wrap=False)
    out.print()
    out.print(parameters, soft_wrap=False)


def _by_auto(method: "Explained") -> str:
    """Whether `method: auto` takes it, and when."""
    from pipelines.explaining import in_words

    if method.auto is None:
        return "never takes it: " + ("it is there to be compared with" if method.baseline else "name it")
    where = in_words((*method.needs, *method.auto.given))
    return f"may take it{f', given {where}' if where else ''}: {method.auto.because}"


def show_demo(out: Console, found: dict[str, Any]) -> None:
    """What the demo did, line by line."""
    rows = [("forgotten", f"the digit {found['forgotten'][0]}  ({found['state'].replace('_', ' ')},"
                          f" verdict {found['verdict'] or 'none'})"), *_numbers(found)]
    if found["approval"]:
        rows.append(("agreed", f"{found['approval']['by']}, asked by {found['approval']['requester']}"))
    rows.append(("audit trail", f"{found['ledger']['size']} entries, root {found['ledger']['root'][:16]}…"))
    mlflow = Path(sys.executable).with_name("mlflow")  # works from any folder, activated or not
    rows.append(("MLflow UI", f"{mlflow} ui --backend-store-uri {found['mlflow']['tracking_uri']}"))
    _print_rows(out, rows)


def show_kept(out: Console, items: "Sequence[Item]", removed: bool) -> None:
    """What lies in a workspace: the large first, and what may go, or went, after what stays."""
    for fate, title in (("kept", "kept"), ("evidence", "evidence of tampering, kept unless --tampered is given"),
                        ("removable", "removed" if removed else "removable, by 'expunge gc --remove'")):
        found = [item for item in items if item.fate == fate]
        if not found:
            continue
        out.print(f"[bold]{title}[/]  {_bytes(sum(item.size for item in found))}", highlight=False)
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(justify="right", no_wrap=True)
        for _ in range(3):
            table.add_column(overflow="ellipsis", no_wrap=True)
        for item in sorted(found, key=lambda item: -item.size):
            table.add_row(_bytes(item.size), item.kind, escape(item.path), f"[dim]{escape(item.why)}[/]")
        out.print(table)
    if not any(item.fate == "removable" for item in items):
        out.print("nothing was removed" if removed else "nothing to remove", highlight=False)


def _bytes(size: int) -> str:
    return filesize.decimal(size)


_MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}


def show_checks(out: Console, checks: "Sequence[Check]") -> None:
    """One line per check; where something is amiss, what to do about it."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        remedy = f"  [dim]→ {escape(check.remedy)}[/]" if check.remedy else ""
        out.print(f"{_MARKS[check.level]} {check.name:<{width}}  {escape(check.found)}{remedy}", highlight=False,
                  soft_wrap=True)


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
    found = list(findings)
    wrong = [finding for finding in found if not finding.ok]
    for finding in wrong:
        out.print(f"[red]✗[/] {finding.object}: {finding.message}", highlight=False)
    if not wrong:
        out.print(f"[green]✓[/] {checked(found):,} objects verified", highlight=False)
    for finding in found:
        if finding.ok and finding.message:
            out.print(f"[dim]  {finding.object}: {finding.message}[/]", highlight=False)
