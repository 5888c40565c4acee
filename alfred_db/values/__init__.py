"""What calls take and return, where it is more than a row."""

from __future__ import annotations

from .broker import Offer, Usage, UsageKey
from .conversations import NewMessage, SessionSummary
from .entities import Direction, Neighbour, Node, Path, Subgraph
from .events import ConsumerLag, EventPosition, Horizon, NewEvent
from .knowledge import CollectionInfo, FacetCount, PointGroup, PointId
from .memories import BankSummary, NewMemory, Outcome, RecallResult, RecallWeights, Remembered
from .model_registry import EndpointSpec, ScoredModel
from .page import Page
from .partitions import Partition
from .rag import Context, Source
from .scheduler import ClaimedExecution, HeldExecution, InvalidSchedule, ScheduleOutcome, Tick
from .tasks import Backoff, ClaimedTask, NewResult, NewTask, QueueHealth
from .validation import Regression
from .workflows import ClaimedWorkflow, HeldWorkflow, WaitingVersion, WaitResult
from .working_memory import SweptMemory

__all__ = [
    "Backoff",
    "BankSummary",
    "ClaimedExecution",
    "ClaimedTask",
    "ClaimedWorkflow",
    "CollectionInfo",
    "ConsumerLag",
    "Context",
    "Direction",
    "EndpointSpec",
    "EventPosition",
    "FacetCount",
    "HeldExecution",
    "HeldWorkflow",
    "Horizon",
    "InvalidSchedule",
    "Neighbour",
    "NewEvent",
    "NewMemory",
    "NewMessage",
    "NewResult",
    "NewTask",
    "Node",
    "Offer",
    "Outcome",
    "Page",
    "Partition",
    "Path",
    "PointGroup",
    "PointId",
    "QueueHealth",
    "RecallResult",
    "RecallWeights",
    "Regression",
    "Remembered",
    "ScheduleOutcome",
    "ScoredModel",
    "SessionSummary",
    "Source",
    "Subgraph",
    "SweptMemory",
    "Tick",
    "Usage",
    "UsageKey",
    "WaitResult",
    "WaitingVersion",
]
