"""Tasks, messages, agents, the scheduler and workflows."""

from __future__ import annotations

from collections.abc import Generator

from . import JSON, Specimens
from .ground import LATER

_TASK = {
    "intent": "i",
    "content": JSON,
    "task_id": "new",
    "assigned_to": "a",
    "created_by": "c",
    "dedupe_key": "new",
    "queue": "q",
    "concurrency_key": "k",
    "metadata": JSON,
    "ordering_key": "new",
}


class _Value(bytes):
    """A value that both halves can take: bytes, and awaitable."""

    def __await__(self) -> Generator[None, None, bytes]:
        yield from ()
        return bytes(self)


def _value() -> _Value:
    return _Value(b"v")


_EVENT = {"topic": "t", "payload": JSON, "type": "t", "key": "k"}

SPECIMENS: Specimens = {
    "tasks.batch": lambda g: {"tasks": [_TASK], "then": {**_TASK, "task_id": "last", "dedupe_key": "last"}},
    "tasks.children": lambda g: {"id": g.task.id},
    "tasks.claim": lambda g: {
        "worker": "w",
        "queues": ["default"],
        "intents": ["ground"],
        "assigned_to": "a",
    },
    "tasks.complete": lambda g: {
        "claimed": g.task,
        "results": [{"result_type": "r", "content": JSON, "metadata": JSON}],
    },
    "tasks.count": lambda g: {"queue": "q", "intent": "i", "assigned_to": "a"},
    "tasks.enqueue": lambda g: _TASK,
    "tasks.enqueue_many": lambda g: {"tasks": [_TASK]},
    "tasks.enqueue_many, by COPY": lambda g: {"tasks": [*[{"intent": "i"}] * 1000, _TASK]},
    "tasks.fail": lambda g: {"claimed": g.task, "error": "e", "code": "c"},
    "tasks.get_by_task_id": lambda g: {"task_id": "ground"},
    "tasks.list": lambda g: {"queue": "default", "intent": "ground", "assigned_to": "a"},
    "tasks.progress": lambda g: {"claimed": g.task, "fraction": 0.5, "note": "n"},
    "tasks.purge": lambda g: {"older_than": 0, "queue": "q"},
    "tasks.purgeable": lambda g: {"older_than": 0, "queue": "q"},
    "tasks.requeue_failed": lambda g: {"queue": "q", "intent": "i"},
    "queues.delete": lambda g: {"name": "q"},
    "queues.get": lambda g: {"name": "q"},
    "queues.pause": lambda g: {"name": "q"},
    "queues.resume": lambda g: {"name": "ground"},
    "queues.set": lambda g: {"name": "q", "max_running": 1},
    "events.detach_partition": lambda g: {"name": g.months},
    "events.get_consumer": lambda g: {"consumer": "ground"},
    "events.list": lambda g: {"topic": "ground"},
    "events.partition_readers": lambda g: {"name": g.months},
    "events.peek": lambda g: {"consumer": "ground"},
    "events.publish": lambda g: _EVENT,
    "events.publish_many": lambda g: {"events": [_EVENT]},
    "events.publish_many, by COPY": lambda g: {"events": [*[{"topic": "t"}] * 1000, _EVENT]},
    "events.read": lambda g: {"consumer": "ground"},
    "events.seek": lambda g: {"consumer": "ground", "to": "beginning"},
    "events.subscribe": lambda g: {"consumer": "new", "topics": ["t"], "start": "now"},
    "events.unsubscribe": lambda g: {"consumer": "ground", "topics": ["other"]},
    "messages.first_time": lambda g: {"message_id": "new"},
    "messages.first_time_many": lambda g: {"message_ids": ["new"]},
    "messages.get": lambda g: {"message_id": "ground"},
    "cache.add": lambda g: {"key": "new", "value": b"v"},
    "cache.clear": lambda g: {"prefix": "new"},
    "cache.delete": lambda g: {"key": "new"},
    "cache.delete_many": lambda g: {"keys": ["new"]},
    "cache.get": lambda g: {"key": "new"},
    "cache.get_many": lambda g: {"keys": ["new"]},
    "cache.get_or_set": lambda g: {"key": "new", "compute": _value},
    "cache.incr": lambda g: {"key": "new"},
    "cache.replace": lambda g: {"key": "new", "value": b"v", "expected": b"w"},
    "cache.set": lambda g: {"key": "new", "value": b"v"},
    "cache.set_many": lambda g: {"entries": {"new": b"v"}},
    "cache.touch": lambda g: {"key": "new", "ttl": 60.0},
    "rate_limits.clear": lambda g: {"prefix": "new"},
    "rate_limits.count": lambda g: {"key": "new", "period": 1.0},
    "rate_limits.usage": lambda g: {"key": "new", "window": "moving-window"},
    "rate_limits.check": lambda g: {"key": "new", "limit": 1, "period": 1.0, "algorithm": "fixed-window"},
    "rate_limits.hit": lambda g: {"key": "new", "limit": 1, "period": 1.0, "algorithm": "sliding-window"},
    "rate_limits.reset": lambda g: {"key": "new"},
    "web_sessions.create": lambda g: {"user_id": "new", "data": JSON},
    "web_sessions.get": lambda g: {"token": "new"},
    "web_sessions.list_user": lambda g: {"user_id": "new"},
    "web_sessions.revoke": lambda g: {"token": "new"},
    "web_sessions.revoke_user": lambda g: {"user_id": "new", "keep": "other"},
    "web_sessions.rotate": lambda g: {"token": "new", "user_id": "new"},
    "web_sessions.save": lambda g: {"token": "new", "data": JSON},
    "web_sessions.touch": lambda g: {"token": "new"},
    "agents.find_by_capability": lambda g: {"names": ["c"]},
    "agents.get_by_name": lambda g: {"name": "ground"},
    "agents.list": lambda g: {},
    "agents.list_alive": lambda g: {"type": "t"},
    "agents.register": lambda g: {
        "name": "new",
        "type": "t",
        "version": "1",
        "capabilities": ["c"],
        "endpoint_url": "u",
        "health_check_url": "u",
        "configuration": JSON,
    },
    "agents.set_status": lambda g: {"agent_id": g.agent, "status": "active"},
    "scheduler.claim": lambda g: {"worker": "w", "commands": ["c"]},
    "scheduler.complete": lambda g: {"claimed": g.execution, "error_output": "e", "output": "o"},
    "scheduler.create": lambda g: {
        "name": "n",
        "command": "c",
        "schedule": "* * * * *",
        "timezone": "UTC",
        "schedule_key": "new",
    },
    "scheduler.create, with an intent": lambda g: {
        "name": "n",
        "intent": "i",
        "schedule_key": "new",
        "content": JSON,
        "queue": "q",
        "dedupe_key": "k",
    },
    "scheduler.declare": lambda g: {
        "owner": "o",
        "schedules": [
            {
                "name": "n",
                "schedule": "* * * * *",
                "schedule_key": "new",
                "timezone": "UTC",
                "intent": "i",
                "content": JSON,
                "queue": "q",
                "dedupe_key": "k",
            },
            {"name": "n", "schedule": "* * * * *", "schedule_key": "newer", "command": "c"},
        ],
    },
    "scheduler.fail": lambda g: {"claimed": g.execution, "error": "e", "code": "c", "output": "o"},
    "scheduler.get_by_key": lambda g: {"schedule_key": "ground"},
    "scheduler.history": lambda g: {"task_id": g.scheduled},
    "scheduler.list": lambda g: {},
    "scheduler.update": lambda g: {
        "task_id": g.scheduled,
        "name": "n",
        "command": "c",
        "schedule": "* * * * *",
        "timezone": "UTC",
    },
    "scheduler.update, with an intent": lambda g: {
        "task_id": g.scheduled,
        "intent": "i",
        "content": JSON,
        "queue": "q",
        "dedupe_key": "k",
    },
    "workflows.checkpoint": lambda g: {
        "claimed": g.run,
        "step_key": "s",
        "output": JSON,
        "seq": 0,
        "name": "n",
        "error": "e",
    },
    "workflows.children": lambda g: {"execution_id": g.run.id},
    "workflows.claim": lambda g: {"worker": "w", "workflow_ids": [g.workflow]},
    "workflows.complete": lambda g: {"claimed": g.run, "output": JSON},
    "workflows.define": lambda g: {"name": "new", "definition": JSON, "created_by": "c"},
    "workflows.deliver": lambda g: {"execution_id": g.run.id, "name": "e", "payload": JSON},
    "workflows.fail": lambda g: {"claimed": g.run, "error": "e", "code": "c"},
    "workflows.fork": lambda g: {"execution_id": g.run.id, "from_seq": 0, "idempotency_key": "new"},
    "workflows.get_by_key": lambda g: {"idempotency_key": "ground"},
    "workflows.history": lambda g: {"name": "ground"},
    "workflows.resume": lambda g: {"execution_id": g.halted},
    "workflows.state": lambda g: {"execution_id": g.run.id},
    "workflows.list": lambda g: {},
    "workflows.sleep": lambda g: {"claimed": g.run, "seconds": 60, "step_key": "s", "seq": 0, "name": "n"},
    "workflows.wait_for_child": lambda g: {
        "claimed": g.run,
        "child_id": g.halted,
        "step_key": "s",
        "seq": 0,
        "name": "n",
    },
    "workflows.replay": lambda g: {"claimed": g.run, "step_key": "s", "seq": 0, "name": "n"},
    "workflows.sleep_until": lambda g: {
        "claimed": g.run,
        "until": LATER,
        "step_key": "s",
        "seq": 0,
        "name": "n",
    },
    "workflows.steps": lambda g: {"execution_id": g.run.id},
    "workflows.start": lambda g: {"name": "ground", "input": JSON, "idempotency_key": "new"},
    "workflows.versions": lambda g: {"name": "ground"},
    "workflows.wait_for": lambda g: {
        "claimed": g.run,
        "event": "came",
        "step_key": "s",
        "seq": 0,
        "name": "n",
    },
}
