"""Example calls of the statements about the nodes of Citus."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "node": [call("table-4711")],
    "prepared": [call("table-4711")],
    "recorded": [call(["gid-4711", "gid-4712"])],
    "table_size": [call("table-4711")],
}
