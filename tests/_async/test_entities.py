from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from plans import Explain
from sqlalchemy import func, insert, select, text

from alfred_db import AsyncDatabase, EntityEdge, EntityNode
from alfred_db.errors import ConflictError, InvalidInputError, NotFoundError
from alfred_db.queries import entities as queries
from alfred_db.queries import entity_walks
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.entities import AsyncEntityRepository
from alfred_db.values.entities import EdgeDirection, GraphNode

YEAR = [datetime(2000 + number, 1, 1, tzinfo=UTC) for number in range(30)]


@pytest.fixture
def entities(uow: AsyncUnitOfWork) -> AsyncEntityRepository:
    return AsyncEntityRepository(uow.session)


async def graph(entities: AsyncEntityRepository, edges: str) -> dict[str, uuid.UUID]:
    """The nodes of edges such as "ab bc", by their keys; "a" is a node without any."""
    nodes = {key: (await entities.upsert_node("letter", key)).id for key in sorted(set(edges) - {" "})}
    for edge in filter(lambda word: len(word) == 2, edges.split()):
        await entities.upsert_edge(nodes[edge[0]], nodes[edge[1]], "next", valid_from=YEAR[0])
    return nodes


def keys(nodes: Iterable[EntityNode | GraphNode]) -> str:
    return "".join(node.key for node in nodes)


# Nodes


async def test_a_node_is_known_by_its_type_and_key(entities: AsyncEntityRepository) -> None:
    first = await entities.upsert_node("person", "ada", name="Ada", properties={"age": 36, "tags": ["x"]})
    known = first.id
    second = await entities.upsert_node(
        "person", "ada", description="wrote", properties={"age": 37, "on": True}
    )
    assert (second.id, second.name, second.description) == (known, "Ada", "wrote")
    assert second.properties == {"age": 37, "tags": ["x"], "on": True}
    assert (await entities.upsert_node("engine", "ada")).id != known
    assert await entities.get_node(known) is second
    assert await entities.find_node("person", "ada") is second
    assert await entities.find_node("person", "bob") is None
    assert await entities.get_node(uuid.uuid4()) is None


async def test_nodes_are_listed_by_type_and_typed_properties(entities: AsyncEntityRepository) -> None:
    for number in range(5):
        await entities.upsert_node("n", f"k{number}", properties={"even": number % 2 == 0, "number": number})
    await entities.upsert_node("m", "k", properties={"even": True})
    assert keys(await entities.list_nodes(node_type="n", properties={"number": 3})) == "k3"
    assert len(await entities.list_nodes(properties={"number": "3"})) == 0
    first = await entities.list_nodes(properties={"even": True}, limit=2)
    second = await entities.list_nodes(properties={"even": True}, after=first.next, limit=2)
    assert keys([*first, *second]) == "kk0k2k4"
    assert second.next is None
    with pytest.raises(InvalidInputError, match="limit: expected 1 to"):
        await entities.list_nodes(limit=0)
    with pytest.raises(InvalidInputError, match="is not a cursor"):
        await entities.list_nodes(after="x")


async def test_a_node_goes_with_its_edges(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "ab bc ca bb")
    await entities.delete_node(nodes["b"])
    assert [edge.target_id for edge in await entities.facts(nodes["c"])] == [nodes["a"]]
    assert len(await entities.facts(nodes["b"])) == 0
    with pytest.raises(NotFoundError, match="not found"):
        await entities.delete_node(nodes["b"])


# Facts


async def test_stating_a_fact_again_finds_the_one_that_holds(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "a b")
    a, b = nodes["a"], nodes["b"]
    first = await entities.upsert_edge(
        a, b, "knows", weight=1, properties={"via": "work"}, valid_from=YEAR[1]
    )
    known = first.id
    again = await entities.upsert_edge(a, b, "knows", weight=2, properties={"since": 3})
    assert (again.id, again.weight, again.valid_from) == (known, 2, YEAR[1])
    assert again.properties == {"via": "work", "since": 3}
    same = await entities.upsert_edge(a, b, "knows", weight=3, valid_from=YEAR[1], valid_to=YEAR[2])
    assert (same.id, same.valid_to) == (known, YEAR[2])
    later = await entities.upsert_edge(a, b, "knows")
    assert later.id != known
    assert later.valid_to is None


async def test_a_relation_holds_once_at_most(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "ab")
    with pytest.raises(ConflictError, match="uq_entity_edge_holding"):
        await entities.upsert_edge(nodes["a"], nodes["b"], "next", valid_from=YEAR[3])


