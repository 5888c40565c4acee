"""Which function is the code of a version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..errors import ConfigurationError
from .functions import WorkflowFunction

__all__ = ["function_of", "refuse_others", "unique"]


def unique(functions: Sequence[WorkflowFunction[..., Any]]) -> list[WorkflowFunction[..., Any]]:
    """Return the functions, checked.

    Raises:
        ConfigurationError: One is no durable function, or two have the same name and version.
    """
    seen: set[tuple[str, int | None]] = set()
    for function in functions:
        if not issubclass(type(cast("object", function)), WorkflowFunction):
            raise ConfigurationError(
                f"workflows: {getattr(function, '__name__', type(function).__name__)} is no workflow; decorate it with"
                " `@workflow(name, version)`"
            )
        key = (function.name, function.version)
        if key in seen:
            raise ConfigurationError(
                f"workflows: workflow {function.name!r}, version {function.version}: has two functions; give one"
                " another version"
            )
        seen.add(key)
    return list(functions)


def refuse_others(kind: type, functions: Sequence[WorkflowFunction[..., Any]]) -> None:
    """Check that the functions are of the kind that a class of workflows runs: coroutine functions, or not.

    Raises:
        ConfigurationError: One is of the other kind.
    """
    asynchronous = kind.__name__.startswith("Async")
    for function in functions:
        if function.is_asynchronous != asynchronous:
            raise ConfigurationError(
                f"workflows: workflow {function.name!r} is {'not ' if asynchronous else ''}asynchronous; pass it to"
                f" {kind.__name__.removeprefix('Async') if asynchronous else 'Async' + kind.__name__}"
            )


def function_of(
    functions: Sequence[WorkflowFunction[..., Any]], name: str, version: int | None
) -> WorkflowFunction[..., Any] | None:
    """Return the code of a version: that of its number, else what interprets each version of the name."""
    own = {function.version: function for function in functions if function.name == name}
    return own.get(version) or own.get(None)
