"""The tables as SQLAlchemy models. Importing this package completes the metadata."""

from __future__ import annotations

from .agents import Agent, AgentStatus
from .auth import User
from .base import Base
from .broker import (
    BrokerModel,
    HostedModel,
    HostedModelPrice,
    HostingProvider,
    ModelFamily,
    ModelMaker,
    ModelSnapshot,
)
from .broker_requests import BrokerRequest, BrokerRequestStatus
from .cache import CacheBound, CacheClaim, CacheEntry
from .capabilities import Capability, ProvidedBy
from .conversations import Conversation, ConversationSession, MessageRole
from .documents import Document
from .entities import EntityEdge, EntityNode
from .events import Event, EventConsumer
from .knowledge import KnowledgeAlias, KnowledgeCollection, KnowledgeDistance, KnowledgePoint
from .memories import Memory, MemoryBank, MemoryEntry
from .messages import ProcessedMessage
from .model_registry import ModelCapability, ModelEndpoint, RegistryModel
from .queues import Queue
from .rag import RagQuery, RagQueryDocument, RagSession
from .rate_limits import RateLimitState
from .scheduler import ExecutionStatus, MisfirePolicy, OverlapPolicy, ScheduledExecution, ScheduledTask
from .servers import TenantMove, TenantServer
from .spaces import (
    DocumentEmbedding,
    EmbeddingSpace,
    EmbeddingSpaceDefault,
    MemoryEmbedding,
    MemoryEntryEmbedding,
    SpaceIndex,
    SpaceKind,
    SpaceState,
    SpaceStorage,
    WorkingMemoryEmbedding,
)
from .storage import Bucket, StorageObject
from .tasks import Task, TaskDependency, TaskProgress, TaskResult, TaskStatus
from .validation import (
    TestCase,
    TestCaseStatus,
    TestResult,
    TestResultStatus,
    TestRun,
    TestRunStatus,
    TestSuite,
)
from .web_sessions import WebSession
from .workflows import (
    Workflow,
    WorkflowEvent,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowStatus,
    WorkflowStep,
    WorkflowStepKind,
)
from .working_memory import WorkingMemory, WorkingMemoryStatus

__all__ = [
    "Agent",
    "AgentStatus",
    "Base",
    "BrokerModel",
    "BrokerRequest",
    "BrokerRequestStatus",
    "Bucket",
    "CacheBound",
    "CacheClaim",
    "CacheEntry",
    "Capability",
    "Conversation",
    "ConversationSession",
    "Document",
    "DocumentEmbedding",
    "EmbeddingSpace",
    "EmbeddingSpaceDefault",
    "EntityEdge",
    "EntityNode",
    "Event",
    "EventConsumer",
    "ExecutionStatus",
    "HostedModel",
    "HostedModelPrice",
    "HostingProvider",
    "KnowledgeAlias",
    "KnowledgeCollection",
    "KnowledgeDistance",
    "KnowledgePoint",
    "Memory",
    "MemoryBank",
    "MemoryEmbedding",
    "MemoryEntry",
    "MemoryEntryEmbedding",
    "MessageRole",
    "MisfirePolicy",
    "ModelCapability",
    "ModelEndpoint",
    "ModelFamily",
    "ModelMaker",
    "ModelSnapshot",
    "OverlapPolicy",
    "ProcessedMessage",
    "ProvidedBy",
    "Queue",
    "RagQuery",
    "RagQueryDocument",
    "RagSession",
    "RateLimitState",
    "RegistryModel",
    "ScheduledExecution",
    "ScheduledTask",
    "SpaceIndex",
    "SpaceKind",
    "SpaceState",
    "SpaceStorage",
    "StorageObject",
    "Task",
    "TaskDependency",
    "TaskProgress",
    "TaskResult",
    "TaskStatus",
    "TenantMove",
    "TenantServer",
    "TestCase",
    "TestCaseStatus",
    "TestResult",
    "TestResultStatus",
    "TestRun",
    "TestRunStatus",
    "TestSuite",
    "User",
    "WebSession",
    "Workflow",
    "WorkflowEvent",
    "WorkflowExecution",
    "WorkflowExecutionStatus",
    "WorkflowStatus",
    "WorkflowStep",
    "WorkflowStepKind",
    "WorkingMemory",
    "WorkingMemoryEmbedding",
    "WorkingMemoryStatus",
]
