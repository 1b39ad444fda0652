"""Attachments: documents with a parent, and what generations enclose; passwords of tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0002"

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("documents", sa.Column("parent", sa.String(512)))
    op.create_index("documents_parent", "documents", ["collection_id", "parent"])
    op.add_column("tasks", sa.Column("parent", sa.String(512)))
    op.create_index("tasks_parent", "tasks", ["collection_id", "parent"])
    op.add_column("tasks", sa.Column("password", sa.Text()))
    op.create_table(
        "enclosed",
        sa.Column("generation", Id, sa.ForeignKey("generations.id"), primary_key=True),
        sa.Column("content_hash", sa.String(64), primary_key=True),
    )
    op.create_index("enclosed_content", "enclosed", ["content_hash"])


def downgrade() -> None:
    op.drop_table("enclosed")
    op.drop_column("tasks", "password")
    op.drop_index("tasks_parent", "tasks")
    op.drop_column("tasks", "parent")
    op.drop_index("documents_parent", "documents")
    op.drop_column("documents", "parent")
