"""The JSON form of the catalogs: what is read, and what is refused with the entry's place."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from alfred_db.errors import InvalidInputError
from alfred_db.interchange.catalog import SECTIONS, entries, exported, read, seed, written

PRICE = {
    "provider": "p",
    "code": "c",
    "valid_from": "2025-01-01T00:00:00Z",
    "input_price": "0.1",
    "output_price": 1,
}


def test_values_come_as_python_has_them() -> None:
    (found,) = entries({"prices": [PRICE | {"cached_input_price": None}]}, "prices")  # type: ignore[list-item]
    assert found == PRICE | {
        "valid_from": datetime(2025, 1, 1, tzinfo=UTC),
        "input_price": Decimal("0.1"),
        "output_price": Decimal(1),
    }
    assert entries({}, "prices") == []


def test_prices_are_exact_however_they_are_written() -> None:
    text = json.dumps({"prices": [PRICE]}).replace('"0.1"', "0.123456789012345678")
    (found,) = entries(read(text), "prices")
    assert found["input_price"] == Decimal("0.123456789012345678")
    (found,) = entries({"prices": [PRICE | {"input_price": 0.1}]}, "prices")  # type: ignore[list-item]
    assert found["input_price"] == Decimal("0.1")


def test_jsonb_gets_no_decimals() -> None:
    document = read('{"makers": [{"code": "c", "name": "n", "metadata": {"a": [1.5, {"b": 2}]}}]}')
    (found,) = entries(document, "makers")
    assert json.dumps(found["metadata"]) == '{"a": [1.5, {"b": 2}]}'


def test_what_is_written_is_what_is_read() -> None:
    document = json.loads(seed())
    assert written(document) == seed()
    assert json.loads(written({"makers": [], "prices": [PRICE]})) == {"makers": [], "prices": [PRICE]}  # type: ignore[list-item]


def test_exported_values_are_plain() -> None:
    values = {
        "a": Decimal("3.500000000"),
        "b": datetime(2025, 1, 1, tzinfo=UTC),
        "c": None,
        "d": Decimal(100),
    }
    assert exported(values) == {"a": "3.5", "b": "2025-01-01T00:00:00+00:00", "d": "100"}


def test_the_seed_refers_only_to_what_it_holds() -> None:
    document = read(seed())
    found: dict[str, Any] = {section: entries(document, section) for section in SECTIONS}
    codes = {section: {entry.get("code") for entry in found[section]} for section in SECTIONS}
    versions = {(entry["model"], entry["code"]) for entry in found["snapshots"]}
    hosted = [(entry["provider"], entry["code"]) for entry in found["hosted_models"]]
    assert {entry["maker"] for entry in found["families"]} <= codes["makers"]
    assert {entry["family"] for entry in found["models"]} <= codes["families"]
    assert {entry["model"] for entry in found["snapshots"] + found["hosted_models"]} <= codes["models"]
    assert {entry["provider"] for entry in found["hosted_models"]} == codes["providers"]
    used = {(entry["model"], entry["snapshot"]) for entry in found["hosted_models"] if "snapshot" in entry}
    assert used <= versions
    assert len(hosted) == len(set(hosted))
    assert all(len(found[section]) == len(codes[section]) for section in ("providers", "makers", "models"))
    assert found["prices"] == found["registry"] == []


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "expected an object with sections, got list"),
        ({"x": []}, "'x': no such section; expected some of providers, makers"),
        ({"makers": {}}, "makers: expected a list, got dict"),
        ({"makers": "x"}, "makers: expected a list, got str"),
        ({"makers": [1]}, r"makers\[0\]: expected an object, got int"),
        ({"makers": [{"code": "a", "name": "b"}, {"code": "a"}]}, r"makers\[1\]: without name"),
        ({"makers": [{"code": "a", "name": None}]}, r"makers\[0\]: without name"),
        (
            {"makers": [{"code": "a", "name": "b", "c": 1}]},
            r"makers\[0\]: unknown 'c'; expected code!, name!",
        ),
        ({"makers": [{"code": 1, "name": "b"}]}, r"makers\[0\].code: expected a text, got int"),
        ({"makers": [{"code": "a", "name": "b", "metadata": 1}]}, "metadata: expected an object, got int"),
        ({"providers": [{"code": "a", "name": "b", "is_active": 1}]}, "is_active: expected true or false"),
        ({"models": [{"code": "a", "name": "b", "family": "f", "context_window": True}]}, "a whole number"),
        ({"prices": [PRICE | {"valid_from": "2025-01-01"}]}, "valid_from: a time without time zone"),
        ({"prices": [PRICE | {"valid_from": "soon"}]}, r"prices\[0\].valid_from"),
        ({"prices": [PRICE | {"input_price": -1}]}, "input_price: expected a price of 0 or more"),
        ({"prices": [PRICE | {"input_price": "NaN"}]}, "input_price: expected a price of 0 or more"),
        ({"prices": [PRICE | {"input_price": math.inf}]}, "input_price: expected a price of 0 or more"),
        ({"prices": [PRICE | {"input_price": "much"}]}, r"prices\[0\].input_price"),
        ({"prices": [PRICE | {"input_price": []}]}, "input_price: expected a number"),
    ],
)
def test_what_cannot_be_meant_is_refused(document: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        _ = [entries(document, section) for section in SECTIONS]


@pytest.mark.parametrize("text", ["", "{", "[1", "\x00", "[" * 100_000, "null", "[]"])
def test_what_is_no_catalog_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="catalog: "):
        read(text)
