"""Workflows: versions of their definitions, and executions that survive the workers that run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import MAX_SECONDS, YEAR, json_text, one_of, within
from ...engine.session import state_of
from ...errors import ConflictError, InvalidTransition, NotFoundError, shown
from ...execution._async.cancelling import announce
from ...execution._async.driver import in_transaction, together
from ...execution.missing import not_found
from ...models import WorkflowExecution, WorkflowExecutionStatus, WorkflowStatus
from ...queries import workflow_steps as steps
from ...queries import workflows as queries
from ...queries.shapes.paging import as_page
from ...queries.workflow_executions import EXECUTIONS
from ...values import Page
from ...values.workflows import MAX_JSON_BYTES, WaitingWorkflowVersion
from .workflow_definitions import AsyncWorkflowDefinitions
from .workflow_executions import AsyncWorkflowExecutions
from .workflow_steps import AsyncWorkflowSteps

_RESUMED = {WorkflowExecutionStatus.FAILED, WorkflowExecutionStatus.CANCELLED}
_ENDED = {WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED}


class AsyncWorkflowRepository(AsyncWorkflowDefinitions, AsyncWorkflowExecutions, AsyncWorkflowSteps):
    """Workflows and their executions.

    An execution keeps the definition that it was started with. The worker that claims it runs it, and every
    write of that worker carries the token of the claim. A step with a checkpoint is never run again: a later
    run, after a crash, a sleep or a failure, takes its stored output.
    """

    async def start(
        self,
        name: str,
        input: Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        idempotency_key: str | None = None,
        parent_id: int | None = None,
        delay: float = 0.0,
        max_retries: int = 3,
        timeout_seconds: int | None = None,
    ) -> tuple[WorkflowExecution, bool]:
        """Create an execution of the active version, unless one with this `idempotency_key` exists.

        Args:
            name: The name of the workflow.
            input: A mapping of at most `MAX_JSON_BYTES` as JSON.
            version: The active version is required to have this number.
            idempotency_key: The caller's key.
            parent_id: The execution that it is a part of, which must be live.
            delay: Seconds before it can be claimed.
            max_retries: How many failed attempts without a new checkpoint are followed by another one.
            timeout_seconds: Seconds that an attempt may take.

        Returns:
            The execution and whether this call created it.

        Raises:
            NotFoundError: The workflow, the version or the parent does not exist.
            InvalidTransition: The version is not active, or the parent has ended or is being cancelled.
            ConflictError: The key belongs to another workflow.
        """
        within("delay", delay, 0, YEAR)
        within("max_retries", max_retries, 0, 10_000)
        within("timeout_seconds", 1 if timeout_seconds is None else timeout_seconds, 1, YEAR)
        text = json_text("input", None if input is None else dict(input), MAX_JSON_BYTES)
        execution = await self._write(
            queries.start(
                name,
                text,
                version=version,
                idempotency_key=idempotency_key,
                parent_id=parent_id,
                delay=delay,
                max_retries=max_retries,
                timeout_seconds=timeout_seconds,
            )
        )
        if execution is not None:
            state_of(self._session).enqueued.add(None)
            return execution, True
        known = None if idempotency_key is None else await self._by_key(idempotency_key, name)
        if known is not None:
            return known, False
        raise await self._why_not(name, version, parent_id)

    @in_transaction
    async def fork(
        self,
        execution_id: int,
        from_seq: int,
        *,
        workflow_id: int | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[WorkflowExecution, bool]:
        """Create an execution that takes the steps before `from_seq` from another one and runs the rest.

        It has the same input, but neither the parent nor the events.

        Args:
            execution_id: The execution to fork.
            from_seq: The first step to run, from 0.
            workflow_id: The version to run; None is that of the other execution.
            idempotency_key: The caller's key.

        Returns:
            The execution and whether this call created it.

        Raises:
            NotFoundError: The execution or the version does not exist.
            InvalidTransition: The steps before `from_seq` are not all finished.
            ConflictError: The key belongs to another execution.
        """
        within("from_seq", from_seq, 0, (1 << 31) - 1)
        finished = await self._first(queries.finished_before(execution_id, from_seq))
        if finished != from_seq and await self.get_execution(execution_id) is not None:
            raise InvalidTransition(
                f"workflow execution {execution_id}: only {finished} of the {from_seq} steps before step {from_seq}"
                " are finished; fork it from an earlier one"
            )
        fork = await self._write(
            queries.fork(execution_id, from_seq, workflow_id=workflow_id, idempotency_key=idempotency_key)
        )
        if fork is not None:
            await self._rows(queries.copy_steps(execution_id, fork.id, from_seq))
            state_of(self._session).enqueued.add(None)
            return fork, True
        known = None if idempotency_key is None else await self.get_by_key(idempotency_key)
        if known is None:
            raise NotFoundError(
                f"workflow execution {execution_id} or workflow {workflow_id}: not found; check the ids"
            )
        if (known.forked_from_id, known.forked_from_seq) != (execution_id, from_seq):
            raise _taken(idempotency_key)
        return known, False

    async def cancel(
        self, execution_id: int, *, limit: int | None = None
    ) -> Mapping[int, WorkflowExecutionStatus]:
        """Cancel an execution and all executions that it has started.

        Waiting and sleeping ones are `cancelled` at once. A running one stays `running`: its worker is notified at the
        commit, by its next heartbeat and before its next step, and ends it. With a `limit`, call it and commit until it
        returns less; executions whose cancellation is requested already are left out.

        Args:
            execution_id: The execution.
            limit: The maximum number of executions, 1 to 10,000. None cancels all in this transaction; for many,
                use `Database.in_chunks`.

        Returns:
            The new status of each execution that was live, by id.

        Raises:
            NotFoundError: The execution does not exist.
            InvalidTransition: The execution has ended.
        """
        found: Mapping[int, WorkflowExecutionStatus] = await together(
            self._session, lambda: self._cancel(execution_id, limit), joins=True
        )
        return found

    async def _cancel(self, execution_id: int, limit: int | None) -> Mapping[int, WorkflowExecutionStatus]:
        if limit is not None:
            await self._live(execution_id)
            part = await self._in_turns(
                limit, lambda left: queries.cancel_some(execution_id, limit=left or 1)
            )
            return await self._cancelled({row[0]: row[1] for row in sorted(part)})
        found: dict[int, WorkflowExecutionStatus] = {}
        statuses = await self._live(execution_id, lock=True)
        left = set(statuses)
        while left:
            found |= {row[0]: row[1] for row in await self._rows(queries.cancel(sorted(left)))}
            # While this waited for the row locks, one of them may have started another. The marked ones start
            # none from now on, so the loop ends.
            tree = await self._rows(queries.tree(execution_id))
            left = {row[0] for row in tree} - statuses.keys()
            statuses |= {row[0]: row[1] for row in tree}
        return await self._cancelled({id: found[id] for id in sorted(found)})

    async def _cancelled(
        self, statuses: dict[int, WorkflowExecutionStatus]
    ) -> Mapping[int, WorkflowExecutionStatus]:
        """Resume the executions that wait for one of these that has ended, and notify the workers of those that run."""
        ended = [id for id, status in statuses.items() if status is WorkflowExecutionStatus.CANCELLED]
        if ended:
            await self._rows(steps.wake_parents(ended))
        running = [id for id, status in statuses.items() if status is WorkflowExecutionStatus.RUNNING]
        await announce(self._session, EXECUTIONS.noun, running)
        return statuses

    @in_transaction
    async def resume(self, execution_id: int, *, from_seq: int | None = None) -> WorkflowExecution:
        """Continue an execution that has failed or was cancelled, with all its retries.

        Its finished steps are not run again, except those from `from_seq` on, which are deleted. Children that
        these have started are not started again. `fork` does the same in a new execution, and for a completed one.

        Args:
            execution_id: The execution.
            from_seq: The first step to run again, from 0; None is the last step that failed, or the first one that
                is not finished.

        Raises:
            NotFoundError: The execution does not exist.
            InvalidTransition: The execution has neither failed nor been cancelled.
        """
        within("from_seq", from_seq or 0, 0, (1 << 31) - 1)
        status = await self._first(steps.target(execution_id))
        if status is None:
            raise not_found("workflow execution", execution_id)
        if from_seq is None:
            from_seq = await self._first(steps.last_failed(execution_id))
        execution = None
        if status in _RESUMED:
            if from_seq is not None:
                await self._rows(steps.forget(execution_id, from_seq))
            execution = await self._write(queries.resume(execution_id))
        if execution is None:
            advice = (
                "fork it instead" if status is WorkflowExecutionStatus.COMPLETED else "it needs no resuming"
            )
            raise InvalidTransition(f"workflow execution {execution_id}: is {status}; {advice}")
        state_of(self._session).enqueued.add(None)
        return execution

    async def _live(self, execution_id: int, *, lock: bool = False) -> dict[int, WorkflowExecutionStatus]:
        """Return the statuses of an execution that has neither completed nor failed, and of its tree if they are locked."""
        rows = await self._rows(queries.tree(execution_id) if lock else queries.status(execution_id))
        statuses: dict[int, WorkflowExecutionStatus] = {row[0]: row[1] for row in rows}
        if execution_id not in statuses:
            raise not_found("workflow execution", execution_id)
        if statuses[execution_id] in _ENDED:
            raise InvalidTransition(
                f"workflow execution {execution_id}: is {statuses[execution_id]} and cannot be cancelled any more"
            )
        return statuses

    async def waiting(self, workflow_ids: Sequence[int]) -> Sequence[WaitingWorkflowVersion]:
        """Return the other versions that have executions waiting for a worker, and their number."""
        return [WaitingWorkflowVersion(*row) for row in await self._rows(queries.waiting(workflow_ids))]

    async def get_by_key(self, idempotency_key: str) -> WorkflowExecution | None:
        """Return the execution with this idempotency key."""
        rows = await self._rows(queries.by_key(idempotency_key))
        return rows[0][0] if rows else None

    async def children(
        self, execution_id: int, *, after: str | None = None, limit: int = 100
    ) -> Page[WorkflowExecution]:
        """Return a page of the executions that this one has started, the earliest first."""
        rows = await self._all(queries.children(execution_id, after=after, limit=limit))
        return as_page(rows, queries.HISTORY_KEY, limit)

    async def history(
        self, name: str, *, after: str | None = None, limit: int = 100
    ) -> Page[WorkflowExecution]:
        """Return a page of the executions of all versions of a workflow, the latest first."""
        rows = await self._all(queries.history(name, after=after, limit=limit))
        return as_page(rows, queries.HISTORY_KEY, limit)

    async def list(
        self, *, status: WorkflowExecutionStatus | None = None, after: str | None = None, limit: int = 100
    ) -> Page[WorkflowExecution]:
        """Return a page of the executions of all workflows, the latest first; `history` has those of one.

        Args:
            status: Only executions with this status.
            after: `next` of the previous page.
            limit: The maximum number of executions.
        """
        wanted = None if status is None else one_of(WorkflowExecutionStatus, status)
        rows = await self._all(queries.list_(status=wanted, after=after, limit=limit))
        return as_page(rows, queries.HISTORY_KEY, limit)

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        """Delete executions that ended more than `older_than` seconds ago, with their steps and events.

        Whole trees are deleted: an execution that a child or a fork refers to goes after these, and stays
        while one of them does. Call it and commit until it returns less than `limit`.

        Args:
            older_than: Seconds since the end.
            limit: The maximum number of executions, 1 to 10,000.

        Returns:
            The number of executions deleted.
        """
        within("older_than", older_than, 0, MAX_SECONDS)
        return len(await self._in_turns(limit, lambda left: queries.purge(older_than, limit=left or limit)))

    async def purgeable(self, *, older_than: float) -> int:
        """Return how many executions calls of `purge` delete in the end."""
        within("older_than", older_than, 0, MAX_SECONDS)
        return (await self._rows(queries.purgeable(older_than)))[0][0]

    async def _by_key(self, idempotency_key: str, name: str) -> WorkflowExecution | None:
        rows = await self._rows(queries.by_key(idempotency_key))
        if not rows:
            return None
        if rows[0][1] != name:
            raise _taken(idempotency_key)
        return rows[0][0]

    async def _why_not(self, name: str, version: int | None, parent_id: int | None) -> Exception:
        """Return the error that explains why nothing was started."""
        which = f"workflow {shown(name)}" if version is None else f"workflow {shown(name)}, version {version}"
        known = [found for found in await self.versions(name) if version in (None, found.version)]
        if not known:
            return NotFoundError(f"{which}: not found; define it first")
        if all(found.status is not WorkflowStatus.ACTIVE for found in known):
            return InvalidTransition(f"{which}: is not active; activate it first")
        if parent_id is None:
            return ConflictError(
                f"{which}: a concurrent transaction prevented the start; try again", retryable=True
            )
        if await self.get_execution(parent_id) is None:
            return NotFoundError(f"workflow execution {parent_id}: not found; check the id of the parent")
        return InvalidTransition(
            f"workflow execution {parent_id}: has ended or is being cancelled, and starts no more parts"
        )


def _taken(idempotency_key: str | None) -> ConflictError:
    return ConflictError(f"idempotency_key {shown(idempotency_key)}: is another execution's; use another")
