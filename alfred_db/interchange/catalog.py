"""The JSON form of the catalogs: a list of entries for each section, which refer to each other by code.

    {"providers": [{"code": "openai", "name": "OpenAI"}], "makers": [...], ..., "registry": [...]}

`registry` holds the models of the model registry, the other sections the catalog of the broker. A field that
is missing or null is left unchanged in the database.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from typing import Any, cast

from ..checks import unstorable
from ..errors import InvalidInputError, shown
from ..values.broker_catalog import CatalogDocument

__all__ = ["BROKER_SECTIONS", "SECTIONS", "endpoints", "entries", "exported", "read", "seed", "written"]


def read(text: str, name: str = "catalog") -> CatalogDocument:
    """Return the document of a JSON text.

    Args:
        text: The JSON text.
        name: Name of the text in messages.

    Raises:
        InvalidInputError: The text is not JSON, or has an unknown section.
    """
    try:
        document: Any = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{name}: not JSON ({error}); pass a file written by `catalog export`"
        ) from None
    return cast("CatalogDocument", _document(document))


def seed() -> str:
    """Return the catalog that comes with the library as JSON.

    It has providers, makers, families and some models, but no prices.
    """
    return files("alfred_db").joinpath("data", "catalog.json").read_text("utf-8")


def written(document: CatalogDocument) -> str:
    """Return the JSON text of a document with one entry a line, so that two documents can be compared."""
    sections = [
        f"  {json.dumps(section)}: [\n"
        + ",\n".join("    " + json.dumps(entry, ensure_ascii=False) for entry in found)
        + ("\n  ]" if found else "  ]")
        for section, found in _document(document).items()
    ]
    return "{\n" + ",\n".join(sections) + "\n}\n"


def entries(document: CatalogDocument, section: str) -> list[dict[str, Any]]:
    """Return the entries of a section, with times, prices and other values as Python objects.

    Raises:
        InvalidInputError: An entry has an unknown or missing field, or an invalid value.
    """
    return _entries(_document(document).get(section), SECTIONS[section], section)


def exported(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry as JSON values, without NULLs."""
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return format(value.normalize(), "f") if isinstance(value, Decimal) else value


def _document(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise InvalidInputError(f"catalog: expected an object with sections, got {type(document).__name__}")
    found = cast("Mapping[str, Any]", document)
    unknown = sorted(map(shown, set(found) - set(SECTIONS)))
    if unknown:
        raise InvalidInputError(
            f"catalog: {', '.join(unknown[:5])}: no such section; expected some of {', '.join(SECTIONS)}"
        )
    return found


# Fields: `!` marks a required one


Convert = Callable[[Any], Any]
Fields = Mapping[str, Convert]


def _entries(given: Any, fields: Fields, where: str) -> list[dict[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InvalidInputError(f"catalog: {where}: expected a list, got {type(given).__name__}")
    listed = cast("Sequence[object]", given)
    return [_entry(entry, fields, f"{where}[{number}]") for number, entry in enumerate(listed)]


def _entry(given: Any, fields: Fields, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"catalog: {where}: expected an object, got {type(given).__name__}")
    entry = cast("Mapping[str, Any]", given)
    known = {name.rstrip("!"): convert for name, convert in fields.items()}
    needed = [name.rstrip("!") for name in fields if name.endswith("!")]
    unknown = sorted(map(shown, set(entry) - set(known)))
    missing = [name for name in needed if entry.get(name) is None]
    if unknown or missing:
        problem = f"unknown {', '.join(unknown[:5])}" if unknown else f"without {', '.join(missing)}"
        raise InvalidInputError(f"catalog: {where}: {problem}; expected {', '.join(fields)} (`!`: required)")
    found: dict[str, Any] = {}
    for name, value in entry.items():
        try:
            if value is not None:
                found[name] = known[name](value)
        except (TypeError, ValueError, InvalidOperation, RecursionError) as error:
            raise InvalidInputError(f"catalog: {where}.{name}: {error}") from None
    return found


def _a(kind: type | tuple[type, ...], what: str) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"expected {what}, got {type(value).__name__}")
        wrong = unstorable("it", value)
        if wrong is not None:
            raise ValueError(wrong)
        return value

    return convert


def _time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(_text(value))
    except ValueError:
        raise ValueError(f"expected a time such as 2026-01-31T12:00:00Z, got {shown(value)}") from None
    if time.tzinfo is None:
        raise ValueError("a time without time zone; end it with `Z` or `+00:00`")
    return time


def _price(value: Any) -> Decimal:
    price = Decimal(_number_or_text(value)) if not isinstance(value, float) else Decimal(str(value))
    if not price.is_finite() or price < 0:
        raise ValueError("expected a price of 0 or more")
    return price


def _score(value: Any) -> float:
    score = float(_number(value))
    if not math.isfinite(score):
        raise ValueError("expected a finite number")
    return score


def _object(value: Any) -> Any:
    """Return an object with its decimals as floats, because jsonb is sent as JSON of the standard library."""
    return json.loads(json.dumps(_mapping(value), default=float))


def _scores(value: Any) -> dict[str, float]:
    return {str(name): _score(score) for name, score in _mapping(value).items()}


def endpoints(value: Any) -> list[dict[str, Any]]:
    """Return checked endpoints of a model of the registry.

    Raises:
        InvalidInputError: An endpoint has an unknown or missing field, or an invalid value.
    """
    return _entries(value, _ENDPOINT, "endpoints")


_text, _flag, _count = _a(str, "a text"), _a(bool, "true or false"), _a(int, "a whole number")
_mapping, _number = _a(Mapping, "an object"), _a((int, float, Decimal), "a number")
_number_or_text = _a((int, float, Decimal, str), "a number or a text with one")

_ENDPOINT: Fields = {
    "endpoint_type!": _text,
    "endpoint_url": _text,
    "auth_type": _text,
    "headers": _object,
}
_CODE: Fields = {"code!": _text, "name!": _text, "metadata": _object}

SECTIONS: Mapping[str, Fields] = {
    "providers": {**_CODE, "is_active": _flag},
    "makers": _CODE,
    "families": {**_CODE, "maker!": _text},
    "models": {
        **_CODE,
        "family!": _text,
        "capabilities": _object,
        "context_window": _count,
        "max_output_tokens": _count,
    },
    "snapshots": {**_CODE, "model!": _text, "released_at": _time, "retired_at": _time},
    "hosted_models": {
        "provider!": _text,
        "code!": _text,
        "model!": _text,
        "snapshot": _text,
        "name": _text,
        "is_active": _flag,
        "metadata": _object,
    },
    "prices": {
        "provider!": _text,
        "code!": _text,
        "valid_from!": _time,
        "input_price!": _price,
        "output_price!": _price,
        "cached_input_price": _price,
        "currency": _text,
    },
    "registry": {
        "name!": _text,
        "display_name!": _text,
        "provider!": _text,
        "model_type!": _text,
        "version": _text,
        "description": _text,
        "deprecated_at": _time,
        "endpoints": endpoints,
        "capabilities": _scores,
    },
}

BROKER_SECTIONS = tuple(section for section in SECTIONS if section != "registry")
"""The sections of the broker, ordered so that an entry follows those it refers to."""
