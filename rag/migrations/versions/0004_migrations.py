"""Indexes that are built aside, and how far the migration to each of them is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("collections", sa.Column("build_for", Id))
    op.create_table(
        "migrations",
        sa.Column(
            "collection_id",
            Id,
            sa.ForeignKey("collections.id"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("build_id", Id, sa.ForeignKey("collections.id"), nullable=False, unique=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("rate", sa.Float(), nullable=False),
        sa.Column("doing", sa.Text(), nullable=False),
        sa.Column("report", sa.JSON()),
        sa.Column("error", sa.JSON()),
        sa.Column("paused_until", Time),
        sa.Column("owner", sa.String(32)),
        sa.Column("lease_until", Time),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("updated_at", Time, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("migrations")
    op.drop_column("collections", "build_for")
