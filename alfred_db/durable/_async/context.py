"""What a durable function is called with: its steps, sleeps, waits and children."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from random import random as random_number
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID, uuid4

from sqlalchemy import select

from ...checks import YEAR, check_text, json_text, within
from ...database import AsyncDatabase
from ...errors import (
    AlfredDBError,
    ConflictError,
    InvalidInputError,
    WorkflowChildFailed,
    WorkflowStepFailed,
    shown,
)
from ...execution._async.checkpoints import parameters_of, store
from ...execution.error_texts import described
from ...models import WorkflowExecutionStatus, WorkflowStepKind
from ...queries.shapes.functions import func
from ...repositories._async.unit_of_work import AsyncUnitOfWork
from ...values.workflows import MAX_JSON_BYTES, ClaimedWorkflow, WorkflowWaitResult
from ..calls import AsyncCalls, AsyncStepCode, AsyncTransactionCode
from ..ends import RunEnded, StepRetried, Suspended
from ..functions import MAX_NAME, StepSettings, WorkflowFunction, settings_of
from ..replay import Replay, StoredStep, title

__all__ = ["AsyncWorkflowContext"]

P = ParamSpec("P")
T = TypeVar("T")

STEP, SLEEP, EVENT = WorkflowStepKind.STEP, WorkflowStepKind.SLEEP, WorkflowStepKind.EVENT
CHILD, RESULT, VALUE = WorkflowStepKind.CHILD, WorkflowStepKind.RESULT, WorkflowStepKind.VALUE
STATE, PATCH = WorkflowStepKind.STATE, WorkflowStepKind.PATCH

MAX_AT_ONCE = 1000


class AsyncWorkflowContext:
    """The execution that a durable function runs for.

    Each call is a step with a number. What an earlier run has finished is not done again: the call returns the stored
    result. A call that has to wait ends the run, by an exception that `except Exception` does not catch; when the wait
    ends, the function is called again from its beginning.

    No connection and no transaction is held while a function of a step runs, except by `transaction`.
    """

    def __init__(
        self,
        db: AsyncDatabase,
        claimed: ClaimedWorkflow,
        replay: Replay,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._db = db
        self._claimed = claimed
        self._replay = replay
        self._check = check
        self._failures = claimed.retry_count + claimed.crash_count
        self._end: BaseException | None = None

    @property
    def id(self) -> int:
        """The id of the execution."""
        return self._claimed.id

    @property
    def name(self) -> str:
        """The name of the workflow."""
        return self._claimed.name

    @property
    def version(self) -> int | None:
        """The version that the execution began with."""
        return self._claimed.version

    @property
    def definition(self) -> Mapping[str, Any]:
        """The definition that the execution began with."""
        return self._claimed.definition or {}

    @property
    def input(self) -> Mapping[str, Any]:
        """The input of the execution."""
        return self._claimed.input or {}

    @property
    def attempt(self) -> int:
        """The number of this attempt at the next new step, from 1. Not replayed: nothing may depend on it but a log."""
        return self._failures + 1

    async def step(self, function: AsyncStepCode[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function once, and return its stored result in later runs.

        An exception has it called again by another attempt, after 1, 2, 4 ... 300 seconds, which hold no slot of a
        worker; `workflow_step` sets how often. A process that is killed within the function calls it again, so that its
        effects happen at least once; `transaction` is for effects in this database, which happen exactly once.

        Args:
            function: A function, or for asyncio a coroutine function; its name is that of the step.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            What it returned, as JSON has it: tuples are lists.

        Raises:
            WorkflowStepFailed: It has failed as often as it may.
            WorkflowChanged: Another step is stored under the number of this one.
            ConfigurationError: The function has no name.
            InvalidInputError: What it returned is no JSON; the attempt ends, and is not repeated.
        """
        settings = settings_of(function)
        number, stored = self._begin(STEP, settings.name)
        if stored is not None:
            return cast("T", _result(stored))
        self._replay.begin(f"step {shown(settings.name)}")
        try:
            return cast("T", await self._run(number, settings, function, args, kwargs))
        finally:
            self._replay.begin(None)

    async def transaction(
        self,
        function: AsyncTransactionCode[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call a function with a unit of work, in one transaction with the result: its effects happen exactly once.

        Args:
            function: A function of the unit of work and the other arguments. Keep it short: the transaction is open
                meanwhile.
            *args: Its arguments behind the unit of work.
            **kwargs: Its keyword arguments.

        Returns:
            What it returned, as JSON has it.

        Raises:
            WorkflowStepFailed: It has failed as often as it may.
            WorkflowChanged: Another step is stored under the number of this one.
            ConfigurationError: The function has no name.
            ConflictError: The answer to an earlier commit was lost; the execution is tried again.
        """
        settings = settings_of(function)
        number, stored = self._begin(STEP, settings.name)
        if stored is not None:
            return cast("T", _result(stored))
        self._replay.begin(f"step {shown(settings.name)}")
        try:
            async with self._db.begin() as uow:
                value = await AsyncCalls.call(function, (uow, *args), kwargs)
                text = self._text(number, settings.name, value)
                parameters = self._parameters(number, STEP, settings.name, text)
                with self._ending():
                    if not await store(uow.session, parameters):
                        await self._explain(uow, number, settings.name)
        except Exception as error:
            await self._failed(number, settings, error)
            raise
        finally:
            self._replay.begin(None)
        self._failures = 0
        return cast("T", as_stored(text))

    async def gather(self, *calls: AsyncStepCode[[], T], limit: int = 16) -> list[T]:
        """Run steps at the same time, and return their results in order.

        Those that have finished are not run again when others have failed or the process was killed.

        Args:
            *calls: Functions without parameters; `functools.partial(function, argument)` is one.
            limit: How many run at once at most, 1 to 1,000.

        Raises:
            WorkflowStepFailed: One has failed as often as it may; the others have ended by then.
            WorkflowChanged: Another step is stored under the number of one.
            ConfigurationError: A function has no name.
        """
        within("limit", limit, 1, MAX_AT_ONCE)
        steps = [(settings_of(call), call) for call in calls]
        begun = [(*self._begin(STEP, settings.name), settings, call) for settings, call in steps]
        left = [
            partial(self._run, number, settings, call, (), {})
            for number, stored, settings, call in begun
            if stored is None
        ]
        self._replay.begin("gather")
        try:
            ended = iter(await AsyncCalls.together(left, limit))
        finally:
            self._replay.begin(None)
        results = [next(ended) if stored is None else stored for _, stored, _, _ in begun]
        errors = [one for one in results if isinstance(one, BaseException)]
        for error in sorted(errors, key=lambda one: isinstance(one, WorkflowStepFailed)):
            raise error  # one that is tried again before one that has failed for good
        return [cast("T", _result(one) if isinstance(one, StoredStep) else one) for one in results]

    async def sleep(self, seconds: float) -> None:
        """Suspend the execution for some seconds, up to a year, by the clock of the database."""
        within("seconds", seconds, 0, YEAR)
        number, stored = self._begin(SLEEP, "sleep")
        if stored is not None:
            return
        key = _key(number, "sleep")
        with self._ending():
            async with self._db.autocommit() as uow:
                asleep = await uow.workflows.sleep(
                    self._claimed, seconds, step_key=key, seq=number, name="sleep"
                )
        if asleep:
            raise self._ended(Suspended("sleeps"))

    async def sleep_until(self, until: datetime) -> None:
        """Suspend the execution until a time, which has a zone."""
        number, stored = self._begin(SLEEP, "sleep")
        if stored is not None:
            return
        key = _key(number, "sleep")
        with self._ending():
            async with self._db.autocommit() as uow:
                asleep = await uow.workflows.sleep_until(
                    self._claimed, until, step_key=key, seq=number, name="sleep"
                )
        if asleep:
            raise self._ended(Suspended("sleeps"))

    async def wait_for(self, event: str, *, timeout: float | None = None) -> WorkflowWaitResult:
        """Suspend the execution until an event is sent to it by `uow.workflows.deliver`.

        An event that was sent before counts. An execution receives an event of one name once, so that several waits
        need several names.

        Args:
            event: The name of the event.
            timeout: Seconds; None waits without limit.

        Returns:
            Whether the event came, and its payload.
        """
        check_text("event", event, MAX_NAME)
        number, stored = self._begin(EVENT, event)
        if stored is not None:
            return WorkflowWaitResult(**stored.output)
        with self._ending():
            async with self._db.begin() as uow:
                result = await uow.workflows.wait_for(
                    self._claimed,
                    event,
                    step_key=_key(number, event),
                    seq=number,
                    name=event,
                    timeout=timeout,
                )
        if result is None:
            raise self._ended(Suspended(f"waits for the event {shown(event)}"))
        self._failures = 0
        return result

    async def start_child(
        self,
        workflow: str | WorkflowFunction[Any, Any],
        input: Mapping[str, Any] | None = None,
        *,
        max_retries: int | None = None,
    ) -> int:
        """Start an execution of a workflow as a child, and return its id; `child_result` waits for it.

        A child is started once, and cancelled with its parent.

        Args:
            workflow: The workflow, of which the active version is started.
            input: The input of the child.
            max_retries: How often a step of the child is retried; None is what the function has, or 3.

        Raises:
            ConflictError: The answer to an earlier commit was lost; the execution is tried again.
        """
        name = workflow if isinstance(workflow, str) else workflow.name
        number, stored = self._begin(CHILD, name)
        if stored is not None:
            return cast("int", stored.output)
        timeout = None
        if not isinstance(workflow, str):
            workflow.check_input(input)
            timeout = workflow.timeout_seconds
            max_retries = workflow.max_retries if max_retries is None else max_retries
        with self._ending():
            async with self._db.begin() as uow:
                child, _ = await uow.workflows.start(
                    name,
                    input,
                    idempotency_key=f"child {self.id} {number}",
                    parent_id=self.id,
                    max_retries=3 if max_retries is None else max_retries,
                    timeout_seconds=timeout,
                )
                if not await store(uow.session, self._parameters(number, CHILD, name, str(child.id))):
                    await self._explain(uow, number, name)
        self._failures = 0
        return child.id

    async def child_result(self, child_id: int) -> Any:
        """Suspend the execution until a child has ended, and return the child's output.

        Raises:
            WorkflowChildFailed: The child has failed or was cancelled.
        """
        number, stored = self._begin(RESULT, "result")
        if stored is None:
            with self._ending():
                async with self._db.begin() as uow:
                    result = await uow.workflows.wait_for_child(
                        self._claimed, child_id, step_key=_key(number, "result"), seq=number, name="result"
                    )
            if result is None:
                raise self._ended(Suspended(f"waits for the execution {child_id}"))
            self._failures = 0
            status, output, error = str(result.status), result.output, result.error
        else:
            status, output, error = (stored.output[name] for name in ("status", "output", "error"))
        if status != WorkflowExecutionStatus.COMPLETED:
            raise WorkflowChildFailed(
                f"workflow execution {child_id}: is {status}, a child of execution {self.id}: {error or 'no error'}",
                execution_id=child_id,
                status=status,
            )
        return output

    async def child(
        self,
        workflow: str | WorkflowFunction[Any, Any],
        input: Mapping[str, Any] | None = None,
        *,
        max_retries: int | None = None,
    ) -> Any:
        """Run a workflow as a child and return its output; the execution is suspended meanwhile.

        Args:
            workflow: The workflow, of which the active version is started.
            input: The input of the child.
            max_retries: How often a step of the child is retried; None is what the function has, or 3.

        Raises:
            WorkflowChildFailed: The child has failed or was cancelled.
            ConflictError: The answer to an earlier commit was lost; the execution is tried again.
        """
        return await self.child_result(await self.start_child(workflow, input, max_retries=max_retries))

    async def now(self) -> datetime:
        """Return the time, by the clock of the database; later runs return the same."""
        number, stored = self._begin(VALUE, "now")
        if stored is not None:
            return datetime.fromisoformat(stored.output)
        with self._ending():
            async with self._db.autocommit() as uow:
                time = (await uow.session.execute(select(func.statement_timestamp()))).scalar_one()
        return datetime.fromisoformat(await self._store(number, VALUE, "now", time.isoformat()))

    async def random(self) -> float:
        """Return a random number from 0 to 1; later runs return the same."""
        number, stored = self._begin(VALUE, "random")
        if stored is not None:
            return cast("float", stored.output)
        return cast("float", await self._store(number, VALUE, "random", random_number()))

    async def uuid(self) -> UUID:
        """Return a random UUID; later runs return the same."""
        number, stored = self._begin(VALUE, "uuid")
        if stored is not None:
            return UUID(stored.output)
        return UUID(await self._store(number, VALUE, "uuid", str(uuid4())))

    async def patched(self, name: str) -> bool:
        """Return whether to take the new way through changed code.

            if ctx.patched("check the address"):
                ctx.step(check_address, user)

        True in executions that had not come here when the change was deployed, and False in those that had. The first
        answer under a name holds for the whole execution. Once no old execution is left, remove the call and the old way.

        Args:
            name: The name of the change, unique in the workflow.
        """
        check_text("name", name, MAX_NAME)
        self._check_end()
        found, number = self._replay.patched(name)
        if number is not None:
            await self._store(number, PATCH, name, True)
        return found

    async def set_state(self, name: str, value: Any) -> None:
        """Show a value to others, who read it by `uow.workflows.state`.

        Args:
            name: The name of the value.
            value: Any JSON value; the last one of a name counts.
        """
        check_text("name", name, MAX_NAME)
        number, stored = self._begin(STATE, name)
        if stored is None:
            await self._store(number, STATE, name, value)

    def _begin(self, kind: WorkflowStepKind, name: str) -> tuple[int, StoredStep | None]:
        """Return the number of a step, and the step if it is finished; raise if the run is to end."""
        self._check_end()
        try:
            number, stored = self._replay.next(kind, name)
        except AlfredDBError as error:
            raise self._ended(error) from None
        if stored is None and self._check is not None:
            with self._ending():
                self._check()
        return number, stored

    async def _run(
        self,
        number: int,
        settings: StepSettings,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        try:
            value = await AsyncCalls.call(function, args, kwargs)
        except Exception as error:
            await self._failed(number, settings, error)
            raise
        return await self._store(number, STEP, settings.name, value)

    async def _failed(self, number: int, settings: StepSettings, error: Exception) -> None:
        """End the run for another attempt, or store the failure of the step and raise it."""
        if self._end is not None:
            raise error
        text = described(error)
        most = self._claimed.max_retries if settings.retries is None else settings.retries
        if self._failures < min(most, self._claimed.max_retries) and not isinstance(error, settings.final):
            raise self._ended(StepRetried(f"step {number}, {settings.name}: {text}", settings.delay, error))
        await self._store(number, STEP, settings.name, None, error=text)
        raise _step_failed(number, settings.name, text) from error

    async def _store(
        self, number: int, kind: WorkflowStepKind, name: str, value: Any, *, error: str | None = None
    ) -> Any:
        """Store a finished step in one statement, which commits by itself, and return its output as JSON has it."""
        text = self._text(number, name, value)
        parameters = self._parameters(number, kind, name, text, error)
        with self._ending():
            if not await store(self._db.alone, parameters):
                async with self._db.begin() as uow:
                    await self._explain(uow, number, name)
        self._failures = 0
        return as_stored(text)

    def _parameters(
        self, number: int, kind: WorkflowStepKind, name: str, text: str | None, error: str | None = None
    ) -> dict[str, Any]:
        return parameters_of(
            self._claimed,
            _key(number, name),
            text,
            seq=number,
            name=name,
            kind=kind,
            error=error,
            attempt=self.attempt,
        )

    async def _explain(self, uow: AsyncUnitOfWork, number: int, name: str) -> None:
        """Raise why a step could not be stored: the lease is lost, or a step is stored under its number.

        If this run itself has stored it, and did not get the answer, the execution is tried again.
        """
        await uow.workflows.replay(self._claimed, _key(number, name), seq=number, name=name)
        raise ConflictError(
            f"{title(self._claimed)}: step {number}, {shown(name)}: is stored already; try again",
            retryable=True,
        )

    def _text(self, number: int, name: str, value: Any) -> str | None:
        """Return an output as JSON text."""
        try:
            return json_text("output", value, MAX_JSON_BYTES)
        except InvalidInputError as error:
            # The same output would be refused once more.
            message = f"{title(self._claimed)}: step {number}, {shown(name)}: {error}"
            raise self._ended(InvalidInputError(message)) from None

    @contextmanager
    def _ending(self) -> Generator[None]:
        """Have an error of the library's own statements end the run: whether they took effect is not known."""
        try:
            yield
        except Exception as error:
            raise self._ended(error) from None

    def _check_end(self) -> None:
        """Raise what has ended the run, if the code has caught it and goes on."""
        if self._end is not None:
            raise self._end

    def _ended(self, error: BaseException) -> BaseException:
        """Note what ends the run, whatever the code does with it, and return it."""
        if self._end is None or not isinstance(error, RunEnded):
            self._end = error
        return error

    @property
    def end(self) -> BaseException | None:
        """What has ended the run; None if its code decides. For the library only."""
        return self._end


def as_stored(text: str | None) -> Any:
    """Return the value of a JSON text as the server returns it: in its order of keys, which a loop may follow."""
    return None if text is None else _in_order(json.loads(text))


def _in_order(value: object) -> Any:
    if isinstance(value, list):
        return [_in_order(item) for item in cast("Sequence[object]", value)]
    if not isinstance(value, dict):
        return value
    items = [(key.encode(), key, item) for key, item in cast("Mapping[str, object]", value).items()]
    items.sort(key=lambda one: (len(one[0]), one[0]))
    return {key: _in_order(item) for _, key, item in items}


def _key(number: int, name: str) -> str:
    return f"{number}:{name}"


def _result(stored: StoredStep) -> Any:
    """Return the output of a finished step, or raise its failure."""
    if stored.error is not None:
        raise _step_failed(stored.seq, stored.name, stored.error)
    return stored.output


def _step_failed(number: int, name: str, error: str) -> WorkflowStepFailed:
    return WorkflowStepFailed(f"step {number}, {name}: {error}", seq=number, name=name, error=error)
