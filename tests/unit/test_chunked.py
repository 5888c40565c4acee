"""What writes rows without a bound of the caller takes a `limit`, so that it can be done in short transactions."""

from __future__ import annotations

import inspect
import re
import typing

import pytest
from injection.signatures import methods, repositories

from alfred_db.engine.chunks import Chunks, parts
from alfred_db.errors import InvalidInputError

WRITES = re.compile(
    r"(age|archive_all|cancel|clear|consolidate|delete|drop|empty|end|evict|expire|forget|merge|overwrite|prune|purge|reap|remove|requeue|revoke|set|sweep)(_|$)"
)
"""Names of methods that may write many rows."""

BOUNDED = {
    "broker_catalog.import_catalog": "writes the document of the caller",
    "broker_requests.make_partitions": "moves the rows of the default partition, which must not be seen half",
    "events.make_partitions": "moves the rows of the default partition, which must not be seen half",
    "conversations.append_many": "writes the rows of the caller",
    "knowledge.import_from": "writes the points of a folder; `Database.in_chunks_of` takes points",
    "knowledge.import_qdrant": "writes the points of a file; `Database.in_chunks_of` takes points",
    "memories.consolidate": "locks what it merges; `find_groups` and `merge_groups` do it in parts",
}
"""Methods without a `limit`, and why."""


def _writes_many(name: str, signature: inspect.Signature) -> bool:
    """Whether the name or the result says so: a method for one row returns the row, a status, or nothing."""
    returned = str(signature.return_annotation)
    many = returned in ("int",) or returned.startswith(("Mapping", "Sequence[uuid", "Sequence[Swept"))
    return many and WRITES.match(name) is not None


def _takes_rows(signature: inspect.Signature) -> bool:
    return any(
        str(one.annotation).startswith(("Sequence[", "Collection[", "Mapping["))
        for one in signature.parameters.values()
        if one.default is one.empty
    )


METHODS = {
    f"{noun}.{name}": inspect.signature(method)
    for noun, repository in repositories().items()
    for name, method in methods(repository)
}
MANY = sorted(name for name, signature in METHODS.items() if _writes_many(name.partition(".")[2], signature))


def test_the_methods_that_write_many_rows_are_found() -> None:
    assert {
        "cache.clear", "conversations.delete_session", "conversations.purge", "entities.delete_node", "knowledge.delete",
        "knowledge.set_payload", "memories.prune", "memory_banks.delete", "memory_entries.forget_all", "tasks.cancel",
        "tasks.purge", "web_sessions.revoke_user", "workflows.cancel",
    } <= set(MANY)  # fmt: skip


@pytest.mark.parametrize("name", MANY)
def test_it_takes_a_limit_or_the_rows(name: str) -> None:
    signature = METHODS[name]
    if name in BOUNDED:
        assert "limit" not in signature.parameters
        return
    assert "limit" in signature.parameters or _takes_rows(signature), name


def test_exceptions_exist() -> None:
    assert set(BOUNDED) <= set(METHODS)


# The size of a chunk


def test_chunks_grow_while_they_are_short_and_shrink_when_they_are_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("alfred_db.engine.chunks.time.monotonic", lambda: now[0])
    chunks = Chunks(1000, None)
    sizes: list[int] = []
    for seconds in (0.01, 0.01, 0.01, 0.01, 0.07, 0.5, 0.5, 0.01):
        with chunks.timed():
            now[0] += seconds
        sizes.append(chunks.size)
    assert sizes == [200, 400, 800, 1000, 1000, 500, 250, 500]


def test_a_chunk_has_at_least_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("alfred_db.engine.chunks.time.monotonic", lambda: now[0])
    chunks = Chunks(3, None)
    for _ in range(5):
        with chunks.timed():
            now[0] += 9 * chunks.size
    assert chunks.size == 1


def test_rows_are_counted_and_reported() -> None:
    reported: list[int] = []
    chunks = Chunks(10, reported.append)
    returned: list[object] = [3, {"a": 1, "b": 2}, [], 1]
    assert [chunks.add(done) for done in returned] == [3, 2, 0, 1]
    assert reported == [3, 5, 5, 6]


@pytest.mark.parametrize("done", [None, 1.5, True, object()])
def test_what_is_no_number_of_rows_is_refused(done: object) -> None:
    with pytest.raises(InvalidInputError, match="in_chunks: the call returned"):
        Chunks(10, None).add(done)


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_the_limit_is_checked(limit: int) -> None:
    with pytest.raises(InvalidInputError, match="limit"):
        Chunks(limit, None)


def test_a_sequence_is_cut_into_parts_of_the_size_that_is_due() -> None:
    chunks = Chunks(4, None)
    found: list[typing.Sequence[int]] = []
    for part in parts(range(10), chunks):
        found.append(part)
        chunks.size = 2 if chunks.size == 4 else 3
    assert [list(part) for part in found] == [[0, 1, 2, 3], [4, 5], [6, 7, 8], [9]]
