"""Arguments and results of the repositories that are not rows of a table."""

from __future__ import annotations

from .broker import ModelOffer, NewBrokerRequest, TokenUsage, TokenUsageKey
from .broker_catalog import CatalogDocument
from .cache import AsyncCacheCompute, CacheCompute, CacheSize
from .conversations import ConversationHits, ConversationRow, ConversationSummary, NewMessage
from .documents import DocumentChanges, DocumentRow, NewDocument
from .entities import EdgeDirection, GraphNeighbour, GraphNode, GraphPath, Subgraph
from .events import EventConsumerLag, EventHorizon, EventPosition, NewEvent
from .knowledge import (
    KnowledgeCollectionInfo,
    KnowledgeFacetCount,
    KnowledgePointGroup,
    KnowledgePointId,
    KnowledgePointRow,
    NewKnowledgePoint,
)
from .memories import (
    MemoryBankSummary,
    MemoryChanges,
    MemoryOutcome,
    MemoryRecallResult,
    MemoryRecallWeights,
    MemoryRow,
    NewMemory,
    RememberedMemory,
)
from .memory_banks import MemoryBankChanges
from .memory_entries import MemoryEntryRow
from .model_registry import ModelEndpointSpec, RegistryModelChanges, ScoredModel
from .page import Page
from .partitions import MonthlyPartition
from .queues import QueueRate, QueueSettings
from .rag import RagContext, RagSource
from .rate_limits import RateLimit, RateLimitMethod, RateLimitUsage, RateLimitWindow
from .scheduler import ClaimedExecution, NewSchedule, ScheduleOutcome, ScheduleProblem, SchedulerTick
from .spaces import EmbeddingSpaceInfo, PendingEmbedding, SpaceCoverage
from .task_outcomes import TaskOutcome, read_result
from .tasks import (
    ClaimedTask,
    NewTask,
    NewTaskResult,
    QueueHealth,
    TaskBackoff,
    TaskBatch,
    TaskBatchProgress,
    TaskCount,
)
from .validation import ValidationRegression
from .web_sessions import ActiveWebSession, NewWebSession
from .workflows import ClaimedWorkflow, WaitingWorkflowVersion, WorkflowChildResult, WorkflowWaitResult
from .working_memory import SweptWorkingMemory, WorkingMemoryChanges, WorkingMemoryRow

__all__ = [
    "ActiveWebSession",
    "AsyncCacheCompute",
    "CacheCompute",
    "CacheSize",
    "CatalogDocument",
    "ClaimedExecution",
    "ClaimedTask",
    "ClaimedWorkflow",
    "ConversationHits",
    "ConversationRow",
    "ConversationSummary",
    "DocumentChanges",
    "DocumentRow",
    "EdgeDirection",
    "EmbeddingSpaceInfo",
    "EventConsumerLag",
    "EventHorizon",
    "EventPosition",
    "GraphNeighbour",
    "GraphNode",
    "GraphPath",
    "KnowledgeCollectionInfo",
    "KnowledgeFacetCount",
    "KnowledgePointGroup",
    "KnowledgePointId",
    "KnowledgePointRow",
    "MemoryBankChanges",
    "MemoryBankSummary",
    "MemoryChanges",
    "MemoryEntryRow",
    "MemoryOutcome",
    "MemoryRecallResult",
    "MemoryRecallWeights",
    "MemoryRow",
    "ModelEndpointSpec",
    "ModelOffer",
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
    "Page",
    "PendingEmbedding",
    "QueueHealth",
    "QueueRate",
    "QueueSettings",
    "RagContext",
    "RagSource",
    "RateLimit",
    "RateLimitMethod",
    "RateLimitUsage",
    "RateLimitWindow",
    "RegistryModelChanges",
    "RememberedMemory",
    "ScheduleOutcome",
    "ScheduleProblem",
    "SchedulerTick",
    "ScoredModel",
    "SpaceCoverage",
    "Subgraph",
    "SweptWorkingMemory",
    "TaskBackoff",
    "TaskBatch",
    "TaskBatchProgress",
    "TaskCount",
    "TaskOutcome",
    "TokenUsage",
    "TokenUsageKey",
    "ValidationRegression",
    "WaitingWorkflowVersion",
    "WorkflowChildResult",
    "WorkflowWaitResult",
    "WorkingMemoryChanges",
    "WorkingMemoryRow",
    "read_result",
]
