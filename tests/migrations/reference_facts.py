"""The specification: the tables as the documentation of the platforms that move to this library has them.

Copied by hand, in the documentation's own words (types, defaults, keys of indexes), and never taken from the
models: this is what the models and the migrations are held to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """A column. `type` is None where the documentation only names it, `not_null` where it is left open."""

    name: str
    type: str | None
    default: str | None = None
    not_null: bool | None = False


@dataclass(frozen=True)
class Check:
    """Values that a column must take and must refuse.

    `exact` is a CHECK of the documentation, with these values and no others; otherwise the values come from a
    comment, and more of them may be allowed.
    """

    column: str
    accepts: tuple[str, ...]
    refuses: tuple[str, ...]
    exact: bool


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key to one column of a table; a schema of None is the one of the unqualified tables."""

    column: str
    schema: str | None
    table: str
    target: str = "id"
    on_delete: Literal["NO ACTION", "CASCADE"] = "NO ACTION"


@dataclass(frozen=True)
class Index:
    """An index. A key is written as in CREATE INDEX: column, operator class if given, DESC if given."""

    name: str
    keys: tuple[str, ...]
    method: str = "btree"
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """A table; without a primary key here, the documentation has no CREATE TABLE of it, only uses."""

    schema: str | None
    name: str
    columns: tuple[Column, ...] = ()
    primary_key: tuple[str, ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()
    checks: tuple[Check, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()

    def __str__(self) -> str:
        return self.name if self.schema is None else f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Query:
    """An example query, verbatim, and the names of the columns that it returns."""

    sql: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Collection:
    """A collection of vectors that exists from the start."""

    name: str
    dimensions: int
    distance: str


def check_in(column: str, *values: str) -> Check:
    """`CHECK (column IN (...))`."""
    return Check(column, values, ("no-such-value", values[0].upper(), ""), exact=True)


def listed(column: str, *values: str) -> Check:
    """The values of a status that a comment lists: to be held by a CHECK, which the documentation lacks."""
    return Check(column, values, ("no-such-value", values[0].upper(), ""), exact=False)


# Documented as extensions.uuid_generate_v4(), an extension's function that makes the same keys: see alfred_0025_uuid_defaults.
UUID = Column("id", "UUID", "gen_random_uuid()")
SERIAL = Column("id", "SERIAL")
# The one family of documents writes its times in the first way, the other in the second.
CREATED_TZ = Column("created_at", "TIMESTAMPTZ", "NOW()")
UPDATED_TZ = Column("updated_at", "TIMESTAMPTZ", "NOW()")
CREATED = Column("created_at", "TIMESTAMP", "CURRENT_TIMESTAMP")
UPDATED = Column("updated_at", "TIMESTAMP", "CURRENT_TIMESTAMP")

SCHEMAS = ("auth", "storage", "model_registry", "brk_registry", "wm", "entity", "brk_tracking")

HNSW_OPTIONS = (("m", "16"), ("ef_construction", "64"))

TABLES = (
    Table(
        schema=None,
        name="tasks",
        columns=(
            UUID,
            Column("task_id", "TEXT", not_null=True),
            Column("intent", "TEXT", not_null=True),
            Column("status", "TEXT", "'pending'", not_null=True),
            Column("content", "JSONB", "'{}'"),
            Column("priority", "INTEGER", "1"),
            Column("created_by", "TEXT"),
            Column("assigned_to", "TEXT"),
            Column("parent_task_id", "UUID"),
            CREATED_TZ,
            UPDATED_TZ,
            Column("started_at", "TIMESTAMPTZ"),
            Column("completed_at", "TIMESTAMPTZ"),
            Column("failed_at", "TIMESTAMPTZ"),
            Column("error_message", "TEXT"),
            Column("retry_count", "INTEGER", "0"),
            Column("max_retries", "INTEGER", "3"),
            Column("timeout_seconds", "INTEGER", "300"),
            Column("metadata", "JSONB", "'{}'"),
        ),
        primary_key=("id",),
        uniques=(("task_id",),),
        checks=(
            check_in("status", "pending", "processing", "completed", "failed", "cancelled"),
            Check("priority", ("1", "2", "3", "4", "5"), ("0", "6", "-1"), exact=True),
        ),
        foreign_keys=(ForeignKey("parent_task_id", None, "tasks"),),
    ),
    Table(
        schema=None,
        name="task_results",
        columns=(
            UUID,
            Column("task_id", "UUID"),
            Column("result_type", "TEXT", not_null=True),
            Column("content", "JSONB", not_null=True),
            CREATED_TZ,
            Column("metadata", "JSONB", "'{}'"),
        ),
        primary_key=("id",),
        foreign_keys=(ForeignKey("task_id", None, "tasks", on_delete="CASCADE"),),
    ),
    Table(
        schema=None,
        name="processed_messages",
        columns=(
            Column("message_id", "TEXT"),
            Column("processed_at", "TIMESTAMPTZ", "NOW()"),
            Column("expires_at", "TIMESTAMPTZ", "NOW() + INTERVAL '48 hours'"),
        ),
        primary_key=("message_id",),
    ),
    Table(
        schema=None,
        name="agent_registry",
        columns=(
            UUID,
            Column("name", "TEXT", not_null=True),
            Column("type", "TEXT", not_null=True),
            Column("version", "TEXT", not_null=True),
            Column("status", "TEXT", "'inactive'"),
            Column("endpoint_url", "TEXT"),
            Column("health_check_url", "TEXT"),
            Column("capabilities", "JSONB", "'[]'"),
            Column("configuration", "JSONB", "'{}'"),
            Column("last_heartbeat", "TIMESTAMPTZ"),
            Column("registered_at", "TIMESTAMPTZ", "NOW()"),
            UPDATED_TZ,
        ),
        primary_key=("id",),
        uniques=(("name",),),
        checks=(check_in("status", "active", "inactive", "maintenance"),),
    ),
    Table(
        schema="auth",
        name="users",
        columns=(
            Column("id", "UUID"),
            Column("email", "TEXT"),
            Column("phone", "TEXT"),
            Column("encrypted_password", "TEXT"),
            Column("email_confirmed_at", "TIMESTAMPTZ"),
            Column("phone_confirmed_at", "TIMESTAMPTZ"),
            Column("confirmation_token", "TEXT"),
            Column("confirmation_sent_at", "TIMESTAMPTZ"),
            Column("recovery_token", "TEXT"),
            Column("recovery_sent_at", "TIMESTAMPTZ"),
            Column("email_change_token", "TEXT"),
            Column("email_change", "TEXT"),
            Column("email_change_sent_at", "TIMESTAMPTZ"),
            Column("last_sign_in_at", "TIMESTAMPTZ"),
            Column("raw_app_meta_data", "JSONB"),
            Column("raw_user_meta_data", "JSONB"),
            Column("created_at", "TIMESTAMPTZ"),
            Column("updated_at", "TIMESTAMPTZ"),
            Column("deleted_at", "TIMESTAMPTZ"),
        ),
        primary_key=("id",),
        uniques=(("email",), ("phone",)),
    ),
    Table(
        schema="model_registry",
        name="models",
        columns=(
            SERIAL,
            Column("name", "VARCHAR(100)", not_null=True),
            Column("display_name", "VARCHAR(200)", not_null=True),
            Column("provider", "VARCHAR(50)", not_null=True),
            Column("model_type", "VARCHAR(50)", not_null=True),
            Column("version", "VARCHAR(50)"),
            Column("description", "TEXT"),
            CREATED_TZ,
            UPDATED_TZ,
        ),
        primary_key=("id",),
        uniques=(("name",),),
    ),
    Table(
        schema="model_registry",
        name="model_endpoints",
        columns=(
            SERIAL,
            Column("model_id", "INTEGER"),
            Column("endpoint_type", "VARCHAR(50)", not_null=True),
            Column("endpoint_url", "VARCHAR(255)"),
            Column("auth_type", "VARCHAR(50)"),
            Column("headers", "JSONB"),
            CREATED_TZ,
            UPDATED_TZ,
        ),
        primary_key=("id",),
        foreign_keys=(ForeignKey("model_id", "model_registry", "models", on_delete="CASCADE"),),
    ),
    Table(
        schema="model_registry",
        name="model_capabilities",
        columns=(
            SERIAL,
            Column("model_id", "INTEGER"),
            Column("capability", "VARCHAR(50)", not_null=True),
            Column("capability_score", "FLOAT", not_null=True),
        ),
        primary_key=("id",),
        uniques=(("model_id", "capability"),),
        foreign_keys=(ForeignKey("model_id", "model_registry", "models", on_delete="CASCADE"),),
    ),
    Table(
        schema=None,
        name="documents",
        columns=(
            SERIAL,
            Column("title", "TEXT"),
            Column("content", "TEXT"),
            Column("embedding", "vector(384)"),
            Column("metadata", "JSONB"),
            CREATED,
            UPDATED,
        ),
        primary_key=("id",),
        indexes=(
            Index(
                "idx_documents_embedding", ("embedding vector_cosine_ops",), "ivfflat", (("lists", "100"),)
            ),
            Index("idx_documents_created_at", ("created_at",)),
            Index("idx_documents_metadata", ("metadata",), "gin"),
        ),
    ),
    Table(
        schema=None,
        name="memory_banks",
        columns=(
            SERIAL,
            Column("name", "VARCHAR(255)", not_null=True),
            Column("description", "TEXT"),
            CREATED,
            UPDATED,
        ),
        primary_key=("id",),
    ),
    Table(
        schema=None,
        name="memories",
        columns=(
            SERIAL,
            Column("memory_bank_id", "INTEGER"),
            Column("content", "TEXT", not_null=True),
            Column("embedding", "vector(384)"),
            Column("metadata", "JSONB"),
            Column("importance", "INTEGER", "1"),
            Column("access_count", "INTEGER", "0"),
            Column("last_accessed", "TIMESTAMP"),
            CREATED,
            UPDATED,
        ),
        primary_key=("id",),
        foreign_keys=(ForeignKey("memory_bank_id", None, "memory_banks"),),
        indexes=(
            Index("idx_memories_memory_bank_id", ("memory_bank_id",)),
            Index("idx_memories_importance", ("importance DESC",)),
        ),
    ),
    Table(
        schema=None,
        name="conversations",
        columns=(
            SERIAL,
            Column("session_id", "VARCHAR(255)", not_null=True),
            Column("role", "VARCHAR(50)", not_null=True),
            Column("content", "TEXT", not_null=True),
            Column("metadata", "JSONB"),
            CREATED,
        ),
        primary_key=("id",),
        # A comment names these two, but a role is no status: nothing has to be refused.
        checks=(Check("role", ("user", "assistant"), (), exact=False),),
        indexes=(
            Index("idx_conversations_session_id", ("session_id",)),
            Index("idx_conversations_created_at", ("created_at",)),
        ),
    ),
    Table(
        schema=None,
        name="rag_sessions",
        columns=(
            SERIAL,
            Column("session_id", "VARCHAR(255)", not_null=True),
            Column("context", "TEXT"),
            CREATED,
            UPDATED,
        ),
        primary_key=("id",),
        uniques=(("session_id",),),
        indexes=(Index("idx_rag_sessions_session_id", ("session_id",)),),
    ),
    Table(
        schema=None,
        name="rag_queries",
        columns=(
            SERIAL,
            Column("session_id", "INTEGER"),
            Column("query_text", "TEXT", not_null=True),
            Column("context_used", "TEXT"),
            Column("response", "TEXT"),
            Column("metadata", "JSONB"),
            CREATED,
        ),
        primary_key=("id",),
        foreign_keys=(ForeignKey("session_id", None, "rag_sessions"),),
        indexes=(
            Index("idx_rag_queries_session_id", ("session_id",)),
            Index("idx_rag_queries_created_at", ("created_at",)),
        ),
    ),
    Table(
        schema=None,
        name="test_suites",
        columns=(
            SERIAL,
            Column("name", "VARCHAR(255)", not_null=True),
            Column("description", "TEXT"),
            CREATED,
        ),
        primary_key=("id",),
    ),
    Table(
        schema=None,
        name="test_cases",
        columns=(
            SERIAL,
            Column("test_suite_id", "INTEGER"),
            Column("name", "VARCHAR(255)", not_null=True),
            Column("description", "TEXT"),
            Column("status", "VARCHAR(50)", "'pending'"),
            Column("result", "TEXT"),
            Column("execution_time", "INTEGER"),
            CREATED,
            Column("executed_at", "TIMESTAMP"),
        ),
        primary_key=("id",),
        checks=(listed("status", "pending", "running", "passed", "failed"),),
        foreign_keys=(ForeignKey("test_suite_id", None, "test_suites"),),
        indexes=(
            Index("idx_test_cases_test_suite_id", ("test_suite_id",)),
            Index("idx_test_cases_status", ("status",)),
        ),
    ),
    Table(
        schema=None,
        name="test_results",
        columns=(
            SERIAL,
            Column("test_case_id", "INTEGER"),
            Column("metric_name", "VARCHAR(255)", not_null=True),
            Column("metric_value", "DECIMAL(10,4)"),
            Column("threshold", "DECIMAL(10,4)"),
            Column("status", "VARCHAR(20)", "'unknown'"),
            CREATED,
        ),
        primary_key=("id",),
        checks=(listed("status", "unknown", "pass", "fail", "warning"),),
        foreign_keys=(ForeignKey("test_case_id", None, "test_cases"),),
        indexes=(Index("idx_test_results_test_case_id", ("test_case_id",)),),
    ),
    Table(
        schema=None,
        name="scheduler_tasks",
        columns=(
            SERIAL,
            Column("name", "VARCHAR(255)", not_null=True),
            Column("command", "TEXT", not_null=True),
            Column("schedule", "VARCHAR(255)"),
            Column("is_active", "BOOLEAN", "true"),
            Column("max_retries", "INTEGER", "3"),
            Column("retry_delay", "INTEGER", "60"),
            Column("timeout", "INTEGER", "300"),
            CREATED,
            UPDATED,
        ),
        primary_key=("id",),
        indexes=(Index("idx_scheduler_tasks_is_active", ("is_active",)),),
    ),
    Table(
        schema=None,
        name="scheduler_executions",
        columns=(
            SERIAL,
            Column("task_id", "INTEGER"),
            Column("status", "VARCHAR(50)", "'pending'"),
            Column("start_time", "TIMESTAMP"),
            Column("end_time", "TIMESTAMP"),
            Column("exit_code", "INTEGER"),
            Column("output", "TEXT"),
            Column("error_output", "TEXT"),
            CREATED,
        ),
        primary_key=("id",),
        checks=(listed("status", "pending", "running", "completed", "failed"),),
        foreign_keys=(ForeignKey("task_id", None, "scheduler_tasks"),),
        indexes=(
            Index("idx_scheduler_executions_task_id", ("task_id",)),
            Index("idx_scheduler_executions_status", ("status",)),
        ),
    ),
    Table(
        schema=None,
        name="workflows",
        columns=(
            SERIAL,
            Column("name", "VARCHAR(255)", not_null=True),
            Column("definition", "JSONB", not_null=True),
            Column("status", "VARCHAR(50)", "'draft'"),
            Column("created_by", "VARCHAR(255)"),
            CREATED,
            UPDATED,
        ),
        primary_key=("id",),
        checks=(listed("status", "draft", "active", "completed", "failed"),),
        indexes=(Index("idx_workflows_status", ("status",)),),
    ),
    Table(
        schema=None,
        name="workflow_executions",
        columns=(
            SERIAL,
            Column("workflow_id", "INTEGER"),
            Column("status", "VARCHAR(50)", "'pending'"),
            Column("current_step", "INTEGER", "0"),
            Column("input_data", "JSONB"),
            Column("output_data", "JSONB"),
            Column("error_message", "TEXT"),
            Column("started_at", "TIMESTAMP"),
            Column("completed_at", "TIMESTAMP"),
            CREATED,
        ),
        primary_key=("id",),
        checks=(listed("status", "pending", "running", "completed", "failed"),),
        foreign_keys=(ForeignKey("workflow_id", None, "workflows"),),
        indexes=(
            Index("idx_workflow_executions_workflow_id", ("workflow_id",)),
            Index("idx_workflow_executions_status", ("status",)),
        ),
    ),
    # From here on the documentation has no CREATE TABLE: what it states is what its examples use.
    Table(
        schema=None,
        name="memory_entries",
        columns=(Column("embedding", "vector(768)", not_null=None),),
        indexes=(
            Index("idx_memory_entries_embedding", ("embedding vector_cosine_ops",), "hnsw", HNSW_OPTIONS),
        ),
    ),
    Table(
        schema="wm",
        name="working_memory",
        columns=(
            *(Column(name, None) for name in ("id", "name", "memory_type", "provider", "status", "blob_key")),
            Column("created_at", None),
            Column("embedding", "vector(1536)"),
        ),
        indexes=(Index("embedding_idx", ("embedding vector_cosine_ops",), "hnsw"),),
    ),
    Table(
        schema="brk_tracking",
        name="broker_request",
        columns=tuple(Column(name, None) for name in ("id", "request_id", "status", "created_at")),
    ),
    Table("brk_registry", "hosting_provider", tuple(Column(name, None) for name in ("id", "name", "code"))),
    Table("brk_registry", "model_maker"),
    Table("brk_registry", "model_family"),
    Table("brk_registry", "model", tuple(Column(name, None) for name in ("id", "name"))),
    Table("brk_registry", "model_snapshot"),
    Table("brk_registry", "hosted_model", tuple(Column(name, None) for name in ("model_id", "provider_id"))),
)

COLLECTIONS = (
    Collection("general-knowledge", 1536, "cosine"),
    Collection("financial-knowledge", 1536, "cosine"),
    Collection("legal-knowledge", 1536, "cosine"),
    Collection("social-knowledge", 1536, "cosine"),
)

EXAMPLES = (
    Query(
        """
        SELECT id, name, memory_type, provider, status
        FROM wm.working_memory
        ORDER BY created_at DESC
        LIMIT 10;
        """,
        ("id", "name", "memory_type", "provider", "status"),
    ),
    Query(
        """
        SELECT id, name, blob_key, provider
        FROM wm.working_memory
        WHERE blob_key IS NOT NULL;
        """,
        ("id", "name", "blob_key", "provider"),
    ),
    Query("SELECT name, code FROM brk_registry.hosting_provider;", ("name", "code")),
    Query(
        """
        SELECT m.name as model, hp.name as provider
        FROM brk_registry.model m
        JOIN brk_registry.hosted_model hm ON m.id = hm.model_id
        JOIN brk_registry.hosting_provider hp ON hm.provider_id = hp.id
        ORDER BY hp.name, m.name;
        """,
        ("model", "provider"),
    ),
    Query(
        """
        SELECT id, request_id, status, created_at
        FROM brk_tracking.broker_request
        ORDER BY created_at DESC
        LIMIT 10;
        """,
        ("id", "request_id", "status", "created_at"),
    ),
    Query("SELECT * FROM pg_extension WHERE extname = 'vector';", ("extname", "extversion")),
    Query("SELECT '[1,2,3]'::vector <-> '[4,5,6]'::vector AS distance;", ("distance",)),
    Query("SELECT pg_size_pretty(pg_total_relation_size('memory_entries'));", ("pg_size_pretty",)),
    Query("SELECT pg_size_pretty(pg_relation_size('idx_memory_entries_embedding'));", ("pg_size_pretty",)),
    # The documentation selects `tablename` and `indexname`, which this view has never had.
    Query(
        """
        SELECT schemaname, relname, indexrelname, idx_scan, idx_tup_read, idx_tup_fetch
        FROM pg_stat_user_indexes
        WHERE indexrelname LIKE '%embedding%';
        """,
        ("schemaname", "relname", "indexrelname", "idx_scan", "idx_tup_read", "idx_tup_fetch"),
    ),
)

# With `?` for a parameter, as the documentation writes them.
RETRIEVE_MEMORIES = "SELECT * FROM memories WHERE memory_bank_id = ?"
SEARCH_MEMORIES = "SELECT * FROM memories ORDER BY embedding <=> ? LIMIT 10"
TOUCH_MEMORY = "UPDATE memories SET access_count = access_count + 1, last_accessed = NOW() WHERE id = ?"
