"""The ticks of the scheduler: executions for the slots that are due."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Select

from ... import cron
from ...checks import check_limit
from ...cron import Plan, Slot
from ...errors import ConflictError, UnreadableRow
from ...execution._async.driver import driver_of
from ...execution._async.unreadable import unreadable
from ...execution.missing import not_found
from ...models import ScheduledExecution, ScheduledTask
from ...queries import scheduler as queries
from ...queries import scheduler_enqueueing as enqueueing
from ...values.scheduler import ScheduleProblem, SchedulerTick
from .scheduler_base import AsyncSchedulerBase

_Planned = list[tuple[ScheduledTask, Plan]]

_Invalid = list[ScheduleProblem]


class AsyncSchedulerTicks(AsyncSchedulerBase):
    """The methods of the scheduler's repository that create executions."""

    async def tick(self, *, limit: int = 100) -> SchedulerTick:
        """Create the executions of due slots, and move each task on to its next slot.

        Any number of schedulers may call it at the same time: each slot gets one execution. With an
        `overlap_policy` that skips, a slot that is due while an execution is live is stored as `skipped`. A slot of
        a schedule with an `intent` enqueues its task in this transaction, and its execution is completed.
        Tasks whose schedule or time zone is invalid are reported in the result and do not count towards
        `limit`.

        Args:
            limit: The maximum number of tasks.
        """
        check_limit(limit)
        invalid: _Invalid = []
        # The tasks stay locked until the transaction ends, so that no other scheduler plans the same slots.
        due, now = await self._planned(queries.due, limit, invalid)
        fresh, _ = await self._planned(queries.unscheduled, limit, invalid)
        planned = [*due, *fresh]
        created, overlapped = await self._create_executions(
            [slot for task, plan in planned if task.intent is None for slot in plan.slots]
        )
        enqueued, late = await self._enqueue_slots(
            [slot for task, plan in planned if task.intent is not None for slot in plan.slots], now
        )
        if planned:
            await self._rows(
                queries.advance(
                    [task.id for task, _ in planned],
                    [task.next_run_at for task, _ in planned],
                    [plan.next_run_at for _, plan in planned],
                )
            )
        return SchedulerTick(
            now=now,
            created=created,
            enqueued=enqueued,
            skipped=overlapped + late + sum(plan.dropped for _, plan in planned),
            invalid=invalid,
            full=limit in (len(due), len(fresh)),
        )

    async def trigger(self, task_id: int) -> ScheduledExecution:
        """Create an execution for this moment, or enqueue the task of the schedule; also while it is paused.

        Raises:
            NotFoundError: The task does not exist.
            ConflictError: Executions of the task must not overlap, and one is live.
        """
        known = await self._first(queries.intent_of(task_id))
        if known is None:
            raise not_found("scheduled task", task_id)
        execution: ScheduledExecution | None = None
        if not known:
            execution = await self._write(queries.trigger(task_id))
        elif enqueued := await self._enqueue_now(task_id):
            execution = await self._write(enqueueing.record(task_id, enqueued))
        if execution is not None:
            return execution
        raise ConflictError(
            f"scheduled task {task_id}: an execution of it is live; wait for its end or cancel it"
        )

    async def _planned(
        self, page: Callable[..., Select[ScheduledTask, datetime]], limit: int, invalid: _Invalid
    ) -> tuple[_Planned, datetime | None]:
        """Return plans for at most `limit` tasks.

        Tasks without a plan are collected in `invalid` and skipped, so that they never block others.
        """
        plans: _Planned = []
        last: ScheduledTask | None = None
        time: datetime | None = None
        passed: list[int] = []  # rows that cannot be read, which the next look leaves out
        while len(plans) < limit:
            asked = limit - len(plans)
            try:
                rows = await self._rows(page(limit=asked, after=last, without=passed))
            except UnreadableRow:
                found = await unreadable(
                    self._session,
                    await driver_of(self._session),
                    page(limit=asked, after=last, without=passed).with_only_columns(*queries.PLANNED),
                )
                if not found:
                    raise
                passed += [int(*one.key.values()) for one in found]
                invalid += [
                    ScheduleProblem(int(*one.key.values()), f"{one.column}: {one.reason}") for one in found
                ]
                continue
            for task, now in rows:
                last, time = task, now
                try:
                    plans.append((task, cron.plan(task, now)))
                except Exception as error:  # one unreadable task must not block the slots of the others
                    invalid.append(ScheduleProblem(task.id, str(error)))
            if len(rows) < asked:
                break
        return plans, time

    async def _enqueue_slots(
        self, slots: Sequence[Slot], now: datetime | None
    ) -> tuple[Sequence[uuid.UUID], int]:
        """Store slots and enqueue their tasks; return the ids of the tasks, and the number of slots without one."""
        if not slots:
            return [], 0
        # Skipped, until its task is enqueued: a slot that was stored before enqueues nothing.
        stored = [replace(slot, exclusive=False, skipped_at=slot.skipped_at or now) for slot in slots]
        rows = await self._rows(queries.create_executions(stored))
        created = {(row[1], row[2]): row[0] for row in rows}
        wanted = [
            created[key] for slot in slots if slot.skipped_at is None and (key := _key(slot)) in created
        ]
        enqueued = await self._enqueue(wanted) if wanted else []
        return enqueued, len(wanted) - len(enqueued)

    async def _create_executions(self, slots: Sequence[Slot]) -> tuple[Sequence[int], int]:
        """Create the executions; return the ids of those to run, and the number of slots skipped for a live one."""
        if not slots:
            return [], 0
        rows = await self._rows(queries.create_executions(slots))
        created = {(row[1], row[2]): row[0] for row in rows}
        run = [created[key] for slot in slots if slot.skipped_at is None and (key := _key(slot)) in created]
        left = [slot for slot in slots if slot.exclusive and _key(slot) not in created]
        if not left:
            return run, 0
        now = await self._first(queries.now())
        skipped = [replace(slot, exclusive=False, skipped_at=now) for slot in left]
        return run, len(await self._rows(queries.create_executions(skipped)))


def _key(slot: Slot) -> tuple[int, datetime]:
    return slot.task_id, slot.scheduled_at
