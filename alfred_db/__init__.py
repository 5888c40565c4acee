"""The data layer of AI-agent platforms on one PostgreSQL.

from alfred_db import Database

db = Database()                    # ALFRED_DB_URL, DATABASE_URL, or the embedded server
db.upgrade()
with db.begin() as uow:            # one transaction over all repositories
    uow.agents.register("writer", type="llm", version="1.0")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .database import (
        AsyncDatabase,
        Database,
    )
    from .errors import (
        AlfredDBError,
        ConfigurationError,
        ConflictError,
        DatabaseUnavailable,
        DimensionMismatch,
        ExtensionMissingError,
        ExtensionTooOldError,
        InvalidCron,
        InvalidFilter,
        InvalidInputError,
        InvalidTransition,
        InvalidVector,
        LeaseLost,
        MigrationLockTimeout,
        NotFoundError,
        SchemaDriftError,
        SchemaError,
        SchemaOutdatedError,
        SchemaTooNewError,
    )
    from .models import (
        Agent,
        AgentStatus,
        Base,
        BrokerModel,
        BrokerRequest,
        BrokerRequestStatus,
        Bucket,
        Capability,
        Conversation,
        Document,
        EntityEdge,
        EntityNode,
        ExecutionStatus,
        HostedModel,
        HostedModelPrice,
        HostingProvider,
        KnowledgeAlias,
        KnowledgeCollection,
        KnowledgeDistance,
        KnowledgePoint,
        Memory,
        MemoryBank,
        MemoryEntry,
        MessageRole,
        MisfirePolicy,
        ModelCapability,
        ModelEndpoint,
        ModelFamily,
        ModelMaker,
        ModelSnapshot,
        OverlapPolicy,
        ProcessedMessage,
        ProvidedBy,
        RagQuery,
        RagQueryDocument,
        RagSession,
        RegistryModel,
        ScheduledExecution,
        ScheduledTask,
        StorageObject,
        Task,
        TaskResult,
        TaskStatus,
        TestCase,
        TestCaseStatus,
        TestResult,
        TestResultStatus,
        TestRun,
        TestRunStatus,
        TestSuite,
        User,
        Workflow,
        WorkflowEvent,
        WorkflowExecution,
        WorkflowExecutionStatus,
        WorkflowStatus,
        WorkflowStep,
        WorkingMemory,
        WorkingMemoryStatus,
    )
    from .repositories import (
        AgentRepository,
        AsyncAgentRepository,
        AsyncUnitOfWork,
        UnitOfWork,
    )
    from .results import (
        Page,
    )
    from .types import (
        Embedding,
        Vector,
        VectorLike,
    )

__all__ = [
    "Agent",
    "AgentRepository",
    "AgentStatus",
    "AlfredDBError",
    "AsyncAgentRepository",
    "AsyncDatabase",
    "AsyncUnitOfWork",
    "Base",
    "BrokerModel",
    "BrokerRequest",
    "BrokerRequestStatus",
    "Bucket",
    "Capability",
    "ConfigurationError",
    "ConflictError",
    "Conversation",
    "Database",
    "DatabaseUnavailable",
    "DimensionMismatch",
    "Document",
    "Embedding",
    "EntityEdge",
    "EntityNode",
    "ExecutionStatus",
    "ExtensionMissingError",
    "ExtensionTooOldError",
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
    "KnowledgeDistance",
    "KnowledgePoint",
    "LeaseLost",
    "Memory",
    "MemoryBank",
    "MemoryEntry",
    "MessageRole",
    "MigrationLockTimeout",
    "MisfirePolicy",
    "ModelCapability",
    "ModelEndpoint",
    "ModelFamily",
    "ModelMaker",
    "ModelSnapshot",
    "NotFoundError",
    "OverlapPolicy",
    "Page",
    "ProcessedMessage",
    "ProvidedBy",
    "RagQuery",
    "RagQueryDocument",
    "RagSession",
    "RegistryModel",
    "ScheduledExecution",
    "ScheduledTask",
    "SchemaDriftError",
    "SchemaError",
    "SchemaOutdatedError",
    "SchemaTooNewError",
    "StorageObject",
    "Task",
    "TaskResult",
    "TaskStatus",
    "TestCase",
    "TestCaseStatus",
    "TestResult",
    "TestResultStatus",
    "TestRun",
    "TestRunStatus",
    "TestSuite",
    "UnitOfWork",
    "User",
    "Vector",
    "VectorLike",
    "Workflow",
    "WorkflowEvent",
    "WorkflowExecution",
    "WorkflowExecutionStatus",
    "WorkflowStatus",
    "WorkflowStep",
    "WorkingMemory",
    "WorkingMemoryStatus",
]

_MODULES = ("errors", "results", "types", "models", "repositories", "database")


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: defining the models takes longer than importing numpy."""
    if name in __all__:
        for module in _MODULES:
            found = import_module(f".{module}", __name__)
            if name in found.__all__:
                value = globals()[name] = getattr(found, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
