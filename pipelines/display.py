"""What a person sees while a run works: one line per room, a bar with an ETA on the long ones."""

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from expunge.errors import NotNeeded
from expunge.events import TITLES, Event

_WIDTH = max(map(len, TITLES.values()))


class Display:
    """Shows a run's events on a console; on one that is no terminal, only finished lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description}"), BarColumn(bar_width=28),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}  {task.fields[scalars]}"),
            TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
        self._bars: dict[str, TaskID] = {}
        self._notes: dict[str, str] = {}

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        title = TITLES.get(event.room, event.room).ljust(_WIDTH)
        if event.kind == "progress" and event.total:
            if event.room not in self._bars:
                self._bars[event.room] = self._progress.add_task(title, total=event.total, scalars="")
            shown = [f"{name} {value:.3g}" for name, value in event.scalars.items()
                     if name not in ("per_second", "eta_seconds")][:2]
            self._progress.update(self._bars[event.room], completed=event.step, total=event.total,
                                  scalars="  ".join(shown))
        elif event.kind == "note":
            self._notes[event.room] = event.text
            if event.room not in TITLES:
                self._console.print(f"  [yellow]![/] {title} {event.text}", highlight=False)
        elif event.kind == "finished":
            self._drop_bar(event.room)
            time = "reused " if event.reused else f"{event.seconds or 0:5.1f} s"
            self._console.print(f"  [green]✓[/] {title}  {time}  [dim]{self._notes.pop(event.room, '')}[/]",
                                highlight=False)
        elif event.kind == "failed":
            self._drop_bar(event.room)
            mark = "[green]–[/]" if event.error == NotNeeded.__name__ else "[red]✗[/]"
            self._console.print(f"  {mark} {title}  {escape(event.text)}", highlight=False)

    def _drop_bar(self, room: str) -> None:
        if room in self._bars:
            self._progress.remove_task(self._bars.pop(room))
