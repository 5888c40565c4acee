"""Neighbours to depth 3 in a graph of 100k nodes and 500k edges: the repository beside the same SQL by hand."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import psycopg
from harness import Page, Server, Target, at_most, publish, table, targets
from sqlalchemy import text

from alfred_db import Database
from alfred_db.repositories import EntityRepository
from alfred_db.values.entities import GraphNeighbour

NODES, EDGES = 100_000, 500_000
CALLS = 300
WARM = 20
LIMIT = 1.3

GRAPH = """
    SELECT setseed(0.5);
    INSERT INTO entity.entity_node (id, node_type, key, name, properties)
    SELECT md5(n::text)::uuid, 'thing', 'k' || n, 'Thing ' || n, jsonb_build_object('number', n)
    FROM generate_series(1, :nodes) n;
    INSERT INTO entity.entity_edge (source_id, target_id, edge_type, weight, valid_from)
    SELECT md5((1 + (n::bigint * 7919) % :nodes)::text)::uuid, md5((1 + floor(random() * :nodes))::int::text)::uuid,
        'knows', random(), '2020-01-01'
    FROM generate_series(1, :edges) n
    ON CONFLICT DO NOTHING
"""

BY_HAND = """
    WITH RECURSIVE walk (node_id, depth, edge_id) AS (
        SELECT id, 0, NULL::uuid FROM entity.entity_node WHERE id = %(node)s
        UNION ALL
        SELECT level.node_id, level.depth, level.edge_id FROM (
            SELECT DISTINCT ON (step.node_id) step.node_id, walk.depth + 1 AS depth, step.edge_id
            FROM walk, LATERAL (
                SELECT target_id AS node_id, id AS edge_id FROM entity.entity_edge
                WHERE source_id = walk.node_id AND superseded_at IS NULL AND valid_from <= statement_timestamp()
                    AND (valid_to IS NULL OR valid_to > statement_timestamp())
                ORDER BY weight DESC, id DESC LIMIT %(cap)s
            ) AS step
            WHERE walk.depth < %(depth)s ORDER BY step.node_id, step.edge_id
        ) AS level
    ), first AS (
        SELECT DISTINCT ON (node_id) node_id, depth, edge_id FROM walk ORDER BY node_id, depth, edge_id
    )
    SELECT n.id, n.node_type, n.key, n.name, n.description, n.properties, first.depth, e.id, e.edge_type
    FROM first JOIN entity.entity_node n ON n.id = first.node_id JOIN entity.entity_edge e ON e.id = first.edge_id
    ORDER BY first.depth, first.node_id LIMIT %(limit)s
"""


def measure(server: Server, page: Page, part: float = 1.0) -> list[Target]:
    """Publish it on the page."""
    url, nodes, edges, calls = server.database("graph"), int(NODES * part), int(EDGES * part), CALLS
    with Database(url) as database:
        database.upgrade()
        with database.session() as session:
            for statement in GRAPH.split(";"):
                session.execute(
                    text(statement), {"nodes": nodes, "edges": edges} if ":nodes" in statement else {}
                )
            session.commit()
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE entity.entity_node, entity.entity_edge"))
            ids = list(connection.scalars(text("SELECT id FROM entity.entity_node ORDER BY id")))
            made = connection.scalar(text("SELECT count(*) FROM entity.entity_edge")) or 0
        chosen = random.Random(7).sample(ids, calls + WARM)
        with psycopg.connect(url) as raw, database.session() as session:
            entities = EntityRepository(session)
            by_hand: list[float] = []
            by_repository: list[float] = []
            rows = 0
            for number, node in enumerate(chosen):
                turns = partial(neighbours_by_hand, raw, node), partial(neighbours_of, entities, node)
                times: list[float] = [0.0, 0.0]
                found: list[Any] = [None, None]
                for turn in (0, 1) if number % 2 else (1, 0):
                    start = time.perf_counter()
                    found[turn] = turns[turn]()
                    times[turn] = time.perf_counter() - start
                ours = [(*one.node, one.depth, one.via, one.edge_type) for one in found[1]]
                assert ours == found[0], "not the same rows"
                if number >= WARM:
                    by_hand.append(times[0])
                    by_repository.append(times[1])
                    rows += len(ours)
    medians = {"psycopg, the same SQL by hand": median(by_hand), "`neighbours`": median(by_repository)}
    result = [at_most("`neighbours` / SQL by hand, p50", median(by_repository) / median(by_hand), LIMIT)]
    publish(
        page,
        "Graph: neighbours to depth 3",
        f"{nodes:,} nodes, {made:,} edges; at most 100 edges of a node are followed. {calls} nodes, both in turns, the"
        f" same rows of both ({rows / calls:.0f} a call).",
        table(("", "p50"), [(name, f"{seconds * 1000:.2f} ms") for name, seconds in medians.items()]),
        targets(result),
    )
    return result


def neighbours_by_hand(raw: psycopg.Connection, node: uuid.UUID) -> list[tuple[Any, ...]]:
    return raw.execute(BY_HAND, {"node": node, "depth": 3, "cap": 100, "limit": 1000}).fetchall()


def neighbours_of(entities: EntityRepository, node: uuid.UUID) -> Sequence[GraphNeighbour]:
    return entities.neighbours(node, depth=3, fan_out=100, limit=1000)
