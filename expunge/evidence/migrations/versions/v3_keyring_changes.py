"""Version 3: which entries change the keyring, so that nobody has to walk through all of them to find these."""

import sqlalchemy as sa
from alembic import op

from expunge.evidence.migrations import only_append_to
from expunge.evidence.statements import predicate_type_of

revision, down_revision = "3", "2"
_OF_THE_KEYRING = "urn:expunge:predicate:keyring:v1"


def upgrade() -> None:
    """Makes the table and fills it with what there is."""
    integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    changes = op.create_table(
        "keyring_changes",
        sa.Column("position", integer, primary_key=True, autoincrement=False),
        sqlite_strict=True)
    connection = op.get_bind()
    every = sa.text("SELECT position, envelope FROM entries ORDER BY position")
    for page in connection.execute(every.execution_options(yield_per=1_000)).partitions():
        found = [{"position": position} for position, envelope in page
                 if predicate_type_of(bytes(envelope)) == _OF_THE_KEYRING]
        if found:
            connection.execute(changes.insert(), found)
    only_append_to("keyring_changes")
