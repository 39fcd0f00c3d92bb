"""How Alembic is to run: on the connection of `expunge.evidence.database`, in the transaction that it has begun."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
