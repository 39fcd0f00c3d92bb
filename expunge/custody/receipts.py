"""How far the disposal of a request has come, by the files that it leaves in the workspace.

``disposals/<request>/wish.json`` and ``listing.json`` are written when it begins, ``checked.json`` once nothing is left
that could be removed, and this becomes ``receipt.json`` once the key is gone and the signed receipt is in the ledger.
"""

from pathlib import Path
from typing import Literal

from expunge.contracts import Receipt, read_record
from expunge.errors import Refused
from expunge.settings import Workspace

Custody = Literal["kept", "being disposed of", "disposed"]


def folder_of(workspace: Workspace, request_id: str) -> Path:
    """Where the files of a request's disposal lie."""
    return workspace.root / "disposals" / request_id


def wish_file(workspace: Workspace, request_id: str) -> Path:
    """What was said when it began."""
    return folder_of(workspace, request_id) / "wish.json"


def listing_file(workspace: Workspace, request_id: str) -> Path:
    """What was found, by name."""
    return folder_of(workspace, request_id) / "listing.json"


def checked_file(workspace: Workspace, request_id: str) -> Path:
    """The receipt before the key is destroyed."""
    return folder_of(workspace, request_id) / "checked.json"


def receipt_file(workspace: Workspace, request_id: str) -> Path:
    """The receipt of a disposal that is complete."""
    return folder_of(workspace, request_id) / "receipt.json"


def custody_of(workspace: Workspace, request_id: str) -> Custody:
    """Whether what a request wants forgotten is still kept."""
    if receipt_file(workspace, request_id).exists():
        return "disposed"
    return "being disposed of" if folder_of(workspace, request_id).exists() else "kept"


def receipt_of(workspace: Workspace, request_id: str) -> Receipt | None:
    """The receipt of a request's disposal, or None. BadInput if it cannot be read."""
    file = receipt_file(workspace, request_id)
    return read_record(Receipt, file) if file.exists() else None


def refuse_disposed(workspace: Workspace, request_id: str) -> None:
    """Refused if a request's samples or its key are gone, or going: nothing can be made for it any more."""
    custody = custody_of(workspace, request_id)
    if custody == "being disposed of":
        raise Refused(f"request '{request_id}' is being disposed of",
                      f"expunge dispose {request_id} completes it; file what you want under another id")
    if custody == "disposed":
        done = receipt_of(workspace, request_id)
        assert done is not None
        raise Refused(f"request '{request_id}' was disposed of on {done.checked_at[:10]} by {done.by}: its samples and "
                      "its key are gone", "file what you want under another id")
