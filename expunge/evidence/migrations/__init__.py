"""The schema of an installation's database, version by version, as Alembic reads it.

A version is a file in `versions/`, and its revision is its number. What a released version wrote is never edited here
afterwards: the next version changes it.
"""

from alembic import op


def only_append_to(table: str) -> None:
    """Has the database itself refuse to change or remove rows of a table."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} "
                       "BEGIN SELECT RAISE(ABORT, 'append only'); END")
        return
    op.execute("CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS "
               "$$ BEGIN RAISE EXCEPTION 'append only'; END $$")
    op.execute(f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
               "FOR EACH STATEMENT EXECUTE FUNCTION append_only()")
