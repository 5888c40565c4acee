"""Arguments and results that are models of pydantic, which the application brings along."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from alfred_db import Database, Tasks, Worker
from alfred_db.errors import InvalidInputError
from alfred_db.values.task_outcomes import read_result
from alfred_db.worker._conversions import Misfit, conversion

from .at_work import QUICK, sql, status

pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")


class Item(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    name: str
    price: Decimal = Decimal(1)


class Order(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    id: UUID
    at: datetime
    items: list[Item]
    tags: set[str] = pydantic.Field(default_factory=set)
    note: str | None = None


class Aliased(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    url: str = pydantic.Field(alias="URL")


class Renamed(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    url: str = pydantic.Field(serialization_alias="written")


class Strict(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)
    at: datetime
    id: UUID
    pair: tuple[int, str]


class Computed(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    model_config = pydantic.ConfigDict(extra="forbid")
    side: int

    @pydantic.computed_field  # type: ignore[untyped-decorator]
    @property
    def area(self) -> int:
        return self.side**2


class Pages(pydantic.RootModel[list[int]]):  # type: ignore[misc,name-defined]
    pass


AT = datetime(2026, 1, 2, 3, tzinfo=UTC)
ORDER = Order(
    id=UUID(int=7), at=AT, items=[Item(name="a", price=Decimal("1.50")), Item(name="b")], tags={"x"}
)
MODELS = [
    ORDER,
    Aliased(URL="u"),
    Renamed(url="u"),
    Strict(at=AT, id=UUID(int=8), pair=(1, "x")),
    Computed(side=3),
    Pages([1, 2]),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_model_comes_back_as_it_was(model: Any) -> None:
    made = conversion(type(model))
    stored = json.loads(json.dumps(made.to_json(model, "x")))
    assert made.from_json(stored, "x") == model
    assert read_result(type(model), stored) == model
    several = conversion(dict[str, list[type(model)]])  # type: ignore[misc]
    assert several.from_json(several.to_json({"k": [model]}, "x"), "x") == {"k": [model]}


@pytest.mark.parametrize(
    ("hint", "value", "reading", "expected"),
    [
        (
            Order,
            {"id": "secret", "at": "secret", "items": []},
            True,
            "x: expected Order, got values that do not fit",
        ),
        (Order, "secret", True, "x: expected Order, got values that do not fit"),
        (Order, {"secret": 1}, False, "x: expected Order, got dict"),
        (Order, Item(name="secret"), False, "x: expected Order, got Item"),
        (
            Item,
            Item.model_construct(name=5),
            False,
            "x: expected Item, got values that do not fit: name: string_type",
        ),
        (
            Strict,
            {"at": AT.isoformat(), "id": str(UUID(int=8)), "pair": ["secret", "x"]},
            True,
            "pair: int_type",
        ),
        (list[Item], [{"name": "a"}, {"name": ["secret"]}], True, r"x\[1\]: expected Item, got values"),
    ],
)
def test_what_does_not_fit_is_named_without_its_values(
    hint: Any, value: Any, reading: bool, expected: str
) -> None:
    with pytest.raises(Misfit, match=expected) as refused:
        conversion(hint).way(reading)(value, "x")
    assert "secret" not in str(refused.value)


def test_a_function_takes_and_returns_models(db: Database) -> None:
    app, seen = Tasks(db, "pydantic"), list[Order]()

    @app.task()
    def ship(order: Order, items: list[Item]) -> Order:
        seen.append(order)
        return order.model_copy(update={"note": f"{len(items)} more"})

    one, _ = ship.enqueue(ORDER, [Item(name="c")])
    with pytest.raises(InvalidInputError, match="expected Order"):
        ship.enqueue({"id": 7}, [])  # type: ignore[call-overload]
    Worker(db, app, **QUICK).run(drain=True, signals=False)
    assert status(db, one) == "completed"
    assert seen == [ORDER]
    done = db.tasks.wait(one.id, 30, result=Order)
    assert done.result == ORDER.model_copy(update={"note": "1 more"})


def test_content_that_is_no_model_fails_its_task(db: Database) -> None:
    app = Tasks(db, "pydantic")

    @app.task()
    def ship(order: Order) -> None:
        raise AssertionError

    with db.begin() as uow:
        one, _ = uow.tasks.enqueue("SHIP", {"order": {"id": "secret"}}, max_retries=3)
    Worker(db, app, **QUICK).run(drain=True, signals=False)
    found = sql(db, "SELECT status, error_code, error_message FROM tasks WHERE id = :id", id=one.id)
    assert found[0][:2] == ("failed", "arguments")
    assert "expected Order" in found[0][2]
    assert "secret" not in found[0][2]
