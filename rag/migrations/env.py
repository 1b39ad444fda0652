"""Alembic's entry point: runs the migrations on the connection that the catalog passes in."""

from alembic import context

from rag.tables import schema

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=schema, render_as_batch=True)
context.run_migrations()
