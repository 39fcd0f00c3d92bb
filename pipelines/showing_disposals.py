"""What a disposal found and did, for people and for machines."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from expunge.contracts import Listed, Receipt, read_record
from expunge.contracts.disposals import Listing
from expunge.custody import receipts
from expunge.settings import Workspace
from pipelines.disposing import Outlook

_KINDS = {"copies": "images", "parts": "images inside of larger pictures", "looks like": "pictures that look alike",
          "adapted weights": "tensors of adapted models", "sealed": "sealed files", "unread": "could not be read"}
_EVERY = 50  # files between two words to whoever waits


class Counter:
    """Says how many files of which place were looked at, while somebody watches."""

    def __init__(self, console: Console) -> None:
        self._status = Status("", console=console) if console.is_terminal else None

    def __enter__(self) -> "Counter":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._status:
            self._status.stop()

    def count(self, place: str, files: int) -> None:
        """One more file was looked at."""
        if self._status and files % _EVERY == 1:
            self._status.update(f"looking into {escape(place)}: {files:,} files")


def describe_outlook(outlook: Outlook) -> dict[str, Any]:
    """What a disposal would find, as plain values."""
    return {"request_id": outlook.request_id, "images": outlook.images, "blocked": bool(outlook.blocking),
            "files": [file.model_dump(mode="json") for file in outlook.files],
            "places": [place.model_dump(mode="json") for place in outlook.places],
            "not_searched": list(outlook.not_searched)}


def describe_receipt(workspace: Workspace, receipt: Receipt) -> dict[str, Any]:
    """A receipt as plain values, and where the listing lies that names files."""
    return {**receipt.model_dump(mode="json", by_alias=True),
            "listing": str(receipts.listing_file(workspace, receipt.request_id))}


def show_outlook(out: Console, outlook: Outlook) -> None:
    """What would go, what would remain."""
    _print(out, f"{outlook.images:,} images of request '{outlook.request_id}' are looked for")
    for place in outlook.places:
        _print(out, f"  {place.place}: {place.files:,} files, {place.pictures:,} pictures, "
                    f"{place.unread:,} files not fully read, {place.unknown:,} of no known kind")
    _files(out, "would be removed", [file for file in outlook.files if file.removed])
    _files(out, "would remain", [file for file in outlook.files if not file.removed])
    for text in outlook.not_searched:
        _print(out, f"not looked at: {text}")
    if outlook.blocking:
        _print(out, f"{len(outlook.blocking)} files stand in the way: remove them, or give --leave-found")


def show_receipt(out: Console, workspace: Workspace, receipt: Receipt) -> None:
    """What was destroyed, what was found and what remains."""
    gone = ", ".join(f"{count:,} {what}" for what, count in receipt.destroyed.items() if count) or "nothing"
    _print(out, f"request '{receipt.request_id}' was disposed of on {receipt.checked_at[:10]} by {receipt.by}")
    _print(out, f"  files destroyed: {gone}; the key was {receipt.key}")
    _print(out, f"  looked for {receipt.images:,} images with {len(receipt.searchers)} searchers")
    for found in receipt.found:
        became = "removed" if found.removed else "left"
        _print(out, f"  {found.place}: {found.images:,} {_KINDS[found.kind]} in {found.files:,} files, {became}: "
                    f"{found.why}")
    _print(out, f"  parent {receipt.parent.sha256[:12]}: {receipt.parent.fate}, {receipt.parent.reason}")
    if receipt.redrawn:
        _print(out, f"  whoever has the parent and the seed can draw again: {', '.join(receipt.redrawn)}")
    for text in receipt.not_searched:
        _print(out, f"  not looked at: {text}")
    listing = receipts.listing_file(workspace, receipt.request_id)
    if listing.exists() and read_record(Listing, listing).files:
        _print(out, f"  files by name: {listing}")


def _files(out: Console, title: str, files: list[Listed]) -> None:
    for number, file in enumerate(files):
        if number == 0:
            _print(out, f"{title}:")
        said = [f"{count:,} {kind}" for kind, count in (
            ("copies", file.copies), ("parts", file.parts), ("look alike", file.looks_like),
            ("tensors", file.weights)) if count]
        said += ["sealed"] if file.sealed else []
        said += [file.unread[0]] if file.unread else []
        _print(out, f"  {'!' if file.blocks else ' '} {file.place}/{file.path}: {', '.join(said)}; {file.why}")


def _print(out: Console, text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)
