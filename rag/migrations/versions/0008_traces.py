"""Traces of answers, their candidates, what readers said of them; versions of collections."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column(
        "collections", sa.Column("version", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.create_table(
        "traces",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("collection_id", Id, sa.ForeignKey("collections.id"), nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
    )
    op.create_index("traces_collection", "traces", ["collection_id", "created_at"])
    op.create_index("traces_created", "traces", ["created_at"])
    op.create_table(
        "trace_documents",
        sa.Column(
            "trace_id",
            sa.String(32),
            sa.ForeignKey("traces.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("document_id", sa.String(512), primary_key=True),
        sa.Column("read", sa.Boolean(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
    )
    op.create_index("trace_documents_document", "trace_documents", ["document_id"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column(
            "trace_id",
            sa.String(32),
            sa.ForeignKey("traces.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("rating", sa.String(8), nullable=False),
        sa.Column("correction", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", Time, nullable=False),
    )
    op.create_index("feedback_trace", "feedback", ["trace_id"])


def downgrade() -> None:
    op.drop_table("feedback")
    op.drop_table("trace_documents")
    op.drop_table("traces")
    op.drop_column("collections", "version")
