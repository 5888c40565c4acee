"""The stored steps of an execution, and the check that the code asks for them in the same order again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import InvalidInputError, WorkflowChanged, shown
from ..models import WorkflowStepKind
from ..values.workflows import ClaimedWorkflow

__all__ = ["Replay", "StoredStep", "title"]

_END = "the end of the code"


class StoredStep(NamedTuple):
    """A finished step."""

    seq: int
    kind: str
    name: str
    output: Any
    error: str | None


class Replay:
    """Numbers the steps of one run, and returns those that an earlier run has finished.

    What the code does between two steps has to depend on its input and on the results of steps alone. Then each run
    asks for the same steps in the same order, and the number of a step identifies it.

    Args:
        claimed: The execution.
        steps: All its finished steps.
    """

    def __init__(self, claimed: ClaimedWorkflow, steps: Sequence[StoredStep]) -> None:
        self._claimed = claimed
        self._steps = {step.seq: step for step in steps}
        self._last = max(self._steps, default=-1)
        self._next = 0
        self._patches: dict[str, bool] = {}
        self._busy: str | None = None

    def next(self, kind: WorkflowStepKind, name: str) -> tuple[int, StoredStep | None]:
        """Return the number of the next step, and the step if it is finished.

        Raises:
            WorkflowChanged: Another step is stored under this number.
            InvalidInputError: Another step is still running.
        """
        if self._busy is not None:
            raise InvalidInputError(
                f"{title(self._claimed)}: {kind} {shown(name)} began while {self._busy} was running; use"
                " `gather` for steps at the same time, and no context within a step"
            )
        number = self._next
        while self._is_patch(number):  # a marker that the code does not ask for any more
            number += 1
        found = self._steps.get(number)
        if found is not None and (found.kind, found.name) != (kind, name):
            raise self._changed(number, _named(found), f"{kind} {shown(name)}")
        self._next = number + 1
        return number, found

    def patched(self, name: str) -> tuple[bool, int | None]:
        """Return whether a run takes the new way through changed code, and the number of a marker to store.

        The first answer holds for the whole execution.
        """
        known = self._patches.get(name)
        if known is not None:
            return known, None
        number = self._next
        while self._is_patch(number) and self._steps[number].name != name:
            number += 1
        new = None
        if self._is_patch(number):
            found, self._next = True, number + 1
        elif number <= self._last:
            found = False  # the code before the change has been here
        else:
            found, new, self._next = True, number, number + 1
        self._patches[name] = found
        return found, new

    def finish(self) -> None:
        """Check that the code has asked for all finished steps.

        Raises:
            WorkflowChanged: A finished step is left.
        """
        left = [step for seq, step in self._steps.items() if seq >= self._next and not self._is_patch(seq)]
        if left:
            first = min(left)
            raise self._changed(first.seq, _named(first), _END)

    def begin(self, what: str | None) -> None:
        """Note that a function runs, during which no other step may begin; None is its end."""
        self._busy = what

    def _is_patch(self, number: int) -> bool:
        found = self._steps.get(number)
        return found is not None and found.kind == WorkflowStepKind.PATCH

    def _changed(self, seq: int, expected: str, found: str) -> WorkflowChanged:
        return WorkflowChanged(
            f"{title(self._claimed)}: step {seq} has changed: expected {expected}, as stored, and found {found};"
            " run the code that began the execution, put the change behind `ctx.patched`, or define a new version",
            workflow=self._claimed.name,
            seq=seq,
            expected=expected,
            found=found,
        )


def title(claimed: ClaimedWorkflow) -> str:
    """Return the name of an execution for messages."""
    return f"workflow {shown(claimed.name)}, version {claimed.version}, execution {claimed.id}"


def _named(step: StoredStep) -> str:
    return f"{step.kind} {shown(step.name)}"
