"""Indexes for what is looked up with every document that is replaced or deleted.

Without them each purge reads all generations and all tasks: what refers to an object, who still
writes a generation, which document is of it (the foreign key, when a generation goes).
"""

from alembic import op

revision = "0007"
down_revision = "0006"

INDEXES = (
    ("generations_state", "generations", "state"),
    ("generations_content", "generations", "content_hash"),
    ("generations_text", "generations", "text_hash"),
    ("generations_parsed", "generations", "parsed_hash"),
    ("documents_generation", "documents", "generation"),
    ("tasks_generation", "tasks", "generation"),
    ("tasks_content", "tasks", "content_hash"),
)


def upgrade() -> None:
    for name, table, column in INDEXES:
        op.create_index(name, table, [column])


def downgrade() -> None:
    for name, table, _ in INDEXES:
        op.drop_index(name, table)