async def test_facts_hold_for_a_time(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "a b c")
    a, b, c = nodes["a"], nodes["b"], nodes["c"]
    first = await entities.upsert_edge(a, b, "works_at", valid_from=YEAR[1], valid_to=YEAR[5])
    second = await entities.upsert_edge(a, c, "works_at", valid_from=YEAR[5])

    async def at(time: datetime | None) -> list[uuid.UUID]:
        return [edge.id for edge in await entities.facts(a, direction="out", as_of=time)]

    before = YEAR[1] - timedelta(microseconds=1)
    assert await at(before) == []
    assert await at(YEAR[1]) == [first.id]
    assert await at(YEAR[5] - timedelta(microseconds=1)) == [first.id]
    assert await at(YEAR[5]) == [second.id]
    assert await at(None) == [second.id]
    ended = await entities.end_edge(second.id, at=YEAR[9])
    assert ended.valid_to == YEAR[9]
    assert await at(None) == []
    assert await at(YEAR[8]) == [second.id]
    with pytest.raises(InvalidInputError, match="valid"):
        await entities.end_edge(second.id, at=YEAR[0])


async def test_a_fact_ends_now_by_the_databases_clock(
    entities: AsyncEntityRepository, uow: AsyncUnitOfWork
) -> None:
    nodes = await graph(entities, "ab")
    edge = (await entities.facts(nodes["a"])).items[0]
    ended = await entities.end_edge(edge.id)
    now = await uow.session.scalar(select(func.statement_timestamp()))
    assert now is not None
    assert ended.valid_to is not None
    assert timedelta(0) <= now - ended.valid_to < timedelta(minutes=1)
    assert len(await entities.facts(nodes["a"])) == 0


async def test_a_mistake_is_kept_for_those_who_ask_what_was_known(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        entities = AsyncEntityRepository(uow.session)
        nodes = await graph(entities, "ab")
        wrong = (await entities.facts(nodes["a"])).items[0]
    async with committed.begin() as uow:
        known_at = await uow.session.scalar(select(func.statement_timestamp()))
        entities = AsyncEntityRepository(uow.session)
        assert (await entities.supersede_edge(wrong.id)).superseded_at is not None
        right = await entities.upsert_edge(nodes["a"], nodes["b"], "next", valid_from=YEAR[0], weight=5)
        assert [edge.id for edge in await entities.facts(nodes["a"])] == [right.id]
        assert [edge.id for edge in await entities.facts(nodes["a"], known_at=known_at)] == [wrong.id]
        history = await entities.history(nodes["a"], nodes["b"], "next")
        assert {edge.id for edge in history} == {wrong.id, right.id}
        assert len(await entities.neighbours(nodes["a"])) == 1
        with pytest.raises(NotFoundError, match="not found, or superseded"):
            await entities.supersede_edge(wrong.id)
        with pytest.raises(NotFoundError, match="not found, or superseded"):
            await entities.end_edge(wrong.id)


async def test_facts_and_history_come_in_pages(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "ab")
    for number in range(1, 6):
        await entities.upsert_edge(
            nodes["b"], nodes["a"], f"t{number % 2}", valid_from=YEAR[number], valid_to=YEAR[number + 20]
        )
    seen: list[uuid.UUID] = []
    after: str | None = None
    while True:
        page = await entities.facts(nodes["a"], as_of=YEAR[10], after=after, limit=2)
        seen += [edge.id for edge in page]
        after = page.next
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 6
    assert len(await entities.facts(nodes["a"], direction="in", as_of=YEAR[10])) == 5
    assert len(await entities.facts(nodes["a"], direction="out", as_of=YEAR[10])) == 1
    assert len(await entities.facts(nodes["a"], edge_types=["t0", "next"], as_of=YEAR[10])) == 3
    assert len(await entities.facts(nodes["a"], edge_types=[])) == 0
    first = await entities.history(nodes["b"], nodes["a"], "t1", limit=2)
    rest = await entities.history(nodes["b"], nodes["a"], "t1", after=first.next, limit=2)
    assert [edge.valid_from for edge in [*first, *rest]] == [YEAR[1], YEAR[3], YEAR[5]]


async def test_an_edge_is_deleted_for_good(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "ab")
    edge = (await entities.facts(nodes["a"])).items[0]
    assert await entities.get_edge(edge.id) is edge
    await entities.delete_edge(edge.id)
    assert await entities.get_edge(edge.id) is None
    with pytest.raises(NotFoundError, match=str(edge.id)):
        await entities.delete_edge(edge.id)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"weight": float("nan")}, "weight: expected a finite number"),
        ({"weight": float("inf")}, "weight: expected a finite number"),
        ({"valid_to": YEAR[1]}, "valid_to: expected a time after"),
        ({"valid_from": YEAR[1], "valid_to": YEAR[1]}, "valid_to: expected a time after"),
        ({"valid_from": datetime(2001, 1, 1)}, "valid_from: a time without time zone"),
    ],
)
async def test_a_fact_is_checked(entities: AsyncEntityRepository, wrong: dict[str, float], says: str) -> None:
    nodes = await graph(entities, "ab")
    with pytest.raises(InvalidInputError, match=says):
        await entities.upsert_edge(nodes["a"], nodes["b"], "knows", **wrong)  # type: ignore[arg-type]


