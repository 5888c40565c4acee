"""Durable functions: workflows whose code is a function, whose finished steps are never run again.

@workflow("onboard", version=1)
def onboard(ctx: WorkflowContext, user: str) -> str:
    address = ctx.step(find_address, user)
    ctx.sleep(3600)
    return ctx.step(send, address)

`functions` has the decorators, `_async/context.py` what a function is called with, `replay` the numbers of the steps and the
check that they are the same again, `_async/runner.py` one run, and `registry` the functions that a worker has.
"""

from __future__ import annotations

from ._async.context import AsyncWorkflowContext
from ._async.registration import AsyncWorkflows
from ._sync.context import WorkflowContext
from ._sync.registration import Workflows
from .functions import WorkflowFunction, WorkflowStepFunction, workflow, workflow_step
from .outcomes import WorkflowOutcome, WorkflowRun

__all__ = [
    "AsyncWorkflowContext",
    "AsyncWorkflows",
    "WorkflowContext",
    "WorkflowFunction",
    "WorkflowOutcome",
    "WorkflowRun",
    "WorkflowStepFunction",
    "Workflows",
    "workflow",
    "workflow_step",
]
