"""Example calls of the statements about web sessions."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "create": [call()],
    "get": [call()],
    "of_user": [call()],
    "purge": [call(limit=4711)],
    "purgeable": [call()],
    "revoke": [call()],
    "revoke_user": [call(limit=None), call(limit=471)],
    "rotate": [call(login=True), call(login=False)],
    "save": [call()],
    "touch": [call()],
}