async def test_a_node_and_the_end_of_a_fact_are_checked(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "ab")
    edge = (await entities.facts(nodes["a"])).items[0]
    with pytest.raises(InvalidInputError, match="at: a time without time zone"):
        await entities.end_edge(edge.id, at=datetime(2001, 1, 1))
    with pytest.raises(InvalidInputError, match="as_of: a time without time zone"):
        await entities.facts(nodes["a"], as_of=datetime(2001, 1, 1))
    with pytest.raises(InvalidInputError, match="NUL"):
        await entities.upsert_node("t", "a\0b")


async def test_a_fact_about_nothing_is_refused(entities: AsyncEntityRepository) -> None:
    with pytest.raises(ConflictError, match="referenced row exists"):
        await entities.upsert_edge(uuid.uuid4(), uuid.uuid4(), "knows")


# Walks


@pytest.mark.parametrize(
    ("direction", "depth", "found"),
    [
        ("out", 1, "b1 c1"),
        ("out", 2, "b1 c1 d2"),
        ("out", 3, "b1 c1 d2 e3"),
        ("out", 10, "b1 c1 d2 e3"),
        ("in", 1, "e1 f1"),
        ("in", 2, "e1 f1 d2"),
        ("both", 1, "b1 c1 e1 f1"),
        ("both", 2, "b1 c1 e1 f1 d2"),
    ],
)
async def test_neighbours_by_the_fewest_edges(
    entities: AsyncEntityRepository, direction: EdgeDirection, depth: int, found: str
) -> None:
    nodes = await graph(entities, "aa ab ac bd cd bc de ea fa")
    near = await entities.neighbours(nodes["a"], depth=depth, direction=direction)
    assert sorted(f"{one.node.key}{one.depth}" for one in near) == sorted(found.split())
    assert [one.depth for one in near] == sorted(one.depth for one in near)
    for one in near:
        via = await entities.get_edge(one.via)
        assert via is not None
        ends = {via.source_id, via.target_id}
        assert one.node.id in ends
        assert one.edge_type == "next"
        if one.depth == 1:
            assert nodes["a"] in ends


async def test_neighbours_of_nothing(entities: AsyncEntityRepository) -> None:
    assert await entities.neighbours(uuid.uuid4(), depth=3) == []


async def test_neighbours_by_type_and_time(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "ab bc")
    await entities.upsert_edge(nodes["a"], nodes["c"], "was", valid_from=YEAR[1], valid_to=YEAR[2])

    async def near(types: list[str] | None, time: datetime | None) -> str:
        return keys(one.node for one in await entities.neighbours(nodes["a"], edge_types=types, as_of=time))

    assert await near(None, None) == "b"
    assert set(await near(None, YEAR[1])) == set("bc")
    assert await near(["was"], YEAR[1]) == "c"
    assert await near(["was"], YEAR[2]) == ""
    assert await near([], None) == ""


async def test_the_strongest_edges_are_followed_where_there_are_many(entities: AsyncEntityRepository) -> None:
    hub = await entities.upsert_node("hub", "h")
    for number in range(20):
        leaf = await entities.upsert_node("leaf", f"{number:02}")
        await entities.upsert_edge(hub.id, leaf.id, "has", weight=number)
        await entities.upsert_edge(leaf.id, hub.id, "of", weight=-number)
    near = await entities.neighbours(hub.id, depth=3, fan_out=3)
    assert sorted(one.node.key for one in near) == ["17", "18", "19"]
    both = await entities.neighbours(hub.id, direction="both", fan_out=2)
    assert sorted(one.node.key for one in both) == ["00", "01", "18", "19"]
    assert len(await entities.neighbours(hub.id, limit=4)) == 4


