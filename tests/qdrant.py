"""Random payloads and filters as Qdrant's users write them, from a seed."""

from __future__ import annotations

import random
import uuid
from typing import Any

NAMES = ("a", "b", "c", "two words")
TIMES = (
    "2024-01-01T00:00:00Z",
    "2024-01-01T01:00:00+02:00",
    "2023-12-31T20:30:00-05:00",
    "2024-01-01 00:00:00.5",
    "2024-01-01T00:00:00.1234567Z",
    "2024-1-1",
    "2024-01-01",
    "2024-01-01T05:30",
    "2024-01-01T05:30:00 +0530",
    "2024-01-01T00:00:00+01",
    "2023-12-31T23:00:00 UTC",
    "  2024-01-01T00:00:00z",
    "2024-02-30",
    "2024-02-29",
    "2023-02-29T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00+14:00",
    "0000-01-01",
    "2024-13-01",
    "2024-01-01T24:00:00Z",
    "2024-01-01T12",
    "20240101",
)
BOUNDS = (
    "2024-01-01T00:00:00Z",
    "2023-12-31T23:00:00+00:00",
    "2024-01-01T00:00:00.5Z",
    "2024-02-29",
    "2023-12-31T19:00:00-05:00",
)
TEXTS = (
    "x",
    "y",
    "",
    "1",
    "true",
    "X y",
    "Hello, world! it's x_y 1.5",
    "hello WORLD",
    "world hello",
    "Größe ÄÖÜ straße",
    "größe STRASSE",
    "ΑΒΓ αβγ",
    "日本 語",
    "e\u0301te caf\u00e9",
    'quo"te \\ back',
    "550e8400-e29b-41d4-a716-446655440000",
)
NUMBERS = (0, 1, 2, -1, 3, 1.0, 1.5, 2.0, -0.5, 1e-7, 2**53 + 1, 2**63 - 1)
PLACES = (
    {"lat": 52.52, "lon": 13.405},
    {"lat": 51.5074, "lon": -0.1278},
    {"lat": 0, "lon": 179.5},
    {"lat": 0, "lon": -179.5},
    {"lat": 90, "lon": 0},
    {"lat": 0.0, "lon": 0},
    {"lat": "52", "lon": 13},
    {"lat": 5},
    {"lat": True, "lon": 1},
    {"lat": [1], "lon": [2]},
)
UUIDS = [str(uuid.UUID(int=0xABCDEF << number)) for number in range(12)]


