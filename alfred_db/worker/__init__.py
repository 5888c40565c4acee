"""Workers: claim tasks, run the caller's handlers, keep the leases, settle the tasks.

def summarise(task: ClaimedTask, lease: Lease) -> list[NewResult] | None: ...

Worker(db, {"SUMMARISE": summarise}, concurrency=4).run()

Both workers run functions in threads and coroutine functions in an event loop, so nothing here is generated. `AsyncWorker`
runs the same loop in a thread, where a handler that blocks the event loop cannot hold up the heartbeats.
"""

from __future__ import annotations

from ._app import Middleware
from ._dead_letters import DeadLetterHook, DeadTask
from ._executions import ExecutionLease
from ._lease import AsyncLease, Lease, TaskFailed
from .apps import AsyncTasks, Tasks, WorkerOptions
from .functions import AsyncTaskFunction, TaskFunction, TaskOptions
from .retry import Retry
from .workers import AsyncHandler, AsyncWorker, CommandHandler, Handler, Worker

__all__ = [
    "AsyncHandler",
    "AsyncLease",
    "AsyncTaskFunction",
    "AsyncTasks",
    "AsyncWorker",
    "CommandHandler",
    "DeadLetterHook",
    "DeadTask",
    "ExecutionLease",
    "Handler",
    "Lease",
    "Middleware",
    "Retry",
    "TaskFailed",
    "TaskFunction",
    "TaskOptions",
    "Tasks",
    "Worker",
    "WorkerOptions",
]
