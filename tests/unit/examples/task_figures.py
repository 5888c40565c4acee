"""Figures of the queues."""

from __future__ import annotations

from . import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "failed": [call()],
    "running": [call()],
    "unhandled": [call(4711.5)],
    "waiting": [call()],
    "workers": [call()],
}
