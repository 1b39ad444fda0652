"""Collections, documents, their generations, and token document frequencies."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "collections",
        sa.Column("id", Id, primary_key=True),
        sa.Column("tenant", sa.String(200), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("physical", sa.String(200), nullable=False, unique=True),
        sa.Column("pipeline", sa.JSON(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("system_prompt", sa.Text(), nullable=False),
        sa.Column("answer_language", sa.String(50), nullable=False),
        sa.Column("chunks", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("tenant", "name", name="collections_tenant_name"),
    )
    op.create_table(
        "generations",
        sa.Column("id", Id, primary_key=True, autoincrement=True),
        sa.Column("collection_id", Id, sa.ForeignKey("collections.id"), nullable=False),
        sa.Column("document_id", sa.String(512), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("text_hash", sa.String(64), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("characters", sa.BigInteger(), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("token_chunks", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("generations_document", "generations", ["collection_id", "document_id"])
    op.create_table(
        "documents",
        sa.Column("collection_id", Id, sa.ForeignKey("collections.id"), primary_key=True),
        sa.Column("document_id", sa.String(512), primary_key=True),
        sa.Column("generation", Id, sa.ForeignKey("generations.id"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("media_type", sa.String(200), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "token_chunks",
        sa.Column("collection_id", Id, sa.ForeignKey("collections.id"), primary_key=True),
        sa.Column("token", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("chunks", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    for table in ("token_chunks", "documents", "generations", "collections"):
        op.drop_table(table)
