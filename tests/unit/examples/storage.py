"""Example calls of the statements about storage."""

from __future__ import annotations

import uuid

from unit.examples import Call, call

OWNER = uuid.uuid4()
NAMES = {"after": "WyJuYW1lLTQ3MTEiXQ==", "limit": 471}
IDS = {"after": "WyIwYTFiMmMzZC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDAiXQ==", "limit": 471}
START = {"after": None, "limit": 471}

EXAMPLES: dict[str, list[Call]] = {
    "made_here": [call()],
    "create_bucket": [
        call(
            "bucket-4711",
            name="name-4711",
            owner=OWNER,
            public=True,
            file_size_limit=4711,
            allowed_mime_types=["image/x-4711"],
        ),
        call(
            "bucket-4711",
            name="name-4711",
            owner=None,
            public=False,
            file_size_limit=None,
            allowed_mime_types=None,
        ),
    ],
    "get_bucket": [call("bucket-4711")],
    "list_buckets": [call(**START), call(**NAMES)],
    "delete_bucket": [call("bucket-4711")],
    "put": [
        call("bucket-4711", "name-4711", metadata={"key-4711": 4711}, owner=OWNER, version="version-4711"),
        call("bucket-4711", "name-4711", metadata=None, owner=None, version=None),
    ],
    "get": [call("bucket-4711", "name-4711")],
    "move": [call("bucket-4711", "name-4711", to_bucket="bucket-4712", to_name="name-4712")],
    "remove": [call("bucket-4711", "name-4711")],
    "list_": [call("bucket-4711", "", **START), call("bucket-4711", "prefix-4711/", **NAMES)],
    "unreferenced": [call("bucket-4711", "", **START), call("bucket-4711", "prefix-4711/", **NAMES)],
    "references": [call("key-4711", **START), call("key-4711", **IDS)],
    "dangling": [
        call("bucket-4711", provider=None, **START),
        call("bucket-4711", provider="provider-4711", **IDS),
    ],
}
