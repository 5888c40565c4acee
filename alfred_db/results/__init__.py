"""What repositories give back when it is more than a row: one module a noun."""

from __future__ import annotations

from .broker import Offer, Partition, Usage, UsageKey
from .entities import Direction, Neighbour, Node, Path, Subgraph
from .knowledge import CollectionInfo, FacetCount, PointGroup, PointId
from .memories import BankSummary, NewMemory, Outcome, RecallResult, RecallWeights, Remembered
from .model_registry import EndpointSpec, ScoredModel
from .page import Page
from .scheduler import ClaimedExecution, HeldExecution, InvalidSchedule, Tick
from .validation import Regression
from .workflows import ClaimedWorkflow, HeldWorkflow, WaitingVersion, WaitResult

__all__ = [
    "BankSummary",
    "ClaimedExecution",
    "ClaimedWorkflow",
    "CollectionInfo",
    "Direction",
    "EndpointSpec",
    "FacetCount",
    "HeldExecution",
    "HeldWorkflow",
    "InvalidSchedule",
    "Neighbour",
    "NewMemory",
    "Node",
    "Offer",
    "Outcome",
    "Page",
    "Partition",
    "Path",
    "PointGroup",
    "PointId",
    "RecallResult",
    "RecallWeights",
    "Regression",
    "Remembered",
    "ScoredModel",
    "Subgraph",
    "Tick",
    "Usage",
    "UsageKey",
    "WaitResult",
    "WaitingVersion",
]
