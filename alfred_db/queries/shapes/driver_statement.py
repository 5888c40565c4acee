"""The type of the statements that the driver runs itself.

    @driver_statement
    def complete() -> ReturningUpdate[uuid.UUID]: ...

    await fetch(session, complete(), parameters)  # `fetch` accepts no other type

A statement of this type is built once for its arguments, and keeps what was compiled from it. A statement that is built
in each call would also be compiled in each call, which takes longer than running it; passing one is a type error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVarTuple, cast, overload

from sqlalchemy import Insert, Row, Update
from sqlalchemy.sql.selectable import TypedReturnsRows

__all__ = ["DriverStatement", "DriverText", "Tenant", "driver_statement"]

P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

Tenant = tuple[tuple[str | None, str | None], ...]
"""The items of a schema translation, that is, whose tables are used."""

KEPT = 512
"""The number of statements that are kept for each function, those used last."""


class DriverText(NamedTuple):
    """A statement as the server reads it."""

    sql: str
    """The SQL, with $1, $2 and so on for the parameters."""
    order: tuple[str, ...]
    """The names of the parameters, in this order."""


class DriverStatement(Generic[*Ts]):
    """A statement with rows of these columns and named parameters; only `driver_statement` creates one."""

    __slots__ = ("binding", "built", "rows", "texts")

    def __init__(self, built: Any) -> None:
        self.built: Any = built
        """The statement of SQLAlchemy."""
        self.texts: dict[Tenant, DriverText] = {}
        """The SQL for each tenant."""
        self.binding: Any = None
        """The conversions of the parameters, once they are known."""
        self.rows: dict[tuple[int, ...], Callable[[Any], Row[*Ts]]] = {}
        """The functions that convert the driver's values into rows, by the types of the values."""

    def compile(self, *arguments: Any, **options: Any) -> Any:
        """Compile the statement as SQLAlchemy does."""
        return self.built.compile(*arguments, **options)


@overload
def driver_statement(build: Callable[P, TypedReturnsRows[*Ts]]) -> Callable[P, DriverStatement[*Ts]]: ...


@overload
def driver_statement(build: Callable[P, Update | Insert]) -> Callable[P, DriverStatement[()]]: ...


def driver_statement(build: Callable[P, Any]) -> Callable[P, DriverStatement[*tuple[Any, ...]]]:
    """Have a function build each of its statements once, for the driver."""

    @lru_cache(maxsize=KEPT)
    @wraps(build)
    def built(*arguments: Any, **options: Any) -> DriverStatement[*tuple[Any, ...]]:
        return DriverStatement(build(*arguments, **options))

    return cast("Callable[P, DriverStatement[*tuple[Any, ...]]]", built)
