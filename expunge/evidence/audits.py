"""When this installation was last looked over, and when nothing was found wrong: news for monitoring, and no evidence.

Nobody signs it and nothing reads it but the numbers for Prometheus: what an audit found is shown by doing it again.
"""

import contextlib
import time
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from expunge.contracts import Frozen
from expunge.digests import write_atomically
from expunge.settings import Workspace

FILE = "audits.json"
Audit = Literal["verify", "live"]  # as the verbs below `expunge audit` are called
AUDITS: tuple[Audit, ...] = get_args(Audit)


class Done(Frozen):
    """The last time of one kind of audit, in seconds since 1970."""

    last: float
    last_success: float | None = None  # when nothing was wrong; absent if that was never so


_Kept = TypeAdapter(dict[Audit, Done])


def known(workspace: Workspace) -> dict[Audit, Done]:
    """What was done here so far. What cannot be read was not."""
    try:
        return _Kept.validate_json((workspace.root / FILE).read_bytes())
    except (OSError, ValidationError):
        return {}


def note(workspace: Workspace, audit: Audit, *, success: bool) -> None:
    """Keeps that an audit was done now. A workspace that cannot be written to is audited all the same."""
    so_far, now = known(workspace), time.time()
    before = so_far[audit].last_success if audit in so_far else None
    done = Done(last=now, last_success=now if success else before)
    with contextlib.suppress(OSError):
        write_atomically(workspace.root / FILE, _Kept.dump_json({**so_far, audit: done}))
