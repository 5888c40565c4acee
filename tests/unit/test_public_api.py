from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import ForeignKeyConstraint, Index, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.orm import Mapper

import alfred_db
from alfred_db import AsyncDatabase, Base, Database
from alfred_db.repositories import AsyncUnitOfWork, UnitOfWork
from alfred_db.sql import SHARED_SCHEMAS
from alfred_db.types import Vector

ROOT = Path(alfred_db.__file__).parent
SECRET_COLUMNS = ("password", "token", "secret", "api_key")
MAPPERS = sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__name__)
TABLES = sorted(Base.metadata.tables.values(), key=lambda table: table.fullname)


def names(of: Any) -> str:
    """The id of a case: a table or a class by its name."""
    return of.fullname if isinstance(of, Table) else of.class_.__name__ if isinstance(of, Mapper) else str(of)


def test_the_public_names_are_these() -> None:
    assert alfred_db.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC
    assert len(set(PUBLIC)) == len(PUBLIC)


def test_every_public_name_is_there_and_nothing_else_is() -> None:
    for name in alfred_db.__all__:
        assert getattr(alfred_db, name) is not None
    ours = {name for name, value in vars(alfred_db).items() if _is_ours(value) and not name.startswith("_")}
    assert ours - set(alfred_db.__all__) == set()


def _is_ours(value: object) -> bool:
    return str(getattr(value, "__module__", "")).startswith("alfred_db")


def test_every_model_and_enum_is_public() -> None:
    assert set(alfred_db.models.__all__) - set(alfred_db.__all__) == set()
    assert {mapper.class_.__name__ for mapper in MAPPERS} <= set(alfred_db.__all__)


def test_the_package_is_marked_as_typed() -> None:
    assert (ROOT / "py.typed").read_text() == ""


# The two colours


def shape(of: Any) -> dict[str, str]:
    """Public names of a class, each with its signature; the async words of the annotations left out."""
    found: dict[str, str] = {}
    for name, value in inspect.getmembers_static(of):
        if name.startswith("_") and name not in ("__init__", "__enter__", "__aenter__"):
            continue
        function = getattr(value, "func", getattr(value, "fget", value))
        text = str(inspect.signature(function)) if callable(function) else "attribute"
        text = (
            re.sub(r"\bAsync(?=[A-Z])", "", text)
            .replace("AsyncGenerator", "Generator")
            .replace("AbstractAsync", "Abstract")
        )
        text = re.sub(r"\bAwaitable\[([^\]]*)\]", r"\1", text)
        found[name.replace("__aenter__", "__enter__")] = re.sub(r"\bCoroutine\[.*\]", "", text)
    return found


def repositories() -> list[str]:
    return [name for name in alfred_db.repositories.__all__ if not name.startswith("Async")]


def test_both_databases_have_the_same_methods() -> None:
    assert shape(Database) == shape(AsyncDatabase)


@pytest.mark.parametrize("name", repositories())
def test_both_halves_of_the_repositories_have_the_same_methods(name: str) -> None:
    assert shape(getattr(alfred_db.repositories, name)) == shape(
        getattr(alfred_db.repositories, f"Async{name}")
    )


def test_a_unit_of_work_has_every_repository() -> None:
    for unit, prefix in ((UnitOfWork, ""), (AsyncUnitOfWork, "Async")):
        session = object()
        made = unit(session)  # type: ignore[arg-type]
        nouns = [name for name, value in vars(unit).items() if isinstance(value, cached_property)]
        found = {type(getattr(made, noun)).__name__ for noun in nouns}
        wanted = {prefix + name for name in repositories() if name.endswith("Repository")}
        assert found == wanted
        assert all(getattr(made, noun) is getattr(made, noun) for noun in nouns)


# Documentation


def sources() -> Iterator[Path]:
    return (path for path in sorted(ROOT.rglob("*.py")) if "_sync" not in path.parts)


def undocumented(body: list[ast.stmt], where: str, *, exported: set[str] | None = None) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_") or (exported is not None and node.name not in exported):
            continue
        overload = any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list)
        if ast.get_docstring(node) is None and not overload:  # the implementation has it
            yield f"{where}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{where}.{node.name}")


def exported_by(tree: ast.Module) -> set[str] | None:
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
        ):
            return set(ast.literal_eval(node.value))
    return None


