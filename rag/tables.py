"""The tables of the catalog, as the newest migration leaves them."""

import sqlalchemy as sa

schema = sa.MetaData()
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Time = sa.DateTime(timezone=True)

collections = sa.Table(
    "collections",
    schema,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("tenant", sa.String(200), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("physical", sa.String(200), nullable=False, unique=True),
    sa.Column("pipeline", sa.JSON, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("system_prompt", sa.Text, nullable=False),
    sa.Column("answer_language", sa.String(50), nullable=False),
    sa.Column("chunks", sa.BigInteger, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    # Of an index that is built aside, or was replaced by one: the collection that users see.
    sa.Column("build_for", _Id),
    # Grows with every document that comes, changes or goes.
    sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("tenant", "name", name="collections_tenant_name"),
)
generations = sa.Table(
    "generations",
    schema,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), nullable=False),
    sa.Column("document_id", sa.String(512), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # writing, live, stale
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("text_hash", sa.String(64), nullable=False),
    sa.Column("parsed_hash", sa.String(64), nullable=False, server_default=""),
    sa.Column("chunks", sa.Integer, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("pages", sa.Integer, nullable=False),
    sa.Column("characters", sa.BigInteger, nullable=False),
    sa.Column("warnings", sa.JSON, nullable=False),
    sa.Column("token_chunks", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Index("generations_document", "collection_id", "document_id"),
    sa.Index("generations_state", "state"),
    sa.Index("generations_content", "content_hash"),
    sa.Index("generations_text", "text_hash"),
    sa.Index("generations_parsed", "parsed_hash"),
    sqlite_autoincrement=True,
)
documents = sa.Table(
    "documents",
    schema,
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), primary_key=True),
    sa.Column("document_id", sa.String(512), primary_key=True),
    sa.Column("generation", _Id, sa.ForeignKey("generations.id"), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("media_type", sa.String(200), nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    # Changes since it was ingested; how many of them its points show; whether its title is one.
    sa.Column("patches", sa.Integer, nullable=False, server_default="0"),
    sa.Column("painted", sa.Integer, nullable=False, server_default="0"),
    sa.Column("renamed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("updated_at", _Time, nullable=False),
    sa.Index("documents_generation", "generation"),
    sa.Column("parent", sa.String(512)),  # the mail that it is attached to
    sa.Index("documents_parent", "collection_id", "parent"),
    sa.Column("acl", sa.Text, nullable=False, server_default=""),  # see rag/access.py
)
# Objects that a generation refers to beside its own: its attachments' bytes.
enclosed = sa.Table(
    "enclosed",
    schema,
    sa.Column("generation", _Id, sa.ForeignKey("generations.id"), primary_key=True),
    sa.Column("content_hash", sa.String(64), primary_key=True),
    sa.Index("enclosed_content", "content_hash"),
)
token_chunks = sa.Table(
    "token_chunks",
    schema,
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), primary_key=True),
    sa.Column("token", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("chunks", sa.BigInteger, nullable=False),
)
jobs = sa.Table(
    "jobs",
    schema,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), nullable=False),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("request_hash", sa.String(64), nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.UniqueConstraint("collection_id", "idempotency_key", name="jobs_idempotency_key"),
)
tasks = sa.Table(
    "tasks",
    schema,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), nullable=False),
    sa.Column("document_id", sa.String(512), nullable=False),
    sa.Column("source", sa.JSON, nullable=False),
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # see rag/journal.py
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("generation", _Id),
    sa.Column("starts", sa.Integer, nullable=False),
    sa.Column("retries", sa.Integer, nullable=False),
    sa.Column("not_before", _Time),
    sa.Column("owner", sa.String(32)),
    sa.Column("lease_until", _Time),
    sa.Column("report", sa.JSON(none_as_null=True)),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("updated_at", _Time, nullable=False),
    sa.Column("parent", sa.String(512)),  # the document that this one is attached to
    sa.Column("password", sa.Text),  # until the task ends; "" says that there was one
    sa.Column("acl", sa.Text, nullable=False, server_default=""),
    sa.Column("groups", sa.JSON(none_as_null=True)),  # of whoever sent it; NULL: all
    sa.Index("tasks_job", "job_id"),
    sa.Index("tasks_document", "collection_id", "document_id"),
    sa.Index("tasks_parent", "collection_id", "parent"),
    sa.Index("tasks_state", "state", "id"),
    sa.Index("tasks_generation", "generation"),
    sa.Index("tasks_content", "content_hash"),
    sqlite_autoincrement=True,
)
doomed = sa.Table("doomed", schema, sa.Column("name", sa.String(64), primary_key=True))
migrations = sa.Table(
    "migrations",
    schema,
    sa.Column(
        "collection_id",
        _Id,
        sa.ForeignKey("collections.id"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("build_id", _Id, sa.ForeignKey("collections.id"), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False),  # see rag/builds.py
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("rate", sa.Float, nullable=False),
    sa.Column("doing", sa.Text, nullable=False),
    sa.Column("report", sa.JSON(none_as_null=True)),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("paused_until", _Time),
    sa.Column("owner", sa.String(32)),
    sa.Column("lease_until", _Time),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("updated_at", _Time, nullable=False),
)
doomed_vectors = sa.Table(
    "doomed_vectors", schema, sa.Column("physical", sa.String(200), primary_key=True)
)
backups = sa.Table(
    "backups",  # that are being written: what they refer to must not vanish
    schema,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("lease_until", _Time, nullable=False),
)
# Answers as they came about; see rag/trace.py. `body` is compressed JSON.
traces = sa.Table(
    "traces",
    schema,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("caller", sa.String(200), nullable=False, server_default=""),
    sa.Index("traces_collection", "collection_id", "created_at"),
    sa.Index("traces_created", "created_at"),
)
# Candidates by document, so that what shows a document goes with it.
trace_documents = sa.Table(
    "trace_documents",
    schema,
    sa.Column(
        "trace_id",
        sa.String(32),
        sa.ForeignKey("traces.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("document_id", sa.String(512), primary_key=True),
    sa.Column("read", sa.Boolean, nullable=False),  # its text is in the trace, as a passage
    sa.Column("acl", sa.Text, nullable=False, server_default=""),  # what it was at that time
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("trace_documents_document", "document_id"),
)
feedback = sa.Table(
    "feedback",
    schema,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column(
        "trace_id", sa.String(32), sa.ForeignKey("traces.id", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("rating", sa.String(8), nullable=False),  # up, down
    sa.Column("correction", sa.Text, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Index("feedback_trace", "trace_id"),
)
# Keys by which callers are known; see rag/keys.py. The secret itself is nowhere.
api_keys = sa.Table(
    "api_keys",
    schema,
    sa.Column("prefix", sa.String(16), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("tenant", sa.String(200), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("groups", sa.JSON(none_as_null=True)),
    sa.Column("collections", sa.JSON(none_as_null=True)),
    sa.Column("per_minute", sa.Integer),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("expires_at", _Time),
    sa.Column("revoked_at", _Time),
    sa.Column("used_at", _Time),
)
# Every write and every denial; see rag/audit.py.
audit = sa.Table(
    "audit",
    schema,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("at", _Time, nullable=False),
    sa.Column("tenant", sa.String(200), nullable=False),
    sa.Column("caller", sa.String(200), nullable=False),
    sa.Column("action", sa.String(200), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Index("audit_at", "at"),
    sqlite_autoincrement=True,
)
