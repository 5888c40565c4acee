"""Results of the repository of entities."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from ..models import EntityEdge, EntityNode

__all__ = ["EdgeDirection", "GraphNeighbour", "GraphNode", "GraphPath", "Subgraph"]

EdgeDirection: TypeAlias = Literal["out", "in", "both"]
"""Which edges to follow: from source to target, from target to source, or both."""


class GraphNode(NamedTuple):
    """A node found by a traversal, as plain values; `get_node` returns the row."""

    id: uuid.UUID
    node_type: str
    key: str
    name: str | None
    description: str | None
    properties: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GraphNeighbour:
    """A node that can be reached, with the fewest edges to it."""

    node: GraphNode
    depth: int
    """Number of edges to it; 1 is an adjacent node."""
    via: uuid.UUID
    """Id of the last edge of the path."""
    edge_type: str
    """Type of that edge."""


@dataclass(frozen=True, slots=True)
class GraphPath:
    """A path between two nodes; `edges[i]` joins `nodes[i]` and `nodes[i + 1]`."""

    nodes: Sequence[EntityNode]
    edges: Sequence[EntityEdge]

    def __len__(self) -> int:
        return len(self.edges)

    def __bool__(self) -> bool:
        """Return True, also for a path of a single node without edges."""
        return True


@dataclass(frozen=True, slots=True)
class Subgraph:
    """Nodes, and the edges between them."""

    nodes: Sequence[EntityNode]
    edges: Sequence[EntityEdge]
    truncated: bool
    """Whether a limit was reached, so that there may be more nodes or edges."""