# Types of SQLAlchemy override these; its own documentation says what they do. A query says it by its name and body.
OVERRIDES = re.compile(
    r"types\.\w+(\.\w+)?\.(adapt|process_\w+|\w+_processor|column_expression|get_col_spec|coerce_compared_value)$"
)


@pytest.mark.parametrize("path", list(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} says nothing about itself"
    if path.parent.name == "queries":
        return
    missing = undocumented(tree.body, path.stem, exported=exported_by(tree))
    assert [name for name in missing if not OVERRIDES.search(name)] == []


def attributes_without_docstring(node: ast.ClassDef) -> Iterator[str]:
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if not ast.unparse(statement.annotation).startswith("Mapped["):
            continue
        if statement.value is not None and "relationship(" in ast.unparse(statement.value):
            continue
        documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if not documented or not isinstance(following.value.value, str):  # type: ignore[union-attr]
            yield f"{node.name}.{statement.target.id}"


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.py")), ids=lambda path: path.stem)
def test_every_column_states_what_it_means(path: Path) -> None:
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert [name for node in classes for name in attributes_without_docstring(node)] == []


# The models


@pytest.mark.parametrize("mapper", MAPPERS, ids=names)
def test_the_repr_of_a_row_shows_its_key_alone(mapper: Mapper[Any]) -> None:
    row = mapper.class_()
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        value = np.full(3, 0.4711) if isinstance(column.type, Vector) else "s3cr3t"
        row.__dict__[attribute.key] = 7 if column.primary_key else value
    assert "s3cr3t" not in repr(row)
    assert "4711" not in repr(row)
    assert repr(row).startswith(f"{mapper.class_.__name__}(")
    assert repr(mapper.class_()).startswith(f"{mapper.class_.__name__}(")


@pytest.mark.parametrize("mapper", MAPPERS, ids=names)
def test_vectors_and_secrets_are_not_fetched_unless_asked_for(mapper: Mapper[Any]) -> None:
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        secret = any(word in column.name for word in SECRET_COLUMNS) and "count" not in column.name
        if isinstance(column.type, Vector) or (secret and mapper.class_.__name__ == "User"):
            assert attribute.deferred, attribute.key


@pytest.mark.parametrize("mapper", MAPPERS, ids=names)
def test_every_relationship_has_a_way_back(mapper: Mapper[Any]) -> None:
    for relation in mapper.relationships:
        assert relation.back_populates, relation.key


@pytest.mark.parametrize("table", TABLES, ids=names)
def test_every_table_has_a_primary_key(table: Table) -> None:
    assert len(table.primary_key.columns) > 0


def _finds_every_key(index: Index) -> bool:
    """Whether it is a B-tree, and partial at most in that it leaves NULL out."""
    options = index.dialect_options["postgresql"]
    if (options["using"] or "btree") != "btree" or not index.columns:
        return False
    return (
        options["where"] is None or str(options["where"]) == f"{index.columns.values()[0].name} IS NOT NULL"
    )


@pytest.mark.parametrize("table", TABLES, ids=names)
def test_every_foreign_key_has_an_index_that_leads_with_it(table: Table) -> None:
    leading = [
        [column.name for column in index.columns] for index in table.indexes if _finds_every_key(index)
    ]
    leading += [
        [column.name for column in constraint.columns]
        for constraint in table.constraints
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint)
    ]
    for constraint in table.constraints:
        if isinstance(constraint, ForeignKeyConstraint):
            key = [column.name for column in constraint.columns]
            assert any(sorted(columns[: len(key)]) == sorted(key) for columns in leading), key


@pytest.mark.parametrize("table", TABLES, ids=names)
def test_everything_has_a_name_that_the_server_keeps(table: Table) -> None:
    preparer = psycopg.dialect().identifier_preparer
    found = [preparer.format_constraint(constraint) for constraint in table.constraints]
    found += [index.name for index in table.indexes]
    assert None not in found
    texts = [str(name).strip('"') for name in found]
    assert len(set(texts)) == len(texts)
    assert [name for name in texts if len(name) > 63] == []


@pytest.mark.parametrize("table", TABLES, ids=names)
def test_a_foreign_key_stays_at_home_or_goes_to_a_shared_catalog(table: Table) -> None:
    shared = SHARED_SCHEMAS
    for key in table.foreign_keys:
        target = key.column.table.schema
        assert (
            target == table.schema
            or target in shared
            or (table.schema not in shared and target not in shared)
        )


