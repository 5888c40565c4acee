"""What calls take and return, where it is more than a row."""

from __future__ import annotations

from .broker import ModelOffer, TokenUsage, TokenUsageKey
from .conversations import ConversationSummary, NewMessage
from .entities import EdgeDirection, GraphNeighbour, GraphNode, GraphPath, Subgraph
from .events import EventConsumerLag, EventHorizon, EventPosition, NewEvent
from .knowledge import KnowledgeCollectionInfo, KnowledgeFacetCount, KnowledgePointGroup, KnowledgePointId
from .memories import (
    MemoryBankSummary,
    MemoryOutcome,
    MemoryRecallResult,
    MemoryRecallWeights,
    NewMemory,
    RememberedMemory,
)
from .model_registry import ModelEndpointSpec, ScoredModel
from .page import Page
from .partitions import MonthlyPartition
from .rag import RagContext, RagSource
from .scheduler import ClaimedExecution, ScheduleOutcome, ScheduleProblem, SchedulerTick
from .tasks import ClaimedTask, NewTask, NewTaskResult, QueueHealth, TaskBackoff
from .validation import ValidationRegression
from .workflows import ClaimedWorkflow, WaitingWorkflowVersion, WorkflowWaitResult
from .working_memory import SweptWorkingMemory

__all__ = [
    "ClaimedExecution",
    "ClaimedTask",
    "ClaimedWorkflow",
    "ConversationSummary",
    "EdgeDirection",
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
    "MemoryBankSummary",
    "MemoryOutcome",
    "MemoryRecallResult",
    "MemoryRecallWeights",
    "ModelEndpointSpec",
    "ModelOffer",
    "MonthlyPartition",
    "NewEvent",
    "NewMemory",
    "NewMessage",
    "NewTask",
    "NewTaskResult",
    "Page",
    "QueueHealth",
    "RagContext",
    "RagSource",
    "RememberedMemory",
    "ScheduleOutcome",
    "ScheduleProblem",
    "SchedulerTick",
    "ScoredModel",
    "Subgraph",
    "SweptWorkingMemory",
    "TaskBackoff",
    "TokenUsage",
    "TokenUsageKey",
    "ValidationRegression",
    "WaitingWorkflowVersion",
    "WorkflowWaitResult",
]
