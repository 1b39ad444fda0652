"""Ingest jobs and their tasks; parsed documents of generations; objects that are to go."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column(
        "generations", sa.Column("parsed_hash", sa.String(64), nullable=False, server_default="")
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("collection_id", Id, sa.ForeignKey("collections.id"), nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.UniqueConstraint("collection_id", "idempotency_key", name="jobs_idempotency_key"),
    )
    op.create_table(
        "tasks",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("collection_id", Id, sa.ForeignKey("collections.id"), nullable=False),
        sa.Column("document_id", sa.String(512), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("generation", Id),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("not_before", Time),
        sa.Column("owner", sa.String(32)),
        sa.Column("lease_until", Time),
        sa.Column("report", sa.JSON()),
        sa.Column("error", sa.JSON()),
        sa.Column("updated_at", Time, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table("doomed", sa.Column("name", sa.String(64), primary_key=True))
    op.create_index("tasks_job", "tasks", ["job_id"])
    op.create_index("tasks_document", "tasks", ["collection_id", "document_id"])
    op.create_index("tasks_state", "tasks", ["state", "id"])


def downgrade() -> None:
    op.drop_table("doomed")
    op.drop_table("tasks")
    op.drop_table("jobs")
    op.drop_column("generations", "parsed_hash")
