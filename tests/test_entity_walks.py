"""Paths and subgraphs of random graphs, beside what a plain search in memory finds."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, insert, text

from alfred_db import Database, EntityEdge, EntityNode, UnitOfWork
from alfred_db.errors import LimitReached
from alfred_db.queries import entity_walks as queries
from alfred_db.queries.shapes.explain import Explain
from alfred_db.repositories._sync import entity_walks
from alfred_db.values.entities import EdgeDirection

NODES = 7
KINDS = ("now", "ended", "superseded")
Edge = tuple[int, int, str, str]

edges = st.lists(
    st.tuples(
        st.integers(0, NODES - 1),
        st.integers(0, NODES - 1),
        st.sampled_from("ab"),
        st.sampled_from((*KINDS, "now", "now")),
    ),
    max_size=24,
    unique_by=lambda edge: edge[:3],
)
directions = st.sampled_from(("out", "in", "both"))
types = st.sampled_from((None, ["a"], ["a", "b"], []))


@pytest.fixture(scope="module")
def db(migrated_url: URL) -> Iterator[Database]:
    with Database(migrated_url) as database:
        yield database


@pytest.fixture(
    params=[(1, 2, 1), (2, 3, 3), (entity_walks.FIRST, entity_walks.MORE, queries.HUB)],
    ids=["hubs", "few", "usual"],
)
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What counts as many edges: for graphs of a test, almost each node has that many."""
    first, more, hub = request.param
    monkeypatch.setattr(entity_walks, "FIRST", first)
    monkeypatch.setattr(entity_walks, "MORE", more)
    monkeypatch.setattr(queries, "HUB", hub)
    queries._subgraph.cache_clear()
    yield
    queries._subgraph.cache_clear()


@contextmanager
def undone(db: Database) -> Iterator[UnitOfWork]:
    with db.session() as session:
        yield UnitOfWork(session)


def build(uow: UnitOfWork, drawn: list[Edge]) -> list[uuid.UUID]:
    nodes = [uuid.uuid4() for _ in range(NODES)]
    uow.session.execute(
        insert(EntityNode), [{"id": id, "node_type": "random", "key": str(id)} for id in nodes]
    )
    now = datetime.now(UTC)
    past = now - timedelta(hours=1)
    rows = [
        {
            "source_id": nodes[source],
            "target_id": nodes[target],
            "edge_type": edge_type,
            "weight": source,
            "valid_from": now - timedelta(days=1),
            "valid_to": past if kind == "ended" else None,
            "superseded_at": past if kind == "superseded" else None,
        }
        for source, target, edge_type, kind in drawn
    ]
    if rows:
        uow.session.execute(insert(EntityEdge), rows)
    return nodes


def steps(drawn: list[Edge], direction: EdgeDirection, chosen: list[str] | None) -> set[tuple[int, int]]:
    """The pairs of nodes that one edge leads to and from."""
    holding = {edge[:2] for edge in drawn if edge[3] == "now" and (chosen is None or edge[2] in chosen)}
    back = {(target, source) for source, target in holding}
    return {"out": holding, "in": back, "both": holding | back}[direction]


def distances(start: set[int], pairs: set[tuple[int, int]]) -> dict[int, int]:
    found = dict.fromkeys(start, 0)
    for depth in itertools.count(1):
        new = {there for here, there in pairs if here in found} - found.keys()
        if not new:
            return found
        found |= dict.fromkeys(new, depth)
    raise AssertionError


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=edges, direction=directions, chosen=types, depth=st.integers(1, 6), end=st.integers(0, NODES - 1)
)
def test_a_path_has_the_fewest_edges(
    db: Database,
    limits: None,
    drawn: list[Edge],
    direction: EdgeDirection,
    chosen: list[str] | None,
    depth: int,
    end: int,
) -> None:
    pairs = steps(drawn, direction, chosen)
    with undone(db) as uow:
        nodes = build(uow, drawn)
        expected = distances({0}, pairs).get(end)
        path = uow.entities.shortest_path(
            nodes[0], nodes[end], direction=direction, edge_types=chosen, max_depth=depth
        )
        if expected is None or expected > depth:
            assert path is None
            return
        assert path is not None
        assert len(path) == expected
        places = [nodes.index(node.id) for node in path.nodes]
        assert (places[0], places[-1]) == (0, end)
        for here, there, edge in zip(places, places[1:], path.edges, strict=False):
            ends = (nodes.index(edge.source_id), nodes.index(edge.target_id))
            assert (here, there) in (
                {"out": [ends], "in": [ends[::-1]], "both": [ends, ends[::-1]]}[direction]
            )
            assert (*ends, edge.edge_type, "now") in drawn
            assert chosen is None or edge.edge_type in chosen


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=edges,
    direction=directions,
    chosen=types,
    depth=st.integers(0, 3),
    start=st.lists(st.integers(0, NODES - 1), min_size=1, max_size=3),
)
def test_a_subgraph_has_every_edge_between_its_nodes(
    db: Database,
    limits: None,
    drawn: list[Edge],
    direction: EdgeDirection,
    chosen: list[str] | None,
    depth: int,
    start: list[int],
) -> None:
    reached = distances(set(start), steps(drawn, direction, chosen))
    inside = {node for node, away in reached.items() if away <= depth}
    with undone(db) as uow:
        nodes = build(uow, drawn)
        found = uow.entities.subgraph(
            [nodes[one] for one in start], depth=depth, direction=direction, edge_types=chosen
        )
        assert sorted(nodes.index(node.id) for node in found.nodes) == sorted(inside)
        assert not found.truncated
        assert sorted(
            (nodes.index(edge.source_id), nodes.index(edge.target_id), edge.edge_type) for edge in found.edges
        ) == sorted(
            edge[:3]
            for edge in drawn
            if edge[3] == "now" and {edge[0], edge[1]} <= inside and (chosen is None or edge[2] in chosen)
        )


