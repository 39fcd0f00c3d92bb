"""Version 2: where each run stands, and entries by their digest.

Until then a run stood in its folder's `state.json`: those are taken over, and go when this version is there.
"""

import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import context, op

from expunge.digests import canonical_json, sha256_bytes
from expunge.errors import DoesNotVerify
from expunge.evidence.migrations import only_append_to
from expunge.settings import Workspace

revision, down_revision = "2", "1"


def upgrade() -> None:
    """Makes both tables and fills them with what there is."""
    integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    digests = op.create_table(
        "digests",
        sa.Column("sha256", sa.LargeBinary, primary_key=True),
        sa.Column("position", integer, nullable=False, unique=True),
        sqlite_strict=True, sqlite_with_rowid=False)
    runs = op.create_table(
        "runs",
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("revision", integer, nullable=False),  # how many times it has been written
        sa.Column("since", sa.Text, nullable=False),  # when it was last written
        sa.Column("record", sa.Text, nullable=False),  # everything else that is known of it, as JSON
        sqlite_strict=True)
    connection = op.get_bind()
    page_by_page = sa.text("SELECT position, envelope FROM entries").execution_options(yield_per=1_000)
    for page in connection.execute(page_by_page).partitions():
        connection.execute(digests.insert(), [
            {"sha256": bytes.fromhex(sha256_bytes(envelope)), "position": position} for position, envelope in page])
    only_append_to("digests")
    _take_over(context.config.attributes["workspace"], connection, runs)


def _take_over(workspace: Workspace, connection: sa.Connection, runs: sa.Table) -> None:
    for file in sorted(workspace.runs.glob("*/state.json")):
        try:
            record = json.loads(file.read_bytes())
            run, state = str(record.pop("run")), str(record.pop("state"))
        except (ValueError, KeyError, AttributeError):
            raise DoesNotVerify(f"{file.relative_to(workspace.root)}: not where a run stands",
                                "restore it from a backup") from None
        since = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
        connection.execute(runs.insert(), {"run": run, "state": state, "revision": 1, "since": since,
                                           "record": canonical_json(record).decode()})
