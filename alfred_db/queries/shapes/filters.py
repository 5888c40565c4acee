"""Translation of filters to SQLAlchemy expressions: fields are looked up, and all values are bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias
from typing import cast as cast_type

from sqlalchemy import (
    ClauseElement,
    CollectionAggregate,
    ColumnElement,
    DateTime,
    Double,
    Float,
    Integer,
    Numeric,
    and_,
    any_,
    case,
    cast,
    inspect,
    literal,
    or_,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql.visitors import iterate

from ...checks import aware, check_column, finite, json_text, storable, whole
from ...errors import InvalidFilter, InvalidInputError, shown
from ...models import Base
from ...search.filters import BOUNDS, Filter, FilterCondition
from ...types import EnumText, Text
from ...vectors.types import VectorType
from .filter_groups import combined
from .functions import func
from .literals import any_of
from .payload import matching

_COMPARE: dict[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "gt": lambda left, right: left > right,
    "gte": lambda left, right: left >= right,
    "lt": lambda left, right: left < right,
    "lte": lambda left, right: left <= right,
}


Where: TypeAlias = ColumnElement[bool] | Filter
"""The filter argument of searches: an expression on the model, or a `Filter`."""


def expression(model: type[Base], where: Where | None) -> ColumnElement[bool] | None:
    """Return the expression of a filter in either form; None if there is no filter.

    Raises:
        InvalidFilter: The filter has an unknown field or an invalid value, or an expression holds a time
            without time zone.
    """
    if isinstance(where, Filter):
        return compile_filter(model, where)
    if isinstance(where, ClauseElement):
        _refuse_naive(where)
    return where


def scoped(scope: ColumnElement[bool], model: type[Base], where: Where | None) -> ColumnElement[bool]:
    """Return the condition of a search within a scope, such as a bank or a namespace, and the caller's filter."""
    given = expression(model, where)
    return scope if given is None else scope & given


def _refuse_naive(where: ClauseElement) -> None:
    """Check that an expression holds no time without time zone.

    The server would interpret it in the time zone of the session.
    """
    for part in iterate(where):
        bound: Any = getattr(part, "value", None)
        several = bound.__class__ in (list, tuple, set, frozenset)
        for value in bound if several else (bound,):
            if isinstance(value, datetime):
                _aware("filter", value)


def _aware(where: str, value: datetime) -> None:
    try:
        aware(where, value)
    except InvalidInputError as error:
        raise InvalidFilter(str(error)) from None


def compile_filter(model: type[Base], where: Filter) -> ColumnElement[bool]:
    """Return a filter as an expression on a model.

    Raises:
        InvalidFilter: The filter has an unknown field, or a value that does not fit its field.
    """
    return combined(where, partial(_condition, model))


def _condition(model: type[Base], condition: FilterCondition) -> ColumnElement[bool]:
    try:
        storable("filter: the field", condition.field)
    except InvalidInputError as error:
        raise InvalidFilter(str(error)) from None
    name, _, rest = condition.field.partition(".")
    columns = {attribute.key: attribute.columns[0] for attribute in inspect(model).column_attrs}
    column = columns.get(name, columns.get(f"{name}_"))
    if column is None or isinstance(column.type, VectorType):
        usable = ", ".join(
            key.rstrip("_") for key, known in columns.items() if not isinstance(known.type, VectorType)
        )
        raise InvalidFilter(
            f"filter: no field {shown(name)}; expected one of {usable}, or a path into a JSON one"
        )
    if isinstance(column.type, JSONB):
        return _json(column, rest.split(".") if rest else [], condition)
    if rest:
        raise InvalidFilter(f"filter: {shown(name)} is not JSON, so {shown(condition.field)} leads nowhere")
    return _plain(column, condition)


def _plain(column: ColumnElement[Any], condition: FilterCondition) -> ColumnElement[bool]:
    value = condition.value
    match condition.operator:
        case "exists":
            return column.is_not(None)
        case "eq":
            return column.is_(None) if value is None else column == _checked(column, condition, value)
        case "in":
            return column == _one_of(column, condition)
        case "range":
            return and_(
                *(
                    _COMPARE[bound](column, _checked(column, condition, limit))
                    for bound, limit in _bounds(condition)
                )
            )
        case "contains" if isinstance(cast_type("Any", column.type), ARRAY):
            return column.op("@>", is_comparison=True)(literal([value], column.type))
        case _:
            raise InvalidFilter(
                f"filter: {shown(condition.operator)} does not fit the field {shown(condition.field)}"
            )


