"""The durable functions of a program: which versions it can run, and how their executions start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...database import AsyncDatabase
from ...errors import ConfigurationError
from ...execution._async.driver import fetch
from ...models import WorkflowExecution, WorkflowStatus
from ...queries import workflow_definitions as queries
from ...repositories._async.unit_of_work import AsyncUnitOfWork
from ...values.workflows import ClaimedWorkflow
from ..functions import WorkflowFunction
from ..outcomes import WorkflowOutcome
from ..registry import function_of, refuse_others, unique
from .runner import end_workflow, run_workflow

__all__ = ["AsyncWorkflows", "register"]


class AsyncWorkflows:
    """The durable functions of a program, which run in asyncio.

    A worker that is passed them registers and runs them. A program that only starts executions registers them too.

    Args:
        functions: What `workflow` has decorated: coroutine functions.

    Raises:
        ConfigurationError: Two functions have the same name and version, or one is not a coroutine function.
    """

    def __init__(self, functions: Sequence[WorkflowFunction[..., Any]]) -> None:
        self.functions = unique(functions)
        """The functions."""
        refuse_others(type(self), self.functions)

    async def register(self, uow: AsyncUnitOfWork) -> list[int]:
        """Store the versions that are not stored yet, and activate the greatest of each name.

        A version that is smaller than the active one is not activated, so that old and new programs may start in any
        order.

        Returns:
            The ids of the versions whose code is here, for `claim`.

        Raises:
            ConflictError: A version is stored with another definition.
        """
        return await register(uow, self.functions)

    async def start(
        self,
        uow: AsyncUnitOfWork,
        workflow: WorkflowFunction[..., Any],
        input: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        delay: float = 0.0,
    ) -> tuple[WorkflowExecution, bool]:
        """Create an execution of the active version, unless one with this key exists.

        Args:
            uow: The unit of work: the execution exists once it has committed.
            workflow: The workflow.
            input: The keyword arguments of the function, a JSON object.
            key: The caller's key, unique among all executions.
            delay: Seconds before it begins.

        Returns:
            The execution and whether this call created it.

        Raises:
            InvalidInputError: The function does not take this input.
            NotFoundError: The workflow is not registered.
            ConflictError: The key belongs to another workflow.
        """
        workflow.check_input(input)
        return await uow.workflows.start(
            workflow.name,
            input,
            idempotency_key=key,
            delay=delay,
            max_retries=workflow.max_retries,
            timeout_seconds=workflow.timeout_seconds,
        )

    async def run(self, db: AsyncDatabase, claimed: ClaimedWorkflow) -> WorkflowOutcome:
        """Run a claimed execution until it ends or is suspended, and store how; for loops without a worker.

        Checkpoints extend its lease. While one step takes longer than the lease, somebody has to extend it.

        Raises:
            ConfigurationError: The code of its version is not here.
            LeaseLost: Another worker may own the execution.
        """
        function = function_of(self.functions, claimed.name, claimed.version)
        if function is None:
            raise ConfigurationError(
                f"workflow execution {claimed.id}: the code of workflow {claimed.name!r}, version {claimed.version}, is"
                " not here; run it where it is"
            )
        outcome = await run_workflow(db, function, claimed)
        # One statement, which commits by itself; what a parent waits for ends in a transaction anyway.
        async with db.autocommit() as uow:
            await end_workflow(uow, claimed, outcome)
        return outcome


class _Stored(NamedTuple):
    """A version in the database."""

    id: int
    name: str
    version: int | None
    status: str
    definition: Mapping[str, Any]


async def register(uow: AsyncUnitOfWork, functions: Sequence[WorkflowFunction[..., Any]]) -> list[int]:
    """Store and activate the versions of functions, and return the ids of those that they can run.

    Nearly always all are stored: one statement of the driver finds that, for which no mapper is configured.
    """
    ids: dict[int, None] = {}
    names = sorted({function.name for function in functions})
    stored = await _stored(uow, names)
    for name in names:
        own = [function for function in functions if function.name == name]
        numbered: dict[int | None, WorkflowFunction[..., Any]] = {
            function.version: function for function in own if function.version is not None
        }
        known = [one for one in stored if one.name == name]
        if new := numbered.keys() - {one.version for one in known if _is_of(one, numbered.get(one.version))}:
            for version in sorted(number for number in new if number is not None):
                await uow.workflows.define(name, numbered[version].definition, version=version)
            known = await _stored(uow, [name])
        active = [one.version or 0 for one in known if one.status == WorkflowStatus.ACTIVE]
        newest = max((one for one in known if one.version in numbered), key=_number, default=None)
        if newest is not None and _number(newest) > max(active, default=0):
            await uow.workflows.activate(newest.id)
        runnable = known if len(numbered) < len(own) else [one for one in known if one.version in numbered]
        ids |= dict.fromkeys(one.id for one in runnable)
    return list(ids)


async def _stored(uow: AsyncUnitOfWork, names: Sequence[str]) -> list[_Stored]:
    rows = await fetch(uow.session, queries.stored(), {"names": names}, reads=True)
    return [_Stored._make(row) for row in rows]


def _is_of(stored: _Stored, function: WorkflowFunction[..., Any] | None) -> bool:
    return function is not None and stored.definition == function.definition


def _number(stored: _Stored) -> int:
    return stored.version or 0
