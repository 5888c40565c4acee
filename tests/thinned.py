"""Some cases of a product of inputs, chosen by a hash: each row of it is covered in each run, and each column over the rows.

A product of all methods with all wrong values is long, and of its cases most find the same faults. `make test-all` runs them all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

Case = TypeVar("Case")

_ALL = bool(os.environ.get("ALFRED_DB_TEST_ALL"))


def some(cases: Sequence[Case], count: int, *row: object) -> list[Case]:
    """Return `count` of the cases, in their order: the same ones of the same row each time, and others of another row."""
    if _ALL:
        return list(cases)
    ranks = {sha256(ascii((row, case)).encode()).hexdigest(): number for number, case in enumerate(cases)}
    return [cases[number] for number in sorted(ranks[rank] for rank in sorted(ranks)[:count])]


def one_in(count: int, *row: object) -> bool:
    """Whether the row is one of those, one in so many, for which a long case runs."""
    return _ALL or int.from_bytes(sha256(ascii(row).encode()).digest()) % count == 0