def _json(column: ColumnElement[Any], path: list[str], condition: FilterCondition) -> ColumnElement[bool]:
    value = condition.value
    if condition.operator == "qdrant" and not path:
        return matching(column, value)
    if not path and condition.operator != "contains":
        raise InvalidFilter(f"filter: name a key of {shown(condition.field)}, such as `language`")
    inside: Any = column
    for key in path:
        inside = inside[key]
    match condition.operator:
        case "exists":
            return and_(inside.is_not(None), func.jsonb_typeof(inside) != "null")
        case "eq":
            return _equal(column, path, inside, value)
        case "in":
            items = _items(condition)
            scalars = [_checked_json(_nested(path, item)) for item in items if not _is_nested(item)]
            others = [_equal(column, path, inside, item) for item in items if _is_nested(item)]
            return or_(column.op("@>", is_comparison=True)(any_of(scalars, JSONB())), *others)
        case "range":
            limits = list(_bounds(condition))
            kinds = {"string" if isinstance(limit, str) else "number" for _, limit in limits}
            if len(kinds) != 1 or any(
                isinstance(limit, bool) or not isinstance(limit, str | int | float) for _, limit in limits
            ):
                raise InvalidFilter(
                    f"filter: the bounds of {shown(condition.field)} must be all numbers or all texts"
                )
            compared = [_COMPARE[bound](inside, _bound(limit)) for bound, limit in limits]
            return and_(func.jsonb_typeof(inside) == kinds.pop(), *compared)
        case "size":
            kind = func.jsonb_typeof(inside)
            counted = case(
                (kind == "array", func.jsonb_array_length(inside)),
                (func.coalesce(kind, "null") == "null", 0),
                else_=1,
            )
            elements = cast(counted, Double)  # like the bounds: pg_catalog has no double precision = integer
            return and_(
                *(_COMPARE[bound](elements, _number(condition, limit)) for bound, limit in _bounds(condition))
            )
        case "contains":
            found: ColumnElement[bool] = inside.op("@>", is_comparison=True)(_bound(value))
            return found
        case _:
            raise InvalidFilter(f"filter: unknown operator {shown(condition.operator)}")


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | tuple | dict)


def _equal(column: ColumnElement[Any], path: list[str], inside: Any, value: Any) -> ColumnElement[bool]:
    # The GIN index serves containment. Arrays and objects are compared too, as containment is true for a part of one.
    contained: ColumnElement[bool] = column.op("@>", is_comparison=True)(_bound(_nested(path, value)))
    return and_(contained, inside == _bound(value)) if _is_nested(value) else contained


def _bound(value: Any) -> ColumnElement[Any]:
    return literal(_checked_json(value), JSONB(none_as_null=False))


def _checked_json(value: Any) -> Any:
    try:
        json_text("filter: a value", value)
    except InvalidInputError as error:
        raise InvalidFilter(str(error)) from None
    return value


def _nested(path: list[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _items(condition: FilterCondition) -> Sequence[Any]:
    if condition.value.__class__ not in (list, tuple):
        raise InvalidFilter(f"filter: `in` of {shown(condition.field)} expects an array")
    values: Sequence[Any] = condition.value
    return values


def _one_of(column: ColumnElement[Any], condition: FilterCondition) -> CollectionAggregate[Any]:
    """The values of `in` as one array of the type of the column."""
    type_: Any = column.type
    plain: Any = type_
    if isinstance(type_, ARRAY):
        raise InvalidFilter(f"filter: `in` does not fit the field {shown(condition.field)}; use `contains`")
    given = _items(condition)
    items = [_checked(column, condition, item) for item in given]
    if isinstance(type_, Integer):  # a fraction equals no integer
        return any_of([int(item) for item in items if isinstance(item, int) or item.is_integer()], plain)
    if isinstance(type_, Float):
        return any_of([float(item) for item in items], plain)
    if isinstance(type_, Numeric):
        return any_of([Decimal(str(item)) for item in items], plain)
    if not isinstance(type_, Text | EnumText | DateTime) and all(isinstance(item, str) for item in given):
        return any_(cast(literal(list(given), ARRAY(Text)), ARRAY(plain)))
    return any_of(items, plain)


def _number(condition: FilterCondition, value: Any) -> ColumnElement[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidFilter(f"filter: the bounds of the size of {shown(condition.field)} must be numbers")
    try:
        return literal(float(value), Double)
    except OverflowError:
        raise InvalidFilter(f"filter: a bound of the size of {shown(condition.field)} is too large") from None


def _bounds(condition: FilterCondition) -> list[tuple[str, Any]]:
    value: dict[str, Any] = condition.value if condition.value.__class__ is dict else {}
    if not value or not value.keys() <= set(BOUNDS):
        raise InvalidFilter(
            f"filter: {shown(condition.operator)} of {shown(condition.field)} expects some of {', '.join(BOUNDS)}"
        )
    return list(value.items())


def _checked(column: ColumnElement[Any], condition: FilterCondition, value: Any) -> Any:
    """Return a value as the type of the column, so that a wrong one is refused before it is sent."""
    type_ = column.type
    where = f"filter: {shown(condition.field)}"
    try:
        if isinstance(value, str):
            storable(where, value)
        elif isinstance(value, int):
            whole(where, int(value))
        elif isinstance(value, float | Decimal):
            finite(where, value)
        elif isinstance(value, datetime):
            aware(where, value)
    except InvalidInputError as error:
        raise InvalidFilter(str(error)) from None
    if isinstance(type_, DateTime) and isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            if time.utcoffset() is None:
                raise InvalidFilter(f"{where}: a time without time zone; end it with `Z` or `+00:00`")
            return time
    elif (isinstance(type_, Text | EnumText) and isinstance(value, str)) or (
        isinstance(type_, Integer | Numeric)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    ):
        return value
    elif not isinstance(type_, Text | EnumText | Integer | Numeric | DateTime):
        if isinstance(value, str):
            return cast(value, type_)
        if check_column(condition.field, type_, [value]) is None:
            return value
    elif isinstance(type_, DateTime) and isinstance(value, datetime):
        return value
    raise InvalidFilter(
        f"filter: {shown(condition.field)} holds {type_!r}, which {type(value).__name__} cannot be compared with"
    )
