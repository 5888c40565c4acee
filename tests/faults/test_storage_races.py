"""Callers of storage, users and working memory who really act at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from faults.races import races
from faults.together import call, errors, results, together
from sqlalchemy import URL, text

from alfred_db import Database
from alfred_db.errors import ConflictError, NotFoundError
from alfred_db.repositories import UnitOfWork

ROUNDS = 5


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=12) as database:
        yield database


# Storage and users


@races("storage.create_bucket", "storage.put", "storage.delete")
def test_a_bucket_and_an_object_that_many_make_are_one(db: Database) -> None:
    done = together(db, *[lambda uow: uow.storage.create_bucket("b").id] * 4)
    assert errors(done) == [ConflictError] * 3
    put = together(db, *(lambda uow, n=n: uow.storage.put("b", "x", version=n).id for n in "1234"))
    assert len(set(results(put))) == 1
    assert errors(together(db, *[lambda uow: uow.storage.delete("b", "x")] * 3)) == [NotFoundError] * 2


@races("storage.move")
def test_of_those_who_move_to_one_name_one_does(db: Database) -> None:
    call(db, lambda uow: uow.storage.create_bucket("b").id)
    for number in range(ROUNDS):
        for name in "xyz":
            call(db, lambda uow, name=name, n=number: uow.storage.put("b", f"{name}{n}").id)
        done = together(
            db,
            *(
                lambda uow, name=name, n=number: uow.storage.move("b", f"{name}{n}", to_name=f"new{n}").id
                for name in "xyz"
            ),
        )
        assert errors(done) == [ConflictError] * 2


@races("storage.delete_bucket")
def test_a_bucket_goes_only_when_it_is_empty(db: Database) -> None:
    for number in range(ROUNDS):
        name = f"b{number}"
        call(db, lambda uow, name=name: uow.storage.create_bucket(name).id)
        put, deleted = together(
            db,
            lambda uow, name=name: uow.storage.put(name, "x").id,
            lambda uow, name=name: uow.storage.delete_bucket(name),
        )
        assert len(errors([put, deleted])) == 1
        assert isinstance(put.exception() or deleted.exception(), (ConflictError, NotFoundError))
        left = call(db, lambda uow, name=name: uow.storage.get_bucket(name) is not None)
        assert left is (put.exception() is None)


def test_users_are_read_by_many(db: Database) -> None:
    with db.session() as session:
        session.execute(
            text("INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'ada@example.org')")
        )
        session.commit()

    def read(uow: UnitOfWork) -> list[Any]:
        user = uow.users.get_by_email("ada@example.org")
        assert user is not None
        return [
            user.id,
            uow.users.get(user.id) is user,
            [found.id for found in uow.users.list()] == [user.id],
        ]

    found = results(together(db, *[read] * 4))
    assert all(one == [found[0][0], True, True] for one in found)


# Blobs of working memory


@races("working_memory.store", "working_memory.set_blob", "working_memory.sweep")
def test_a_record_has_the_place_of_one_blob_and_is_swept_once(db: Database) -> None:
    def store(uow: UnitOfWork) -> Any:
        return uow.working_memory.store("w", "file", status="pending").id

    def put(uow: UnitOfWork, record: Any, place: str) -> tuple[Any, ...]:
        found = uow.working_memory.set_blob(record, provider=place, blob_key=place)
        return found.provider, found.blob_key, found.status

    records = results(together(db, *[store] * 4))
    assert len(set(records)) == 4
    for record in records:
        *done, deleted = together(
            db,
            *(lambda uow, record=record, place=place: put(uow, record, place) for place in "abc"),
            lambda uow, record=record: uow.working_memory.set_status(record, "deleted").id,
        )
        assert deleted.exception() is None
        assert set(errors(done)) <= {NotFoundError}
        given = [one.result() for one in done if one.exception() is None]
        assert set(given) <= {(place, place, "active") for place in "abc"}
    swept = results(together(db, *[lambda uow: uow.working_memory.sweep(2)] * 4))
    assert sorted(one.id for batch in swept for one in batch) == sorted(records)
    assert all(one.provider == one.blob_key for batch in swept for one in batch)


@races("working_memory.purge")
def test_a_purge_leaves_the_blobs_to_the_sweep(db: Database) -> None:
    for number in range(20):
        record = call(
            db,
            lambda uow: uow.working_memory.store("w", "file", content="c", ttl=timedelta(milliseconds=1)).id,
        )
        if number % 2:
            with db.begin() as uow:
                uow.session.execute(
                    text(f"UPDATE wm.working_memory SET provider = 'p', blob_key = 'k' WHERE id = '{record}'")
                )
    done = together(
        db,
        *[lambda uow: uow.working_memory.purge(limit=4)] * 4,
        lambda uow: len(uow.working_memory.sweep(8)),
    )
    assert errors(done) == []
    left = call(db, lambda uow: uow.working_memory.purge())
    assert sum(results(done)) + left + len(call(db, lambda uow: list(uow.working_memory.sweep()))) == 20