async def test_a_dense_graph_is_walked_level_by_level(
    entities: AsyncEntityRepository, uow: AsyncUnitOfWork
) -> None:
    """Each node has edges to all others: the paths are 40^10, the rows at most 40 on each of 10 levels."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"
    nodes = await graph(entities, " ".join(letters))
    ends = itertools.product(nodes.values(), repeat=2)
    edges = [{"source_id": x, "target_id": y, "edge_type": "next", "valid_from": YEAR[0]} for x, y in ends]
    await uow.session.execute(insert(EntityEdge), edges)
    near = await entities.neighbours(nodes["a"], depth=10, direction="both")
    assert len(near) == 39
    assert {one.depth for one in near} == {1}


@pytest.mark.parametrize(
    ("edges", "direction", "longest", "expected"),
    [
        ("ab bc cd ad", "out", 6, "ad"),
        ("ab bc cd de ef", "out", 6, "abcd"),
        ("ab bc ca cd", "out", 6, "abcd"),
        ("ab bc ca cd", "out", 3, "abcd"),
        ("ab bc ca cd", "out", 2, ""),
        ("dc cb ba", "in", 6, "abcd"),
        ("dc cb ba", "out", 6, ""),
        ("ab cb cd", "both", 6, "abcd"),
        ("ab cb cd", "out", 6, ""),
        ("ad", "out", 1, "ad"),
        ("ae ed af fe", "out", 10, "aed"),
        ("ae ef fg gh hi id", "out", 6, "aefghid"),
        ("ae ef fg gh hi id", "out", 5, ""),
    ],
)
async def test_the_shortest_path(
    entities: AsyncEntityRepository, edges: str, direction: EdgeDirection, longest: int, expected: str
) -> None:
    nodes = await graph(entities, f"{edges} aa dd")
    path = await entities.shortest_path(nodes["a"], nodes["d"], max_depth=longest, direction=direction)
    if not expected:
        assert path is None
        return
    assert path is not None
    assert keys(path.nodes) == expected
    assert len(path) == len(path.edges) == len(expected) - 1
    for here, there, edge in zip(path.nodes, path.nodes[1:], path.edges, strict=False):
        assert {edge.source_id, edge.target_id} == {here.id, there.id}
        if direction != "both":
            assert (edge.source_id == here.id) is (direction == "out")


async def test_a_path_to_itself_and_to_nowhere(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "ab ba")
    path = await entities.shortest_path(nodes["a"], nodes["a"])
    assert path
    assert (keys(path.nodes), len(path)) == ("a", 0)
    assert await entities.shortest_path(nodes["a"], uuid.uuid4()) is None
    assert await entities.shortest_path(uuid.uuid4(), nodes["a"]) is None


async def test_a_path_by_type_and_time(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "ab bc")
    await entities.upsert_edge(nodes["a"], nodes["c"], "was", valid_from=YEAR[1], valid_to=YEAR[2])

    async def length(types: list[str] | None, time: datetime | None) -> int | None:
        path = await entities.shortest_path(nodes["a"], nodes["c"], edge_types=types, as_of=time)
        return None if path is None else len(path)

    assert await length(None, None) == 2
    assert await length(None, YEAR[1]) == 1
    assert await length(["next"], YEAR[1]) == 2
    assert await length(["was"], None) is None


async def test_a_subgraph_has_the_edges_between_its_nodes(entities: AsyncEntityRepository) -> None:
    nodes = await graph(entities, "ab bc cd ca de")
    found = await entities.subgraph([nodes["a"]])
    assert sorted(keys(found.nodes)) == ["a", "b", "c"]
    assert len(found.edges) == 3
    assert not found.truncated
    alone = await entities.subgraph([nodes["a"], nodes["b"], nodes["e"]], depth=0)
    assert sorted(keys(alone.nodes)) == ["a", "b", "e"]
    assert [(edge.source_id, edge.target_id) for edge in alone.edges] == [(nodes["a"], nodes["b"])]
    out = await entities.subgraph(
        [nodes["d"], nodes["c"]], direction="out", edge_types=["next"], as_of=YEAR[1]
    )
    assert sorted(keys(out.nodes)) == ["a", "c", "d", "e"]
    cut = await entities.subgraph([nodes["a"]], depth=3, limit=2)
    assert len(cut.nodes) == 3
    assert cut.truncated


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"depth": 0}, "depth: expected 1 to 10"),
        ({"depth": 11}, "depth: expected 1 to 10"),
        ({"fan_out": 0}, "fan_out: expected 1 to 1,000"),
        ({"limit": 10_001}, "limit: expected 1 to 10,000"),
        ({"direction": "up"}, "direction: expected one of out, in, both"),
        ({"as_of": datetime(2001, 1, 1)}, "as_of: a time without time zone"),
    ],
)
async def test_a_walk_is_checked(entities: AsyncEntityRepository, wrong: dict[str, int], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        await entities.neighbours(uuid.uuid4(), **wrong)  # type: ignore[arg-type]


async def test_paths_and_subgraphs_are_checked(entities: AsyncEntityRepository) -> None:
    node = uuid.uuid4()
    with pytest.raises(InvalidInputError, match="max_depth: expected 1 to 10"):
        await entities.shortest_path(node, node, max_depth=11)
    with pytest.raises(InvalidInputError, match="direction: expected"):
        await entities.shortest_path(node, node, direction="x")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="node_ids: expected 1 to"):
        await entities.subgraph([])
    with pytest.raises(InvalidInputError, match="direction: expected"):
        await entities.facts(node, direction="x")  # type: ignore[arg-type]


async def test_indexes_serve_the_walk(entities: AsyncEntityRepository, uow: AsyncUnitOfWork) -> None:
    nodes = await graph(entities, "ab bc")
    await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
    await uow.session.execute(text("SET LOCAL enable_sort = off"))
    await uow.session.execute(text("SET LOCAL enable_bitmapscan = off"))
    statement = entity_walks.neighbours("both", typed=True, dated=False)
    parameters = {"start": nodes["a"], "depth": 3, "cap": 5, "limit": 9, "edge_types": ["next"]}
    plan = "\n".join(await uow.session.scalars(Explain(statement), parameters))
    for index in ("source", "target"):
        assert f"Index Scan Backward using idx_entity_edge_{index}_id_weight_id_edge_type" in plan
    steps = Explain(entity_walks.steps("both", typed=True, dated=False))
    plan = "\n".join(
        await uow.session.scalars(steps, {"frontier": [nodes["a"]], "cap": 5, "edge_types": ["next"]})
    )
    for index in ("source", "target"):
        assert f"Index Scan Backward using idx_entity_edge_{index}_id_weight_id_edge_type" in plan
    found = Explain(queries.list_nodes(node_type=None, properties={"a": 1}, after=None, limit=5))
    await uow.session.execute(text("SET LOCAL enable_bitmapscan = on"))
    await uow.session.execute(text("SET LOCAL enable_sort = on"))
    await uow.session.execute(text("SET LOCAL enable_indexscan = off"))
    assert "idx_entity_node_properties" in "\n".join(await uow.session.scalars(found))


# Two at once


async def test_two_callers_make_one_node_and_one_fact(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        nodes = await graph(AsyncEntityRepository(uow.session), "a b")
    async with committed.session() as one, committed.session() as other:
        first = await AsyncEntityRepository(one).upsert_node("person", "ada", properties={"one": 1})
        edge = await AsyncEntityRepository(one).upsert_edge(nodes["a"], nodes["b"], "knows", weight=1)
        await other.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError, match="holds the lock"):
            await AsyncEntityRepository(other).upsert_node("person", "ada", properties={"other": 2})
        await other.rollback()
        await one.commit()
        second = await AsyncEntityRepository(other).upsert_node("person", "ada", properties={"other": 2})
        again = await AsyncEntityRepository(other).upsert_edge(nodes["a"], nodes["b"], "knows", weight=2)
        await other.commit()
    assert second.id == first.id
    assert second.properties == {"one": 1, "other": 2}
    assert (again.id, again.weight) == (edge.id, 2)


async def test_the_second_to_delete_gets_an_error(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        nodes = await graph(AsyncEntityRepository(uow.session), "ab")
    async with committed.session() as one, committed.session() as other:
        await AsyncEntityRepository(one).delete_node(nodes["a"])
        await one.commit()
        with pytest.raises(NotFoundError, match="not found"):
            await AsyncEntityRepository(other).delete_node(nodes["a"])
        assert await other.scalar(select(func.count()).select_from(EntityEdge)) == 0
