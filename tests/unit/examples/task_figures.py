"""Figures of the queues."""

from __future__ import annotations

from . import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "failed": [call()],
    "holders": [call(471)],
    "latest_failed": [call(471)],
    "longest": [call(471)],
    "running": [call()],
    "unhandled": [call(4711.5)],
    "waiting": [call()],
    "workers": [call()],
    "dead": [call(["intent-4711"], None, 471)],
}
