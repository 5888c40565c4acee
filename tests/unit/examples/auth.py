"""Example calls of the statements about users."""

from __future__ import annotations

import uuid

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "get": [call(uuid.uuid4())],
    "get_by_email": [call("user-4711@example.org")],
    "list_": [
        call(include_deleted=False, after=None, limit=471),
        call(
            include_deleted=True, after="WyIwYTFiMmMzZC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDAiXQ==", limit=471
        ),
    ],
}
