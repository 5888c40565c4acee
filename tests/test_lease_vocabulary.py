"""Tasks, executions of schedules and executions of workflows are held in the same words, and lost in the same way."""

from __future__ import annotations

import inspect
import typing
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from injection.ground import Ground
from injection.signatures import hints, methods, repositories
from injection.specimens import SPECIMENS
from sqlalchemy import URL, text

from alfred_db import ClaimedExecution, ClaimedTask, ClaimedWorkflow, Database, LeaseLost
from alfred_db.repositories import UnitOfWork

HELD: dict[str, tuple[type[Any], str, str]] = {
    "tasks": (ClaimedTask, "task", "task"),
    "scheduler": (ClaimedExecution, "execution", "execution"),
    "workflows": (ClaimedWorkflow, "run", "workflow execution"),
}
"""What is held: the class of what `claim` returns, where the ground has one, and what an error calls it."""

SHARED = ("claim", "heartbeat", "heartbeat_many", "complete", "fail", "release", "reap")


def of_a_holder() -> Iterator[str]:
    for noun in HELD:
        for name, method in methods(repositories()[noun]):
            if hints(method).get("claimed") is HELD[noun][0]:
                yield f"{noun}.{name}"


HOLDERS = sorted(of_a_holder())


@pytest.mark.parametrize("noun", HELD)
def test_what_is_held_is_spoken_of_in_the_same_words(noun: str) -> None:
    known = dict(methods(repositories()[noun]))
    claimed, _, _ = HELD[noun]
    for name in SHARED:
        parameters = list(inspect.signature(known[name]).parameters)
        first = {"claim": "worker", "reap": "limit"}.get(name, "claimed")
        assert parameters[1] == first, name
    assert typing.get_args(hints(known["heartbeat_many"])["claimed"]) == (claimed,)
    for name, method in known.items():
        assert not hints(method).keys() & {"worker_id", "lease_token", "error_output"} - (
            {"error_output"} if name == "complete" else set()
        ), name
    common = set.intersection(*(set(one._fields) for one, _, _ in HELD.values()))
    assert common >= {
        "id",
        "lease_token",
        "claim_seq",
        "lease_expires_at",
        "attempt_deadline_at",
        "retry_count",
        "crash_count",
        "max_retries",
        "lease",
        "held_until",
        "cancel_requested",
    }


@pytest.fixture
def ground(grounds: tuple[URL, dict[str | None, Ground]]) -> Ground:
    return grounds[1][None]


@pytest.fixture
def uow(grounds: tuple[URL, dict[str | None, Ground]]) -> Iterator[UnitOfWork]:
    """A unit of work on the ground, rolled back at the end."""
    with Database(grounds[0]) as database, database.session() as session:
        yield UnitOfWork(session)


@pytest.mark.parametrize("name", HOLDERS)
def test_a_holder_that_lost_the_lease_is_refused_by_each_call(
    uow: UnitOfWork, ground: Ground, name: str
) -> None:
    noun, _, method = name.partition(".")
    _, place, called = HELD[noun]
    stale = getattr(ground, place)._replace(lease_token=uuid.uuid4())
    arguments = {**(SPECIMENS[name](ground) if name in SPECIMENS else {}), "claimed": stale}
    key = repr(stale.task_id) if noun == "tasks" else stale.id
    with pytest.raises(LeaseLost) as raised:
        getattr(getattr(uow, noun), method)(**arguments)
    assert str(raised.value).startswith(f"{called} {key}: lease lost: ")
    assert getattr(uow, noun).heartbeat_many([stale]) == []
    kept = getattr(uow, noun).heartbeat_many([getattr(ground, place)])
    assert [one.id for one in kept] == [stale.id], "its holder has it still"


@pytest.mark.parametrize("noun", HELD)
@pytest.mark.parametrize("end", ["complete", "fail", "release"])
def test_to_repeat_an_end_changes_nothing(uow: UnitOfWork, ground: Ground, noun: str, end: str) -> None:
    repository, claimed = getattr(uow, noun), getattr(ground, HELD[noun][1])
    arguments = {"error": "boom"} if end == "fail" else {}
    model = {"tasks": "tasks", "scheduler": "scheduler_executions", "workflows": "workflow_executions"}[noun]

    def row() -> Any:
        return uow.session.execute(
            text(f"SELECT t::text FROM {model} t WHERE id = :id"), {"id": claimed.id}
        ).scalar()

    first = getattr(repository, end)(claimed, **arguments)
    before = row()
    again = getattr(repository, end)(claimed, **arguments)
    assert again == (False if first is True else first)
    assert row() == before
    with pytest.raises(LeaseLost):
        repository.heartbeat(claimed)


@pytest.mark.parametrize("noun", HELD)
@pytest.mark.parametrize("column", ["lease_expires_at", "attempt_deadline_at"])
def test_a_reaper_stores_why_and_takes_the_token(
    uow: UnitOfWork, ground: Ground, noun: str, column: str
) -> None:
    repository, claimed = getattr(uow, noun), getattr(ground, HELD[noun][1])
    model = {"tasks": "tasks", "scheduler": "scheduler_executions", "workflows": "workflow_executions"}[noun]
    error = "error_output" if noun == "scheduler" else "error_message"
    uow.session.execute(
        text(f"UPDATE {model} SET {column} = :past, {error} = 'earlier' WHERE id = :id"),
        {"past": datetime(2026, 1, 1, tzinfo=UTC), "id": claimed.id},
    )
    assert claimed.id in repository.reap()
    found = uow.session.execute(
        text(f"SELECT error_code, {error}, lease_token, lease_expires_at FROM {model} WHERE id = :id"),
        {"id": claimed.id},
    ).one()
    code = "lease_lost" if column == "lease_expires_at" else "timeout"
    assert (found[0], found[2:]) == (code, (None, None))
    assert found[1] != "earlier", "the text is of the failure that the code names"
    for end in ("complete", "release"):
        with pytest.raises(LeaseLost):
            getattr(repository, end)(claimed)
