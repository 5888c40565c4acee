"""Example calls of the statements about the cache."""

from __future__ import annotations

from unit.examples import Call, call

BOTH = (True, False)

EXAMPLES: dict[str, list[Call]] = {
    "add": [call(expires=expires, numeric=numeric) for expires in BOTH for numeric in BOTH],
    "bound": [call()],
    "claim": [call()],
    "clear": [call(limit=4711, bounded=True), call(limit=4711, bounded=False)],
    "blocks": [call()],
    "evict": [call(4.711)],
    "get": [call()],
    "get_many": [call()],
    "increment": [call(expires=True), call(expires=False)],
    "purge": [call(limit=4711)],
    "purgeable": [call()],
    "purge_claims": [call(limit=4711)],
    "release": [call()],
    "remove": [call()],
    "remove_equal": [call()],
    "replace": [call(expires=True), call(expires=False)],
    "sample": [call(4.711)],
    "set_": [call(expires=expires, numeric=numeric) for expires in BOTH for numeric in BOTH],
    "set_bound": [call()],
    "set_many": [call()],
    "size": [call()],
    "touch": [call(expires=True), call(expires=False)],
}
