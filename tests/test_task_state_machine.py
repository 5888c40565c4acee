"""The life of tasks between three workers, a reaper and callers who cancel, against a model of it.

Tasks have limits of their queues, turns of ordering keys, dependencies and batches; `ALFRED_DB_FAULTS` has it run at length.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import URL, func, select, text, update

from alfred_db import Database, NewTask, Task, TaskStatus
from alfred_db.errors import InvalidTransition, LeaseLost
from alfred_db.models.tasks import WAITING
from alfred_db.repositories._sync.tasks import TaskRepository
from alfred_db.values.tasks import ClaimedTask, TaskBackoff

PENDING, PROCESSING = TaskStatus.PENDING, TaskStatus.PROCESSING
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
LIVE = PENDING, PROCESSING
OPEN = text(
    "SELECT ordering_key FROM tasks WHERE status IN ('pending', 'processing') AND ordering_key IS NOT NULL"
    " GROUP BY 1 HAVING count(*) FILTER (WHERE NOT awaits_turn) <> 1"
)
"""The ordering keys with live tasks of which none is open, or several."""

EXAMPLES, STEPS = (1500, 80) if os.environ.get("ALFRED_DB_FAULTS") else (70, 50)
MOST = 6
"""The number of tasks of a life."""

AT_ONCE = TaskBackoff(base=0, cap=0, jitter=0)
WORKERS = st.integers(0, 2)
ANY = st.integers(0, 1000)
QUEUES = st.sampled_from(["default", "other"])
KEYS = st.sampled_from([None, "k", "l"])
ORDERS = st.sampled_from([None, "o", "p"])
LIMITS = st.none() | st.integers(1, 2)


@dataclass
class Expected:
    """What a task should be."""

    priority: int
    max_retries: int
    queue: str = "default"
    key: str | None = None
    status: TaskStatus = PENDING
    retry_count: int = 0
    crash_count: int = 0
    claim_seq: int = 0
    token: uuid.UUID | None = None
    cancelling: bool = False
    late: str | None = None
    """Why a reaper would take it."""
    tokens: set[uuid.UUID] = field(default_factory=set)
    order: str | None = None
    turn: bool = False
    """Whether it waits for its turn."""
    waits: int = 0
    """How many other tasks it waits for."""
    after: dict[uuid.UUID, bool] = field(default_factory=dict)
    """The dependencies that have not been settled, and whether it runs anyway."""
    batch: uuid.UUID | None = None
    """The task that waits for its batch."""

    @property
    def is_ready(self) -> bool:
        return self.status is PENDING and not self.turn and not self.waits

    def ends(self, *, crash: bool = False, retry: bool = True) -> TaskStatus:
        """An attempt ends unfinished."""
        left = retry and self.retry_count + self.crash_count < self.max_retries
        self.status = CANCELLED if self.cancelling else PENDING if left else FAILED
        if crash:
            self.crash_count += 1
        elif self.status is PENDING:
            self.retry_count += 1
        self.late = None
        return self.status


class Life(RuleBasedStateMachine):
    def __init__(self, db: Database) -> None:
        super().__init__()
        self.db = db
        self.tasks: dict[uuid.UUID, Expected] = {}
        self.parents: dict[uuid.UUID, uuid.UUID | None] = {}
        self.held: list[list[ClaimedTask]] = [[], [], []]
        """Every claim of each worker, lost ones too."""
        self.limits: dict[str, tuple[bool, int | None, int | None]] = {}
        """Of each queue with settings whether it is paused, and how many may run, in all and of a key."""

    def run(self, work: Callable[[TaskRepository], object]) -> object:
        with self.db.begin() as uow:
            return work(TaskRepository(uow.session))

    def one(self, worker: int, place: int) -> tuple[ClaimedTask, Expected, bool]:
        """A claim of the worker, in two of three cases one that holds; its task, and whether it does."""
        mine = self.held[worker] or [claim for claims in self.held for claim in claims]
        holding = [claim for claim in mine if self.holds(claim)]
        chosen = holding if holding and place % 3 else mine
        claim = chosen[place // 3 % len(chosen)]
        return claim, self.tasks[claim.id], self.holds(claim)

    def holds(self, claim: ClaimedTask) -> bool:
        task = self.tasks[claim.id]
        return task.status is PROCESSING and task.token == claim.lease_token

    def settle(self, *ids: uuid.UUID, late: bool = False) -> None:
        """Those of the tasks that have ended release what waited for them; with `late`, only new dependencies on them."""
        left = [id for id in ids if self.tasks[id].status not in LIVE]
        before = set(left) if late else set[uuid.UUID]()
        while left:
            ended = left.pop(0)
            status, batch = self.tasks[ended].status, self.tasks[ended].batch
            for id, task in self.tasks.items():
                anyway = task.after.pop(ended, None)
                if task.status is not PENDING or not task.waits:
                    continue
                if anyway is False and status is not COMPLETED:
                    task.status, task.turn, task.waits = CANCELLED, False, 0
                    left.append(id)
                elif anyway is not None or (id == batch and ended not in before):
                    task.waits -= 1
        self.pass_turns()

    def pass_turns(self) -> None:
        for key in ("o", "p"):
            live = [id for id, task in self.tasks.items() if task.order == key and task.status in LIVE]
            if live and all(self.tasks[id].turn for id in live):
                self.tasks[min(live)].turn = False

    def any_task(self, place: int) -> tuple[uuid.UUID, Expected]:
        return list(self.tasks.items())[place % len(self.tasks)]

    def claimed_before(self) -> bool:
        return any(self.held)

    @initialize()
    def empty(self) -> None:
        with self.db.begin() as uow:
            uow.session.execute(text("TRUNCATE tasks CASCADE"))
            uow.session.execute(text("DELETE FROM queues"))

    @rule(queue=QUEUES, paused=st.booleans(), most=LIMITS, of_key=LIMITS)
    def set_limits(self, queue: str, paused: bool, most: int | None, of_key: int | None) -> None:
        with self.db.begin() as uow:
            uow.queues.set(queue, paused=paused, max_running=most, max_running_per_key=of_key)
        self.limits[queue] = paused, most, of_key

    @rule(queue=QUEUES)
    def delete_limits(self, queue: str) -> None:
        with self.db.begin() as uow:
            assert uow.queues.delete(queue) is (self.limits.pop(queue, None) is not None)

    def running(self, queue: str) -> Counter[str | None]:
        """How many tasks of a queue are held, by key; those that are late count until they are taken back."""
        held = [task for task in self.tasks.values() if task.status is PROCESSING and task.queue == queue]
        return Counter(task.key for task in held)

    def has_room(self, task: Expected) -> bool:
        paused, most, of_key = self.limits.get(task.queue, (False, None, None))
        running = self.running(task.queue)
        return not (
            paused
            or (most is not None and running.total() >= most)
            or (of_key is not None and task.key is not None and running[task.key] >= of_key)
        )

    @precondition(lambda self: len(self.tasks) < MOST)
    @rule(
        priority=st.integers(1, 5),
        max_retries=st.integers(0, 2),
        queue=QUEUES,
        key=KEYS,
        order=ORDERS,
        parent=ANY,
        after=st.lists(ANY, max_size=2),
        anyway=st.booleans(),
    )
    def enqueue(
        self,
        priority: int,
        max_retries: int,
        queue: str,
        key: str | None,
        order: str | None,
        parent: int,
        after: list[int],
        anyway: bool,
    ) -> None:
        above = self.any_task(parent) if self.tasks and parent % 3 == 0 else None
        if above is not None and self.takes_no_children(above[0]):
            id = above[0]
            assert self.refused(lambda tasks: tasks.enqueue("x", parent_task_id=id))
            return
        others = sorted({self.any_task(one)[0] for one in after} if self.tasks else ())
        with self.db.begin() as uow:
            task, created = TaskRepository(uow.session).enqueue(
                "x",
                priority=priority,
                max_retries=max_retries,
                queue=queue,
                concurrency_key=key,
                ordering_key=order,
                parent_task_id=None if above is None else above[0],
                after=others,
                after_failure="run" if anyway else "cancel",
            )
            assert created
        new = self.created(task.id, Expected(priority, max_retries, queue, key, order=order))
        self.parents[task.id] = None if above is None else above[0]
        new.after, new.waits = dict.fromkeys(others, anyway), len(others)
        self.settle(*others, late=True)

    def created(self, id: uuid.UUID, new: Expected) -> Expected:
        """A task was enqueued: it waits for its turn if a live one has its key."""
        live = (task.order for task in self.tasks.values() if task.status in LIVE)
        new.turn = new.order is not None and new.order in live
        self.tasks[id], self.parents[id] = new, None
        return new

    @precondition(lambda self: len(self.tasks) < MOST - 1)
    @rule(priority=st.integers(1, 5), parts=st.lists(ORDERS, max_size=2), queue=QUEUES)
    def batch(self, priority: int, parts: list[str | None], queue: str) -> None:
        tasks = [
            NewTask(intent="x", queue=queue, max_retries=0, ordering_key=order, priority=priority)
            for order in parts
        ]
        with self.db.begin() as uow:
            batch = uow.tasks.batch(tasks, then=NewTask(intent="x", priority=priority, max_retries=1))
        assert batch.created
        assert batch.then is not None
        self.created(batch.then, Expected(priority, 1)).waits = len(parts)
        for id, order in zip(batch.tasks, parts, strict=True):
            self.created(id, Expected(priority, 0, queue, order=order, batch=batch.then))

    def takes_no_children(self, id: uuid.UUID | None) -> bool:
        """Whether it is cancelled or is to be, or has ended otherwise as a part of one that is."""
        while id is not None:
            task = self.tasks[id]
            if task.status is CANCELLED or (task.status in (PENDING, PROCESSING) and task.cancelling):
                return True
            if task.status in (PENDING, PROCESSING):
                return False
            id = self.parents[id]
        return False

    @rule(worker=WORKERS, limit=st.integers(1, 4), queue=st.none() | QUEUES)
    def claim(self, worker: int, limit: int, queue: str | None) -> None:
        candidates = [
            task
            for task in self.tasks.values()
            if task.is_ready and queue in (None, task.queue) and self.has_room(task)
        ]
        waiting = sorted((task.priority for task in candidates), reverse=True)
        before = {name: self.running(name) for name in self.limits}
        with self.db.begin() as uow:
            claims = TaskRepository(uow.session).claim(
                worker=f"w-{worker}", limit=limit, queues=None if queue is None else [queue]
            )
        priorities = [claim.priority for claim in claims]
        if self.limits and limit > 1:
            # What has no room may be found too late to be replaced; the next claim takes what it has left.
            assert priorities[:1] == waiting[:1]
            assert priorities == sorted(priorities, reverse=True)
        else:
            assert priorities == waiting[:limit]
        for claim in claims:
            task = self.tasks[claim.id]
            assert task.is_ready, "one holder, in its turn, and after all that it waits for"
            assert claim.lease_token not in task.tokens
            assert claim.attempt == task.retry_count + task.crash_count + 1
            task.status, task.token = PROCESSING, claim.lease_token
            task.tokens.add(claim.lease_token)
            task.claim_seq += 1
            assert claim.claim_seq == task.claim_seq
            assert claim.queue == task.queue
        self.held[worker] += claims
        for name, (paused, most, of_key) in self.limits.items():
            now, then = self.running(name), before[name]
            assert not paused or now == then
            assert most is None or now.total() <= max(most, then.total())
            assert of_key is None or all(now[key] <= max(of_key, then[key]) for key in now if key)

    @precondition(claimed_before)
    @rule(worker=WORKERS, place=ANY)
    def heartbeat(self, worker: int, place: int) -> None:
        claim, task, holds = self.one(worker, place)
        kept = self.run(lambda tasks: tasks.heartbeat_many([claim]))
        assert [each.cancel_requested for each in kept] == [task.cancelling] * holds  # type: ignore[attr-defined]
        if holds and task.late == "lease":
            task.late = None

    @precondition(lambda self: len(self.tasks) > 1 and any(self.held))
    @rule(place=ANY)
    def beat_beside_a_locked_row(self, place: int) -> None:
        """All that are held are kept, and those that nobody has locked are extended."""
        holding = [claim for claims in self.held for claim in claims if self.holds(claim)]
        if not holding or any(self.tasks[claim.id].late for claim in holding):
            return
        locked = holding[place % len(holding)].id
        with self.db.session() as session:
            session.execute(select(Task.id).where(Task.id == locked).with_for_update(key_share=True))
            kept = self.run(lambda tasks: tasks.heartbeat_many(holding, lease=300))
            assert [claim.id for claim in kept] == [claim.id for claim in holding]  # type: ignore[attr-defined]
            assert [claim.lease == 300 for claim in kept] == [claim.id != locked for claim in holding]  # type: ignore[attr-defined]
            session.rollback()

    @precondition(claimed_before)
    @rule(worker=WORKERS, place=ANY)
    def complete(self, worker: int, place: int) -> None:
        claim, task, holds = self.one(worker, place)
        if holds:
            task.status, task.late = COMPLETED, None
            self.settle(claim.id)
        repeated = task.status is COMPLETED and task.token == claim.lease_token
        self.expect(repeated, lambda tasks: tasks.complete(claim))

    @precondition(claimed_before)
    @rule(worker=WORKERS, place=ANY, retry=st.booleans())
    def fail(self, worker: int, place: int, retry: bool) -> None:
        claim, task, holds = self.one(worker, place)
        if holds:
            task.ends(retry=retry)
            self.settle(claim.id)
        mine = task.status in (PENDING, FAILED, CANCELLED) and task.token == claim.lease_token
        found = self.expect(mine, lambda tasks: tasks.fail(claim, "no", retry=retry, backoff=AT_ONCE))
        assert found is (task.status if mine else None)

    @precondition(claimed_before)
    @rule(worker=WORKERS, place=ANY)
    def release(self, worker: int, place: int) -> None:
        claim, task, holds = self.one(worker, place)
        if holds:
            task.status, task.late = CANCELLED if task.cancelling else PENDING, None
            self.settle(claim.id)
        mine = task.status in (PENDING, CANCELLED) and task.token == claim.lease_token
        found = self.expect(mine, lambda tasks: tasks.release(claim))
        assert found is (task.status if mine else None)

    @precondition(claimed_before)
    @rule(worker=WORKERS, place=ANY, what=st.sampled_from(["lease", "timeout"]), reap=st.booleans())
    def time_passes(self, worker: int, place: int, what: str, reap: bool) -> None:
        claim, task, holds = self.one(worker, place)
        if not holds or task.late is not None:
            return
        task.late = what
        past = func.statement_timestamp() - text("interval '1 second'")
        values = {"lease_expires_at": past} if what == "lease" else {"attempt_deadline_at": past}
        with self.db.begin() as uow:
            uow.session.execute(update(Task).where(Task.id == claim.id).values(**values))
        if reap:
            self.reap()

    @precondition(lambda self: any(task.late for task in self.tasks.values()))
    @rule()
    def reap(self) -> None:
        late = {id: task for id, task in self.tasks.items() if task.late is not None}
        expected = {id: task.ends(crash=task.late == "lease") for id, task in late.items()}
        for task in late.values():
            task.token = None
        self.settle(*late)
        assert self.run(lambda tasks: tasks.reap(backoff=AT_ONCE)) == expected

    @precondition(lambda self: self.tasks)
    @rule(place=ANY)
    def cancel(self, place: int) -> None:
        id, task = self.any_task(place)
        tree = {id}
        while grown := {child for child, parent in self.parents.items() if parent in tree} - tree:
            tree |= grown
        live = {one: self.tasks[one] for one in tree if self.tasks[one].status in (PENDING, PROCESSING)}
        expected = {}
        for one, found in live.items():
            if found.status is PENDING:
                found.status, found.turn, found.waits = CANCELLED, False, 0
            else:
                found.cancelling = True
            expected[one] = found.status
        self.settle(*live)
        if live:
            assert self.run(lambda tasks: tasks.cancel(id)) == expected
        else:
            refused = self.refused(lambda tasks: tasks.cancel(id))
            assert refused is (task.status is not CANCELLED)

    @precondition(lambda self: self.tasks)
    @rule(place=ANY)
    def requeue(self, place: int) -> None:
        id, task = self.any_task(place)
        if self.refused(lambda tasks: tasks.requeue(id)):
            assert task.status not in (FAILED, CANCELLED)
            return
        assert task.status in (FAILED, CANCELLED)
        task.status, task.token, task.cancelling = PENDING, None, False
        task.retry_count = task.crash_count = task.waits = 0
        task.turn = task.order is not None
        last = None if task.batch is None else self.tasks[task.batch]
        if last is not None and last.status is PENDING and last.waits:
            last.waits += 1
        self.pass_turns()

    @precondition(claimed_before)
    @rule(worker=WORKERS, place=ANY, how=st.sampled_from(["complete", "fail", "cancel"]))
    def ends_in_a_transaction_that_is_lost(self, worker: int, place: int, how: str) -> None:
        """As when the process is killed before the commit: what waited still waits."""
        claim, _, holds = self.one(worker, place)
        if not holds:
            return
        with self.db.session() as session:
            tasks = TaskRepository(session)
            if how == "complete":
                assert tasks.complete(claim)
            elif how == "fail":
                tasks.fail(claim, "no", retry=False)
            else:
                tasks.cancel(claim.id)
            session.rollback()

    def expect(self, holds: bool, work: Callable[[TaskRepository], object]) -> object:
        """The result, or None if it is refused: it must be unless the worker `holds` the task."""
        try:
            found = self.run(work)
        except LeaseLost:
            assert not holds
            return None
        assert holds
        return found

    def refused(self, work: Callable[[TaskRepository], object]) -> bool:
        try:
            self.run(work)
        except InvalidTransition:
            return True
        return False

    @invariant()
    def one_task_of_a_key_is_open(self) -> None:
        with self.db.begin() as uow:
            assert uow.session.execute(OPEN).all() == []

    @invariant()
    def the_database_is_as_expected(self) -> None:
        with self.db.begin() as uow:
            rows = {row.id: row for row in TaskRepository(uow.session).list(limit=1000)}
        assert rows.keys() == self.tasks.keys()
        for id, task in self.tasks.items():
            row = rows[id]
            assert (row.status, row.lease_token) == (task.status, task.token)
            assert (row.retry_count, row.crash_count) == (task.retry_count, task.crash_count)
            assert (row.claim_seq, row.priority) == (task.claim_seq, task.priority)
            assert (row.lease_expires_at is not None) is (task.status is PROCESSING)
            assert (row.attempt_deadline_at is not None) is (task.status is PROCESSING)
            assert row.retry_count + row.crash_count <= row.max_retries + 1
            if task.status in LIVE:
                assert (row.awaits_turn, row.waits_for) == (task.turn, task.waits)
            if task.status is PENDING:
                assert (row.available_at == WAITING) is not task.is_ready
            ends = (row.completed_at, row.failed_at, row.cancelled_at)
            assert [end is not None for end in ends] == [
                task.status is status for status in (COMPLETED, FAILED, CANCELLED)
            ]


def test_the_life_of_tasks(database_url: URL) -> None:
    with Database(database_url) as db:
        run_state_machine_as_test(
            lambda: Life(db),  # type: ignore[arg-type]
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
