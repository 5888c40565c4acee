"""Example calls of the statements about memories."""

from __future__ import annotations

from unit.examples import Call, call

VECTOR = [0.4711] * 384

MERGED = {
    "id": 4711,
    "importance": 4712,
    "seen_count": 4713,
    "access_count": 4714,
    "last_accessed": None,
    "expires_at": None,
    "content": "content-4711",
    "content_hash": b"hash-4711",
}

EXAMPLES: dict[str, list[Call]] = {
    "in_bank": [call(4711)],
    "remember": [call()],
    "remember_many": [call()],
    "known": [call(4711, [b"hash-4711"])],
    "hold": [call([4711, 4712])],
    "count_in": [call([(4711, 4712, 4713)])],
    "still_near": [call([(4711, 4712), (4711, 4713)], 0.4711)],
    "merge": [call([MERGED, {**MERGED, "content": None, "content_hash": None}])],
    "get": [call(4711)],
    "change": [call(4711, {"content": "content-4711", "embedding": None})],
    "remove": [call([4711])],
    "list_": [call(4711, after=None, limit=471), call(4711, after="WzQ3MTFd", limit=471)],
    "touch": [call()],
    "nearest_each": [
        call(4711, [VECTOR, VECTOR], limit=5, exact=False),
        call(4711, [VECTOR], limit=5, exact=True),
    ],
    "neighbours": [
        call(4711, after=4710, rows=471, limit=5, exact=False),
        call(4711, after=4710, rows=471, limit=5, exact=True),
    ],
    "sweep": [call(4711)],
    "purgeable": [call()],
    "prune": [
        call(4711, half_life=4712.5, keep=4713, below=None, limit=None),
        call(4711, half_life=4712.5, keep=None, below=4713.5, limit=471),
    ],
}
