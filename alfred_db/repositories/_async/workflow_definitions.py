"""The definitions of workflows: their versions, of which one is active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import json_text, within
from ...errors import ConflictError, shown
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import in_transaction
from ...execution.missing import not_found
from ...models import Workflow
from ...queries import workflow_definitions as queries
from ...values.workflows import MAX_JSON_BYTES

_ATTEMPTS = 100


class AsyncWorkflowDefinitions(AsyncRepository):
    """The methods of the workflow repository about definitions."""

    async def define(
        self,
        name: str,
        definition: Mapping[str, Any],
        *,
        version: int | None = None,
        created_by: str | None = None,
    ) -> tuple[Workflow, bool]:
        """Create a version of a workflow, as a draft.

        With a version number, every replica of a service may define the same version.

        Args:
            name: The name of the workflow.
            definition: Any JSON.
            version: The number of the version; None is the next one.
            created_by: Who has defined it.

        Returns:
            The version and whether this call created it.

        Raises:
            ConflictError: The version has another definition: versions do not change.
        """
        text = json_text("definition", dict(definition), MAX_JSON_BYTES)
        within("version", version or 1, 1, (1 << 31) - 1)
        for _ in range(1 if version else _ATTEMPTS):
            workflow = await self._write(queries.define(name, text, version=version, created_by=created_by))
            if workflow is not None:
                return workflow, True
        rows = await self._rows(queries.version(name, version or 0, text))
        if rows and rows[0][1]:
            return rows[0][0], False
        raise ConflictError(
            f"workflow {shown(name)}, version {version}: has another definition; define this one as a new version"
            if version
            else f"workflow {shown(name)}: concurrent transactions keep defining versions; try again",
            retryable=version is None,
        )

    async def get(self, workflow_id: int) -> Workflow | None:
        """Return the version with this id."""
        return await self._first(queries.get(workflow_id))

    async def versions(self, name: str) -> Sequence[Workflow]:
        """Return the versions of a workflow, the newest first."""
        return await self._all(queries.versions(name))

    @in_transaction
    async def activate(self, workflow_id: int) -> Workflow:
        """Make this the active version, which new executions use, and archive the previous one.

        Raises:
            NotFoundError: The version does not exist.
        """
        names = await self._all(queries.siblings(workflow_id))
        if names:
            await self._rows(queries.activate(workflow_id, names[0]))
        workflow = await self.get(workflow_id)
        if workflow is None:
            raise not_found("workflow", workflow_id)
        return workflow

    async def archive(self, workflow_id: int) -> Workflow:
        """Archive this version: no new executions use it, and existing ones continue.

        Raises:
            NotFoundError: The version does not exist.
        """
        workflow = await self._write(queries.archive(workflow_id))
        if workflow is None:
            raise not_found("workflow", workflow_id)
        return workflow
