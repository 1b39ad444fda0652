"""The groups of whoever sent a document: it replaces none that they do not see."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("groups", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    op.drop_column("tasks", "groups")
