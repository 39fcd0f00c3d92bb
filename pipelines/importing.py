"""Bringing labelled images into the workspace, and saying which are there."""

from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expunge.errors import BadInput
from expunge.samples.images import Channels
from expunge.samples.imported import SCHEME, SKIPPED_FILE, Imported, ImportedSet, import_images, imported_sets
from expunge.settings import Workspace, require_allowed
from pipelines.display import Display
from pipelines.output import print_lines

_SHOWN = 10  # of what was left out; the rest is in the list


def bring(workspace: Workspace, name: str, path: Path, size: int | None, channels: int | None, bits: int | None,
          out: Console) -> Imported:
    """Imports the images at `path` as the set `name`, showing on `out` how far it is."""
    if channels not in (None, 1, 3):
        raise BadInput(f"--channels: {channels} is neither 1 nor 3", "use 1 for grey, 3 for RGB")
    require_allowed(path)
    with Display(out) as display:
        return import_images(workspace, name, path, size=size, channels=cast("Channels | None", channels),
                             bits=bits, watch=display)


def describe(record: ImportedSet) -> dict[str, Any]:
    """An imported set, for machines."""
    return {"name": record.name, "uri": f"{SCHEME}{record.name}", "images": record.count,
            "classes": record.counts_by_name, "image_shape": list(record.image_shape), "skipped": record.skipped,
            "duplicates": record.duplicates, "imported_at": record.imported_at}


def describe_import(done: Imported) -> dict[str, Any]:
    """How an import ended, for machines."""
    left_out = [{"where": one.where, "why": one.why} for one in done.left_out[:_SHOWN]]
    return {**describe(done.record), "already": done.already, "left_out": left_out,
            "list": str(done.folder / SKIPPED_FILE) if done.left_out else None}


def show_import(out: Console, done: Imported) -> None:
    """What was imported, then what was not, and why."""
    record = done.record
    there = "is there already: nothing was changed" if done.already else "imported"
    lines = [f"{SCHEME}{record.name}  {there}: {record.count:,} images of {_size(record)}",
             f"classes  {_classes(record)}"]
    if done.left_out:
        lines.append(f"left out  {record.skipped:,} that cannot be used, {record.duplicates:,} that were there twice")
        lines += [f"  {one.where}  {one.why}" for one in done.left_out[:_SHOWN]]
        lines.append(f"  all of them: {done.folder / SKIPPED_FILE}")
    print_lines(out, lines)


def all_sets(workspace: Workspace) -> list[ImportedSet]:
    """The sets that were imported, by name."""
    return imported_sets(workspace)


def show_sets(out: Console, records: list[ImportedSet]) -> None:
    """One line per set."""
    if not records:
        print_lines(out, ["no set was imported yet: expunge samples import NAME PATH"])
        return
    table = Table(box=None, header_style="dim")
    for heading in ("name", "images", "size", "skipped", "twice", "imported", "classes"):
        table.add_column(heading, overflow="fold", justify="right" if heading in _NUMBERS else "left")
    for record in records:
        table.add_row(record.name, f"{record.count:,}", _size(record), f"{record.skipped:,}", f"{record.duplicates:,}",
                      record.imported_at[:19].replace("T", " "), escape(_classes(record, counted=False)))
    out.print(table)


_NUMBERS = ("images", "skipped", "twice")


def _size(record: ImportedSet) -> str:
    channels, height, width = record.image_shape
    return f"{width}×{height} {'grey' if channels == 1 else 'RGB'}"


def _classes(record: ImportedSet, counted: bool = True) -> str:
    counts = record.counts_by_name
    shown = ", ".join(name + f" ({count:,})" * counted for name, count in list(counts.items())[:_SHOWN])
    return f"{len(counts)}: {shown}" + (", …" if len(counts) > _SHOWN else "")
