"""What of a document was changed after it was ingested, and whether its points show that yet."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for name in ("patches", "painted"):
        op.add_column(
            "documents", sa.Column(name, sa.Integer(), nullable=False, server_default="0")
        )
    op.add_column(
        "documents",
        sa.Column("renamed", sa.Boolean(), nullable=False, server_default=sa.false()),
    )


def downgrade() -> None:
    for name in ("renamed", "painted", "patches"):
        op.drop_column("documents", name)
