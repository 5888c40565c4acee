"""Example calls of the statements about embedding spaces."""

from __future__ import annotations

import uuid

from unit.examples import Call, Name, call

from alfred_db import SpaceIndex, SpaceKind, SpaceState, SpaceStorage
from alfred_db.queries.shapes.spaces import Space

KIND = SpaceKind.DOCUMENTS
KEY = uuid.UUID("47114711-4711-4711-4711-471147114711")


def space(
    kind: SpaceKind = KIND, storage: SpaceStorage = SpaceStorage.VECTOR, index: SpaceIndex = SpaceIndex.HNSW
) -> Space:
    return Space(47, "space-4711", kind, "model-4711", 3, storage, index, SpaceState.ACTIVE)


SPACES = [
    space(),
    space(SpaceKind.MEMORIES, SpaceStorage.HALFVEC),
    space(SpaceKind.DOCUMENTS, SpaceStorage.VECTOR, SpaceIndex.HNSW_HALFVEC),
    space(SpaceKind.DOCUMENTS, SpaceStorage.VECTOR, SpaceIndex.HNSW_BIT),
    space(SpaceKind.DOCUMENTS, SpaceStorage.VECTOR, SpaceIndex.NONE),
]
OF_UUIDS = space(SpaceKind.WORKING_MEMORY)
VECTOR = [0.4711, 0.4712, 0.4713]

EXAMPLES: dict[str, list[Call]] = {
    "catalog": [call()],
    "find": [call("space-4711", None), call("space-4711", KIND)],
    "list_": [call(None), call(KIND)],
    "hold": [call(4711)],
    "lock": [call(4711)],
    "create": [call({"name": "space-4711", "kind": KIND, "model": "model-4711", "dimensions": 4711})],
    "change": [call(4711, {"model": "model-4711"})],
    "remove": [call(4711)],
    "default": [call(KIND)],
    "set_default": [call(KIND, 4711)],
    "create_partition": [call(Name("table_4711"), Name("table_4712"), one) for one in SPACES],
    "create_index": [call(Name("table_4711"), Name("index_4711"), one) for one in SPACES[:-1]],
    "drop_partition": [call(Name("table_4711"))],
    "exclude_writers": [call(Name("table_4711"))],
    "held": [call(KIND, [4711, 4712]), call(SpaceKind.MEMORY_ENTRIES, [KEY])],
    "clear": [call(SPACES[0], [4711]), call(OF_UUIDS, [KEY])],
    "clear_everywhere": [call(SpaceKind.MEMORIES, [4711])],
    "store": [
        call(SPACES[0], [(4711, 0, 47, b"hash-4711", VECTOR)]),
        call(OF_UUIDS, [(KEY, 0, 47, None, VECTOR)]),
    ],
    "store_builtin": [
        call(KIND, [(4711, [0.4711] * 384)], "model-4711"),
        call(KIND, [(4711, [0.4711] * 384)], None),
    ],
    "pending": [
        call(SPACES[0], after=None, limit=471),
        call(SPACES[1], after=4711, limit=471),
        call(OF_UUIDS, after=KEY, limit=471),
        call(KIND, after=None, limit=471),
    ],
    "coverage": [call(SPACES[0]), call(SPACES[1]), call(OF_UUIDS), call(SpaceKind.MEMORY_ENTRIES)],
    "count": [call(SPACES[0])],
    "some_vectors": [call(SPACES[0], 471), call(OF_UUIDS, 471)],
    "count_builtin": [call(KIND)],
    "models_in_column": [call(KIND)],
}
