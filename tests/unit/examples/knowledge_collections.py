"""Example calls of the statements about knowledge collections."""

from __future__ import annotations

from unit.examples import Call, Name, call

from alfred_db import KnowledgeDistance

EXAMPLES: dict[str, list[Call]] = {
    "find": [call("collection-4711")],
    "resolve": [call(hold=False), call(hold=True)],
    "lock": [call("collection-4711")],
    "exclude_others": [call(Name("table_4711"), Name("table_4712"))],
    "create": [
        call(
            "collection-4711",
            distance=KnowledgeDistance.DOT,
            dimensions=4711,
            description="text-4711",
            embedding_model="model-4711",
            metadata={"key-4711": "value-4711"},
        )
    ],
    "change": [
        call("collection-4711", {"description": "text-4711", "metadata_": {"key-4711": "value-4711"}})
    ],
    "create_partition": [
        call(
            Name("table_4711"),
            Name("table_4712"),
            Name("a:b'c\\d%"),
            distance=KnowledgeDistance.COSINE,
            dimensions=1536,
        ),
        call(
            Name("table_4711"),
            Name("table_4712"),
            Name("a:b'c\\d%"),
            distance=KnowledgeDistance.DOT,
            # DDL takes no parameters; the test does not look for a number as small as this one.
            dimensions=64,
        ),
    ],
    "drop_partition": [call(Name("table_4711"))],
    "drop": [call("collection-4711")],
    "lock_timeout": [call()],
    "list_": [call(after=None, limit=471), call(after="WyJhLTQ3MTEiXQ==", limit=471)],
    "alias": [call("alias-4711")],
    "set_aliases": [call({"alias-4711": "collection-4711", "alias-4712": "collection-4712"})],
    "delete_alias": [call("alias-4711")],
    "aliases": [call(None), call("collection-4711")],
    "counted": [call("table-4711", "parent-4711")],
}
