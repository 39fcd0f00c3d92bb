"""Version 1: the ledger.

Before there were migrations, workspaces got these very tables by hand: one that has them keeps them as they lie.
"""

import sqlalchemy as sa
from alembic import op

from expunge.evidence.migrations import only_append_to

revision, down_revision = "1", None


def upgrade() -> None:
    """Entries, the complete subtrees over them, and every checkpoint that was ever signed."""
    if sa.inspect(op.get_bind()).has_table("checkpoints"):
        return
    integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "entries",
        sa.Column("position", integer, primary_key=True, autoincrement=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sqlite_strict=True)
    op.create_table(
        "nodes",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", integer, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sqlite_strict=True, sqlite_with_rowid=False)
    op.create_table(
        "checkpoints",
        sa.Column("size", integer, primary_key=True, autoincrement=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
        sqlite_strict=True)
    for table in ("entries", "nodes", "checkpoints"):
        only_append_to(table)