class Random:
    """Payloads, paths and filters."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.one = self._random.choice

    def points(self, count: int) -> list[dict[str, Any]]:
        ids: list[Any] = [*range(count - len(UUIDS)), *UUIDS]
        return [{"id": id_, "payload": self.object(3)} for id_ in ids]

    def object(self, depth: int) -> dict[str, Any]:
        return {name: self.value(depth - 1) for name in NAMES if self._random.random() < 0.6}

    def value(self, depth: int) -> Any:
        kind = self._random.random()
        if depth > 0 and kind < 0.15:
            return self.object(depth)
        if depth > 0 and kind < 0.45:
            return [self.value(depth - 1) for _ in range(self.one((0, 0, 1, 1, 2, 3)))]
        if depth > 0 and kind < 0.55:
            return [self.object(depth - 1) for _ in range(self.one((1, 2, 3)))]
        return self.scalar()

    def scalar(self) -> Any:
        return self.one(
            (
                lambda: None,
                lambda: self.one((True, False)),
                lambda: self.one(NUMBERS),
                lambda: self.one(NUMBERS[:4]),
                lambda: self.one(TEXTS),
                lambda: self.one(TEXTS[:4]),
                lambda: self.one(TIMES),
                lambda: dict(self.one(PLACES)),
            )
        )()

    def path(self) -> str:
        steps: list[str] = []
        if self._random.random() < 0.5:
            return self.one(NAMES[:3])
        for _ in range(self.one((1, 1, 1, 2, 2, 3))):
            name = self.one(NAMES)
            name = f'"{name}"' if " " in name or self._random.random() < 0.05 else name
            steps.append(name + self.one(("", "", "", "", "[]", "[]", "[0]", "[1]", "[][]", "[0][]")))
        return ".".join(steps)

    def filter(self, depth: int = 2, *, nested: bool = False) -> dict[str, Any]:
        if self._random.random() < 0.5:
            return {self.one(("must", "must_not")): [self.condition(depth, nested=nested)]}
        found: dict[str, Any] = {}
        for group in ("must", "should", "must_not"):
            if self._random.random() < 0.5:
                parts = [self.condition(depth, nested=nested) for _ in range(self.one((0, 1, 1, 1, 2)))]
                found[group] = parts[0] if len(parts) == 1 and self._random.random() < 0.2 else parts
        if self._random.random() < 0.12:
            parts = [self.condition(depth, nested=nested) for _ in range(self.one((0, 1, 2, 3)))]
            found["min_should"] = {"conditions": parts, "min_count": self.one((1, 1, 2, 3))}
        return found or {"must": [self.condition(depth, nested=nested)]}

    def condition(self, depth: int, *, nested: bool) -> dict[str, Any]:
        kind = self._random.random()
        if depth > 0 and kind < 0.12:
            return self.filter(depth - 1, nested=nested)
        if depth > 0 and kind < 0.24:
            return {"nested": {"key": self.path(), "filter": self.filter(depth - 1, nested=True)}}
        if not nested and kind < 0.28:
            return {"has_id": [self.id() for _ in range(self.one((0, 1, 5, 20)))]}
        if kind < 0.36:
            return {self.one(("is_null", "is_empty")): {"key": self.path()}}
        return {"key": self.path(), **self.test()}

    def id(self) -> Any:
        number = self._random.randrange(60)
        if number < 40:
            return number
        text = self.one(UUIDS)
        return self.one(
            (text, text.upper(), text.replace("-", ""), f"{{{text}}}", f"urn:uuid:{text}", "f" * 32)
        )

    def test(self) -> dict[str, Any]:
        return self.one(
            (
                lambda: {"match": self.match()},
                lambda: {"match": self.match()},
                lambda: {"range": self.bounds([*NUMBERS, 0.5, -3])},
                lambda: {"range": self.bounds(BOUNDS)},
                lambda: {"values_count": self.bounds([0, 1, 2, 3])},
                lambda: {self.one(("is_null", "is_empty")): self.one((True, False))},
                lambda: {"geo_radius": {"center": self.place(), "radius": self.one((1.0, 1e5, 1e6, 2e7))}},
                lambda: {"geo_bounding_box": {"top_left": self.place(), "bottom_right": self.place()}},
            )
        )()

    def place(self) -> dict[str, Any]:
        return {
            "lat": self.one((-90, -10, 0, 50.5, 52.52, 53, 90)),
            "lon": self.one((-180, -1, 0, 14, 179, 180)),
        }

    def bounds(self, limits: Any) -> dict[str, Any]:
        names = self._random.sample(["gt", "gte", "lt", "lte"], self.one((1, 1, 2)))
        return {name: self.one(limits) for name in names}

    def match(self) -> dict[str, Any]:
        whole = [number for number in NUMBERS if isinstance(number, int)]
        texts = [*TEXTS, *TIMES[:3]]
        kind = self.one(
            ("value", "value", "any", "except", "text", "text_any", "phrase", "prefix", "substring")
        )
        if kind == "value":
            return {kind: self.one((True, False, self.one(whole), self.one(whole[:3]), self.one(texts)))}
        if kind in ("any", "except"):
            several = self.one((texts, texts[:5], whole, whole[:4]))
            return {kind: [self.one(several) for _ in range(self.one((0, 1, 1, 2, 3)))]}
        return {
            kind: self.one((*texts, "world", "HELLO", "WORLD it", "ß", "é", "日本", "s x_y", "GRÖSSE größe"))
        }
