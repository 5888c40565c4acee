"""The progress of tasks: reported by those who hold them, read by anybody."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from ...execution._async.base import AsyncRepository
from ...execution._async.leases import lost
from ...execution._async.reporting import report
from ...models import TaskProgress
from ...queries import task_reports as queries
from ...queries.task_leases import TASKS
from ...values.tasks import ClaimedTask, check_progress


class AsyncTaskReports(AsyncRepository):
    """The methods of the task repository about progress."""

    async def progress(self, claimed: ClaimedTask, fraction: float, note: str | None = None) -> None:
        """Report how far a task has come; readers see it after the commit.

        Waits for no lock on the task, and leaves its row and its lease as they are. Commit soon: another report about
        the same task waits for this transaction.

        Args:
            claimed: The task, as `claim` or the last heartbeat returned it.
            fraction: How much is done, from 0 to 1. It may be less than before.
            note: What is being done, for people; at most 2000 bytes.

        Raises:
            LeaseLost: Another worker may own the task. Nothing has been written.
            InvalidInputError: The fraction or the note is invalid.
        """
        check_progress(fraction, note)
        if not await report(self._session, [(claimed, fraction, note)]):
            raise lost(TASKS, claimed)

    async def get_progress(self, id: uuid.UUID) -> TaskProgress | None:
        """Return what the last attempt at a task has reported; None if it has reported nothing."""
        return (await self.list_progress([id])).get(id)

    async def list_progress(self, ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, TaskProgress]:
        """Return what the last attempts at these tasks have reported, by `id`; those without a report are missing."""
        return {found.task_id: found for found in await self._all(queries.progress(ids))}
