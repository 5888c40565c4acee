"""One run of a durable function: its finished steps are read, the function is called, and the execution is ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...checks import json_text
from ...database import AsyncDatabase
from ...errors import (
    ConfigurationError,
    InvalidInputError,
    InvalidTransition,
    LeaseLost,
    WorkflowChanged,
    WorkflowChildFailed,
    WorkflowStepFailed,
)
from ...execution._async.driver import fetch_rows
from ...execution.error_texts import described
from ...queries import workflow_steps as queries
from ...repositories._async.unit_of_work import AsyncUnitOfWork
from ...values.workflows import MAX_JSON_BYTES, ClaimedWorkflow
from ..calls import AsyncCalls
from ..ends import StepRetried, Suspended
from ..functions import WorkflowFunction
from ..outcomes import WorkflowOutcome, WorkflowRun
from ..replay import Replay, StoredStep, title
from .context import AsyncWorkflowContext

__all__ = ["end_workflow", "run_workflow"]

_FINAL: tuple[tuple[type[Exception], str], ...] = (
    (WorkflowChanged, "changed"),
    (WorkflowStepFailed, "step"),
    (WorkflowChildFailed, "child"),
)
"""Failures that another attempt would only repeat, with their `error_code`."""

_FINAL_IN_CONTEXT: tuple[tuple[type[Exception], str], ...] = (
    (InvalidInputError, "result"),
    (InvalidTransition, "cancelled"),
)
"""The same, of errors that the library's own calls have raised."""


async def run_workflow(
    db: AsyncDatabase,
    function: WorkflowFunction[Any, Any],
    claimed: ClaimedWorkflow,
    *,
    check: Callable[[], None] | None = None,
) -> WorkflowOutcome:
    """Run a durable function until it ends or is suspended. `end_workflow` stores how.

    Args:
        db: The database; no connection of it is held while the code runs.
        function: The code of the execution's version.
        claimed: The execution, as `claim` returned it. Extend its lease meanwhile.
        check: Called before each new step; raises if the run has to stop.

    Raises:
        ConfigurationError: The function is the code of another workflow or version.
    """
    if function.name != claimed.name or function.version not in (None, claimed.version):
        raise ConfigurationError(
            f"{title(claimed)}: cannot be run by {function!r}; pass the code of its version"
        )
    context: AsyncWorkflowContext | None = None
    try:
        function.check_input(claimed.input)
    except InvalidInputError as error:
        return _failed(error, "input")
    try:
        replay = Replay(claimed, await _finished(db, claimed))
        context = AsyncWorkflowContext(db, claimed, replay, check)
        output = await AsyncCalls.call(function.function, (context,), claimed.input or {})
        if context.end is None:
            replay.finish()
            return _completed(output)
        ended = context.end
    except (Exception, Suspended, StepRetried) as error:
        if context is None or context.end is None:
            return _outcome(error, _FINAL)
        ended = context.end  # whatever the code has made of it
    return _outcome(ended, (*_FINAL, *_FINAL_IN_CONTEXT))


async def end_workflow(uow: AsyncUnitOfWork, claimed: ClaimedWorkflow, outcome: WorkflowOutcome) -> None:
    """Store how a run has ended. Idempotent.

    Raises:
        LeaseLost: Another worker may own the execution: discard the work.
    """
    if outcome.status is WorkflowRun.COMPLETED:
        await uow.workflows.complete(claimed, outcome.output)
    elif outcome.status is WorkflowRun.FAILED:
        await uow.workflows.fail(
            claimed, outcome.error, code=outcome.code, retry=outcome.retry, delay=outcome.delay
        )


async def _finished(db: AsyncDatabase, claimed: ClaimedWorkflow) -> list[StoredStep]:
    """Return all finished steps, in one statement; the first run of an execution has none."""
    if claimed.claim_seq == 1 and claimed.current_step == 0:
        return []
    rows = await fetch_rows(db.alone, queries.finished(), {"execution": claimed.id})
    return [StoredStep._make(row) for row in rows]


def _completed(output: Any) -> WorkflowOutcome:
    try:
        json_text("output", output, MAX_JSON_BYTES)
    except InvalidInputError as error:
        return _failed(error, "result")
    return WorkflowOutcome(WorkflowRun.COMPLETED, output)


def _outcome(error: BaseException, final: tuple[tuple[type[Exception], str], ...]) -> WorkflowOutcome:
    if isinstance(error, Suspended):
        return WorkflowOutcome(WorkflowRun.SUSPENDED)
    if isinstance(error, LeaseLost):
        return WorkflowOutcome(WorkflowRun.LOST, error=str(error))
    if isinstance(error, StepRetried):
        return WorkflowOutcome(
            WorkflowRun.FAILED, error=error.message, delay=error.delay, exception=error.error
        )
    for kind, code in final:
        if isinstance(error, kind):
            return _failed(error, code)
    return WorkflowOutcome(WorkflowRun.FAILED, error=described(error), exception=error)


def _failed(error: BaseException, code: str) -> WorkflowOutcome:
    """Return the outcome of what another attempt would only repeat."""
    return WorkflowOutcome(WorkflowRun.FAILED, error=str(error), code=code, retry=False, exception=error)