FILL = (
    "INSERT INTO entity.entity_node (id, node_type, key) SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,"
    " 'big', n::text FROM generate_series(0, 20005) AS n",
    # Two hubs with 10,000 nodes of their own each; 20003 stands beside the first one, and 20004 behind a node of it.
    "INSERT INTO entity.entity_edge (source_id, target_id, edge_type) SELECT"
    " ('00000000-0000-7000-8000-' || lpad(to_hex(n % 2), 12, '0'))::uuid, ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,"
    " CASE WHEN n = 20000 THEN 'rare' ELSE 'common' END FROM generate_series(2, 20003) AS n",
    "INSERT INTO entity.entity_edge (source_id, target_id, edge_type) SELECT"
    " ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '00000000-0000-7000-8000-000000004e24', 'common'"
    " FROM generate_series(20001, 20003) AS n",
)


def node(number: int) -> uuid.UUID:
    return uuid.UUID(f"00000000-0000-7000-8000-{number:012x}")


def test_a_hub_is_not_read_whole(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    fetch = entity_walks.fetch

    def counted(*arguments: Any, **options: Any) -> Any:
        rows = fetch(*arguments, **options)
        read.append(len(rows))
        return rows

    monkeypatch.setattr(entity_walks, "fetch", counted)
    with db.session() as session:
        uow = UnitOfWork(session)
        for statement in FILL:
            session.execute(text(statement))
        session.execute(text("ANALYZE entity.entity_edge"))
        shortest_path = uow.entities.shortest_path
        for source, target, direction, length in (
            (0, 20002, "out", 1), (1, 20004, "out", 2), (20004, 1, "in", 2), (0, 20004, "both", 2), (20004, 0, "out", None), (0, 20005, "out", None),
        ):  # fmt: skip
            read.clear()
            path = shortest_path(node(source), node(target), direction=direction)  # type: ignore[arg-type]
            assert (None if path is None else len(path)) == length, (source, target)
            assert sum(read) < 1_000, (source, target, read)
        # Between two hubs, which nothing but a hub leads to, one of them is read.
        path = shortest_path(node(0), node(1), direction="both")
        assert path is not None
        assert len(path) == 4
        with pytest.raises(LimitReached, match="no path found after reading 3000 edges; pass `edge_types`"):
            shortest_path(node(0), node(1), direction="both", max_edges=3_000)
        read.clear()
        with pytest.raises(LimitReached):
            shortest_path(node(0), node(1), direction="both", max_edges=3_000)
        assert sum(read) == 3_000
        found = uow.entities.subgraph([node(0), node(20004)], depth=1, direction="out", fan_out=100)
        assert (len(found.nodes), len(found.edges)) == (102, 100)


def test_the_edge_between_two_nodes_is_looked_up(db: Database) -> None:
    """No statement reads the edges of one node, or of both, to find those between them."""
    key = "('00000000-0000-7000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
    way = Explain(queries.way("both", typed=False, dated=False))
    between = Explain(queries.subgraph("out", typed=False, dated=False))
    pair = {"nodes": [node(0), node(7)], "following": [node(7)]}
    around = {"start": [node(0)], "depth": 1, "cap": 100, "limit": 100, "most": 100}
    with db.session() as session:
        session.execute(
            text(
                "INSERT INTO entity.entity_node (id, node_type, key)"
                f" SELECT {key.format('n')}, 'even', n::text FROM generate_series(0, 2999) AS n"
            )
        )
        # The first node has an edge to each other one, which have five edges. A search of the key for each of the types
        # would cost more than to read all edges of a node.
        session.execute(
            text(
                "INSERT INTO entity.entity_edge (source_id, target_id, edge_type)"
                f" SELECT {key.format('0')}, {key.format('n')}, 'type-' || n % 40 FROM generate_series(1, 2999) AS n UNION ALL"
                f" SELECT {key.format('n')}, {key.format('(n * 7 + k * 13) % 3000')}, 'type-' || n % 40"
                " FROM generate_series(1, 2999) AS n, generate_series(1, 5) AS k WHERE n <> (n * 7 + k * 13) % 3000"
            )
        )
        session.execute(text("ANALYZE entity.entity_edge"))
        for statement, parameters in ((way, pair), (between, around)):
            plan = "\n".join(session.scalars(statement, parameters))
            assert "uq_entity_edge_source_id_target_id_edge_type_valid_from" in plan, plan
            assert "BitmapAnd" not in plan, plan
