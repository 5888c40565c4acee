"""Decorators: a function as a version of a workflow, and a function as a step with settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

from ..checks import MAX_SECONDS, check_text, within
from ..errors import ConfigurationError, InvalidInputError, shown

__all__ = ["StepSettings", "WorkflowFunction", "WorkflowStepFunction", "workflow", "workflow_step"]

P = ParamSpec("P")
T = TypeVar("T")

MAX_NAME = 500
_MOST = (1 << 31) - 1


class WorkflowFunction(Generic[P, T]):
    """A version of a workflow whose code is a function; made by `workflow`.

    Calling it calls the function.
    """

    def __init__(
        self,
        function: Callable[P, T],
        name: str,
        version: int | None,
        *,
        max_retries: int = 3,
        timeout_seconds: int | None = None,
        definition: Mapping[str, Any] | None = None,
    ) -> None:
        check_text("name", name, MAX_NAME)
        within("version", 1 if version is None else version, 1, _MOST)
        within("max_retries", max_retries, 0, 10_000)
        within("timeout_seconds", 1 if timeout_seconds is None else timeout_seconds, 1, MAX_SECONDS)
        self.function = function
        """The code."""
        self.name = name
        """The name of the workflow."""
        self.version = version
        """The version whose code it is; None is each version, whose definition it interprets."""
        self.max_retries = max_retries
        """How often a step of its executions is retried."""
        self.timeout_seconds = timeout_seconds
        """Seconds that an attempt at one of its executions may take."""
        self.definition: Mapping[str, Any] = dict(definition or {})
        """What is stored as the definition of the version."""
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function."""
        return self.function(*args, **kwargs)

    @property
    def is_asynchronous(self) -> bool:
        """Whether it is a coroutine function, for an AsyncWorker."""
        return inspect.iscoroutinefunction(self.function)

    def check_input(self, input: Mapping[str, Any] | None) -> None:
        """Check that the function takes this input.

        Raises:
            InvalidInputError: A parameter is missing, or there is no such parameter.
        """
        try:
            inspect.signature(self.function).bind(None, **(input or {}))
        except TypeError as error:
            raise InvalidInputError(f"workflow {shown(self.name)}: input: {error}") from None

    def __repr__(self) -> str:
        return f"<workflow {self.name!r}, version {self.version}>"


class StepSettings:
    """How a function is run as a step."""

    __slots__ = ("delay", "final", "name", "retries")

    def __init__(
        self,
        name: str,
        retries: int | None = None,
        delay: float | None = None,
        final: tuple[type[Exception], ...] = (),
    ) -> None:
        self.name = name
        self.retries = retries
        self.delay = delay
        self.final = final


class WorkflowStepFunction(Generic[P, T]):
    """A function with the settings that it has as a step; made by `workflow_step`. Calling it calls the function."""

    def __init__(self, function: Callable[P, T], settings: StepSettings) -> None:
        self.function = function
        """The function."""
        self.settings = settings
        """Its name, and when it is retried."""
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function."""
        return self.function(*args, **kwargs)


def workflow(
    name: str,
    version: int | None = 1,
    *,
    max_retries: int = 3,
    timeout_seconds: int | None = None,
    definition: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, T]], WorkflowFunction[P, T]]:
    """Return a decorator that makes a function the code of a version of a workflow.

        @workflow("onboard", version=1)
        def onboard(ctx: WorkflowContext, user: str) -> str: ...

    The function is called with a context and with the input of the execution as keyword arguments. What it returns is the
    output, a JSON value. It is called again after each sleep, wait, failure and crash: finished steps return their stored
    results then, so what it does between them must not depend on anything else.

    Args:
        name: The name of the workflow.
        version: The number of the version. Give changed code a new one, and keep the old function until its executions
            have ended. None is the code of each version of that name: it interprets `ctx.definition`.
        max_retries: How often a failed step is retried, unless the step has settings of its own.
        timeout_seconds: Seconds that an attempt may take.
        definition: What is stored as the definition, any JSON; for functions that interpret it.
    """

    def decorate(function: Callable[P, T]) -> WorkflowFunction[P, T]:
        return WorkflowFunction(
            function,
            name,
            version,
            max_retries=max_retries,
            timeout_seconds=timeout_seconds,
            definition=definition,
        )

    return decorate


def workflow_step(
    *,
    name: str | None = None,
    retries: int | None = None,
    delay: float | None = None,
    final: tuple[type[Exception], ...] = (),
) -> Callable[[Callable[P, T]], WorkflowStepFunction[P, T]]:
    """Return a decorator that sets how a function is run as a step of a workflow. Any function is a step without it, too.

    Args:
        name: The name of the step; None is that of the function.
        retries: How often it is retried after an exception, at most the `max_retries` of the execution, which is the
            default.
        delay: Seconds before a retry; None is 1, 2, 4 ... 300.
        final: Exceptions after which it is not retried.
    """
    if name is not None:
        check_text("name", name, MAX_NAME)
    within("retries", retries or 0, 0, 10_000)
    within("delay", delay or 0, 0, MAX_SECONDS)

    def decorate(function: Callable[P, T]) -> WorkflowStepFunction[P, T]:
        return WorkflowStepFunction(
            function, StepSettings(name or _name_of(function), retries, delay, tuple(final))
        )

    return decorate


def settings_of(function: Any) -> StepSettings:
    """Return the settings of a function as a step.

    Raises:
        ConfigurationError: It is no function, or has no name.
    """
    while isinstance(function, functools.partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(function, WorkflowStepFunction):
        return function.settings
    return StepSettings(_name_of(function))


def _name_of(function: object) -> str:
    name = getattr(function, "__name__", None)
    kind = type(function)
    if not callable(function) or issubclass(kind, WorkflowFunction):
        raise ConfigurationError(
            f"workflow step: is {kind.__name__}; pass a function, and use `child` for workflows"
        )
    if not isinstance(name, str) or name == "<lambda>":
        raise ConfigurationError(
            f"workflow step: {kind.__name__} has no name by which a later run finds it; pass a named"
            " function, or `workflow_step(name=...)(function)`"
        )
    return name