def test_every_module_can_be_imported() -> None:
    for module in pkgutil.walk_packages(alfred_db.__path__, "alfred_db."):
        importlib.import_module(module.name)


PUBLIC = [
    "ActiveWebSession",
    "Agent",
    "AgentRepository",
    "AgentStatus",
    "AlfredDBError",
    "AsyncAgentRepository",
    "AsyncBrokerCatalogRepository",
    "AsyncBrokerRequestRepository",
    "AsyncCacheCompute",
    "AsyncCacheRepository",
    "AsyncConversationRepository",
    "AsyncDatabase",
    "AsyncDocumentRepository",
    "AsyncEntityRepository",
    "AsyncEventRepository",
    "AsyncKnowledgeRepository",
    "AsyncLease",
    "AsyncMemoryBankRepository",
    "AsyncMemoryEntryRepository",
    "AsyncMemoryRepository",
    "AsyncMessageRepository",
    "AsyncModelRegistryRepository",
    "AsyncQueueRepository",
    "AsyncRagRepository",
    "AsyncRateLimitRepository",
    "AsyncSchedulerRepository",
    "AsyncSpaceRepository",
    "AsyncStorageRepository",
    "AsyncTaskListener",
    "AsyncTaskRepository",
    "AsyncTaskWaiter",
    "AsyncTasks",
    "AsyncTenants",
    "AsyncUnitOfWork",
    "AsyncUserRepository",
    "AsyncValidationRepository",
    "AsyncWebSessionRepository",
    "AsyncWorker",
    "AsyncWorkflowContext",
    "AsyncWorkflowRepository",
    "AsyncWorkflows",
    "AsyncWorkingMemoryRepository",
    "Base",
    "Bit",
    "Bits",
    "BitsLike",
    "BrokerCatalogRepository",
    "BrokerModel",
    "BrokerRequest",
    "BrokerRequestRepository",
    "BrokerRequestStatus",
    "Bucket",
    "CacheBound",
    "CacheClaim",
    "CacheCompute",
    "CacheEntry",
    "CacheRepository",
    "CacheSize",
    "Capability",
    "CatalogDocument",
    "ClaimedExecution",
    "ClaimedTask",
    "ClaimedWorkflow",
    "ConfigurationError",
    "ConflictError",
    "Conversation",
    "ConversationHits",
    "ConversationRepository",
    "ConversationRow",
    "ConversationSession",
    "ConversationSummary",
    "Database",
    "DatabaseUnavailable",
    "DeadTask",
    "DimensionMismatch",
    "Document",
    "DocumentChanges",
    "DocumentEmbedding",
    "DocumentRepository",
    "DocumentRow",
    "EdgeDirection",
    "Embedding",
    "EmbeddingSpace",
    "EmbeddingSpaceDefault",
    "EmbeddingSpaceInfo",
    "EntityEdge",
    "EntityNode",
    "EntityRepository",
    "Event",
    "EventConsumer",
    "EventConsumerLag",
    "EventHorizon",
    "EventPosition",
    "EventRepository",
    "ExecutionLease",
    "ExecutionStatus",
    "ExtensionMissingError",
    "ExtensionTooOldError",
    "Filter",
    "FilterCondition",
    "FoundRow",
    "GraphNeighbour",
    "GraphNode",
    "GraphPath",
    "HalfVector",
    "Hit",
    "HostedModel",
    "HostedModelPrice",
    "HostingProvider",
    "InvalidCron",
    "InvalidFilter",
    "InvalidInputError",
    "InvalidTransition",
    "InvalidVector",
    "KnowledgeAlias",
    "KnowledgeCollection",
    "KnowledgeCollectionInfo",
    "KnowledgeDistance",
    "KnowledgeFacetCount",
    "KnowledgePoint",
    "KnowledgePointGroup",
    "KnowledgePointId",
    "KnowledgePointRow",
    "KnowledgeRepository",
    "Lease",
    "LeaseLost",
    "LimitReached",
    "Matrix",
    "MatrixLike",
    "Memory",
    "MemoryBank",
    "MemoryBankChanges",
    "MemoryBankRepository",
    "MemoryBankSummary",
    "MemoryChanges",
    "MemoryEmbedding",
    "MemoryEntry",
    "MemoryEntryEmbedding",
    "MemoryEntryRepository",
    "MemoryEntryRow",
    "MemoryOutcome",
    "MemoryRecallResult",
    "MemoryRecallWeights",
    "MemoryRepository",
    "MemoryRow",
    "MessageRepository",
    "MessageRole",
    "MigrationLockTimeout",
    "MisfirePolicy",
    "ModelCapability",
    "ModelEndpoint",
    "ModelEndpointSpec",
    "ModelFamily",
    "ModelMaker",
    "ModelOffer",
    "ModelRegistryRepository",
    "ModelSnapshot",
    "MonthlyPartition",
    "NewBrokerRequest",
    "NewDocument",
    "NewEvent",
    "NewKnowledgePoint",
    "NewMemory",
    "NewMessage",
    "NewSchedule",
    "NewTask",
    "NewTaskResult",
    "NewWebSession",
    "NotFoundError",
    "OverlapPolicy",
    "Page",
    "PendingEmbedding",
    "ProcessedMessage",
    "ProvidedBy",
    "Queue",
    "QueueHealth",
    "QueueRate",
    "QueueRepository",
    "QueueSettings",
    "RagContext",
    "RagQuery",
    "RagQueryDocument",
    "RagRepository",
    "RagSession",
    "RagSource",
    "RateLimit",
    "RateLimitMethod",
    "RateLimitRepository",
    "RateLimitState",
    "RateLimitUsage",
    "RateLimitWindow",
    "RegistryModel",
    "RegistryModelChanges",
    "RememberedMemory",
    "Retry",
    "ScheduleOutcome",
    "ScheduleProblem",
    "ScheduledExecution",
    "ScheduledTask",
    "SchedulerRepository",
    "SchedulerTick",
    "SchemaDriftError",
    "SchemaError",
    "SchemaOutdatedError",
    "SchemaTooNewError",
    "ScoredModel",
    "SearchCandidates",
    "SearchParams",
    "SearchPath",
    "SearchResult",
    "SearchWeights",
    "SpaceCoverage",
    "SpaceIndex",
    "SpaceKind",
    "SpaceRepository",
    "SpaceState",
    "SpaceStorage",
    "SparseLike",
    "SparseVector",
    "StorageObject",
    "StorageRepository",
    "Subgraph",
    "SweptWorkingMemory",
    "Task",
    "TaskBackoff",
    "TaskBatch",
    "TaskBatchProgress",
    "TaskCount",
    "TaskDependency",
    "TaskFailed",
    "TaskListener",
    "TaskOutcome",
    "TaskProgress",
    "TaskRepository",
    "TaskResult",
    "TaskStatus",
    "TaskWaiter",
    "Tasks",
    "Tenant",
    "TenantMove",
    "TenantMoveReport",
    "TenantOutcome",
    "TenantReport",
    "TenantServer",
    "Tenants",
    "TestCase",
    "TestCaseStatus",
    "TestResult",
    "TestResultStatus",
    "TestRun",
    "TestRunStatus",
    "TestSuite",
    "TokenUsage",
    "TokenUsageKey",
    "UnitOfWork",
    "UnreadableRow",
    "User",
    "UserRepository",
    "ValidationRegression",
    "ValidationRepository",
    "Vector",
    "VectorLike",
    "WaitTimeout",
    "WaitingWorkflowVersion",
    "WebSession",
    "WebSessionRepository",
    "Worker",
    "Workflow",
    "WorkflowChanged",
    "WorkflowChildFailed",
    "WorkflowChildResult",
    "WorkflowContext",
    "WorkflowEvent",
    "WorkflowExecution",
    "WorkflowExecutionStatus",
    "WorkflowFunction",
    "WorkflowOutcome",
    "WorkflowRepository",
    "WorkflowRun",
    "WorkflowStatus",
    "WorkflowStep",
    "WorkflowStepFailed",
    "WorkflowStepFunction",
    "WorkflowStepKind",
    "WorkflowWaitResult",
    "Workflows",
    "WorkingMemory",
    "WorkingMemoryChanges",
    "WorkingMemoryEmbedding",
    "WorkingMemoryRepository",
    "WorkingMemoryRow",
    "WorkingMemoryStatus",
    "cosine_distance",
    "hamming_distance",
    "jaccard_distance",
    "l1_distance",
    "l2_distance",
    "max_inner_product",
    "qdrant_filter",
    "read_result",
    "workflow",
    "workflow_step",
]


def test_signatures_are_pinned() -> None:
    """A changed signature shows in a diff: `make api` writes it down, and the CHANGELOG describes it."""
    done = subprocess.run(
        [sys.executable, "tools/api.py", "--check"],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
