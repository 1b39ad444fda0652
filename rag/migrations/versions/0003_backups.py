"""Backups that are being written, and vectors of deleted collections that are to go."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "backups",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table("doomed_vectors", sa.Column("physical", sa.String(200), primary_key=True))


def downgrade() -> None:
    op.drop_table("doomed_vectors")
    op.drop_table("backups")
