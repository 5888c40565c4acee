"""Example calls of the statements about the cache."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "claim": [call()],
    "clear": [call(limit=4711)],
    "evict": [call(limit=4711)],
    "get": [call()],
    "get_many": [call()],
    "increment": [call(expires=True), call(expires=False)],
    "purge": [call(limit=4711)],
    "purgeable": [call()],
    "purge_claims": [call(limit=4711)],
    "release": [call()],
    "remove": [call()],
    "set_": [call(expires=expires, add=add) for expires in (True, False) for add in (True, False)],
    "set_many": [call()],
    "size": [call()],
    "touch": [call(expires=True), call(expires=False)],
}
