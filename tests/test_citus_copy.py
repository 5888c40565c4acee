"""What a worker of Citus refuses of a COPY is raised as an internal error, and has the effect of the error that it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, text

from alfred_db import AlfredDBError, ConflictError, Database, UnitOfWork
from alfred_db.models import Document, Task
from alfred_db.models.base import table_of


def tasks(uow: UnitOfWork) -> Any:
    many: Any = [{"intent": "COPIED", "task_id": f"copied-{number}"} for number in range(1200)]
    created = uow.tasks.enqueue_many(many)
    return sum(new for _, new in created)


def documents(uow: UnitOfWork) -> Any:
    many: Any = [{"content": "text", "external_id": f"copied-{number}"} for number in range(300)]
    return len(uow.documents.add_many(many))


COPIES: dict[str, tuple[Callable[[UnitOfWork], Any], Any, str]] = {
    "tasks": (tasks, table_of(Task), "task_id"),
    "documents": (documents, table_of(Document), "external_id"),
}
"""A call that copies rows, its table, and the column whose known value is refused."""


def outcome(db: Database, call: Callable[[UnitOfWork], Any]) -> Any:
    try:
        with db.begin() as uow:
            return call(uow)
    except AlfredDBError as error:
        return type(error), error.retryable


@pytest.mark.not_on_citus("a trigger stands in for the workers of Citus")
@pytest.mark.parametrize("name", COPIES)
def test_a_known_key_in_a_copy_has_the_same_effect(database_url: URL, name: str) -> None:
    call, table, key = COPIES[name]
    engine = create_engine(database_url)
    with Database(database_url) as db:
        with db.begin() as uow:
            if name == "tasks":
                uow.tasks.enqueue("KNOWN", task_id="copied-3")
            else:
                uow.documents.add("known", external_id="copied-3")
        expected = outcome(db, call)
        # The first call has stored the rest, unless it failed as a whole.
        with engine.begin() as connection:
            connection.execute(text(f"DELETE FROM {table.fullname} WHERE {key} <> :v"), {"v": "copied-3"})
            connection.exec_driver_sql(f"""
                CREATE FUNCTION public.refuse_known() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF EXISTS (SELECT FROM {table.fullname} AS known WHERE known.{key} = NEW.{key}) THEN
                        RAISE EXCEPTION 'duplicate key value violates unique constraint "uq_{table.name}_{key}_102048"'
                            USING ERRCODE = 'XX000', DETAIL = 'Key ({key})=(x) already exists.';
                    END IF;
                    RETURN NEW;
                END $$;
                CREATE TRIGGER refuse_known BEFORE INSERT ON {table.fullname}
                    FOR EACH ROW EXECUTE FUNCTION public.refuse_known()
            """)
        assert outcome(db, call) == expected
    engine.dispose()
    if name == "tasks":
        assert expected == 1199
    else:
        assert expected[0] is ConflictError
