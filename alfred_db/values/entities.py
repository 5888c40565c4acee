"""What the entity graph gives back when it is more than a row."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from ..models import EntityEdge, EntityNode

__all__ = ["EdgeDirection", "GraphNeighbour", "GraphNode", "GraphPath", "Subgraph"]

EdgeDirection: TypeAlias = Literal["out", "in", "both"]
"""Which edges are followed: from source to target, from target to source, or both ways."""


class GraphNode(NamedTuple):
    """What a walk says of a node: values, which no session keeps; `get_node` gives the row."""

    id: uuid.UUID
    node_type: str
    key: str
    name: str | None
    description: str | None
    properties: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GraphNeighbour:
    """A node that can be reached, by the fewest edges."""

    node: GraphNode
    depth: int
    """How many edges away it is; 1 is next door."""
    via: uuid.UUID
    """Id of the last edge on the way to it."""
    edge_type: str
    """The relation which that edge states."""


@dataclass(frozen=True, slots=True)
class GraphPath:
    """A way from one node to another; `edges[i]` joins `nodes[i]` and `nodes[i + 1]`."""

    nodes: Sequence[EntityNode]
    edges: Sequence[EntityEdge]

    def __len__(self) -> int:
        return len(self.edges)

    def __bool__(self) -> bool:
        """A path is true even where it starts at its end and has no edge."""
        return True


@dataclass(frozen=True, slots=True)
class Subgraph:
    """Some nodes, and the edges that join them."""

    nodes: Sequence[EntityNode]
    edges: Sequence[EntityEdge]
    truncated: bool
    """Whether a limit was reached, so that there may be more."""
