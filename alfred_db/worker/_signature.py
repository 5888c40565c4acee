"""The arguments of a decorated function as the content of its task, checked at enqueue and at run."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

from ..errors import ConfigurationError, InvalidInputError
from ..values.task_outcomes import RETURNED
from ..values.tasks import ClaimedTask
from ._conversions import Conversion, Misfit, Unsupported, conversion
from ._lease import AnyLease, AsyncLease, Lease

__all__ = ["RETURNED", "TaskSignature"]

_KINDS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class TaskSignature:
    """What a function takes and returns, as JSON.

    A parameter that is annotated with `Lease`, `AsyncLease` or `ClaimedTask` is no argument of the task: the worker
    passes its own.

    Args:
        function: The function.
        name: What names it in messages: the intent.

    Raises:
        ConfigurationError: An argument has no type, or one that cannot be stored as JSON.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._name = f"task {name}: {getattr(function, '__qualname__', function)}"
        try:
            self._signature = inspect.signature(function)
            hints = typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{self._name}: its types cannot be read ({error}); define them at the top level of its module"
            ) from None
        self._arguments: dict[str, Conversion] = {}
        self._of_worker: dict[str, type] = {}
        for parameter in self._signature.parameters.values():
            if parameter.kind in _KINDS:
                raise ConfigurationError(
                    f"{self._name}: {parameter}: name each argument, instead of any number"
                )
            if parameter.name not in hints:
                raise ConfigurationError(f"{self._name}: argument {parameter.name}: has no type; annotate it")
            hint = hints[parameter.name]
            if (wanted := _of_worker(hint)) is not None:
                self._of_worker[parameter.name] = wanted
            else:
                self._arguments[parameter.name] = self._compiled(f"argument {parameter.name}", hint)
        self._result = self._compiled("its result", hints.get("return", Any))

    def content(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of a task of these arguments; arguments with defaults may be missing.

        Raises:
            InvalidInputError: An argument is missing, unknown, or not of its type.
        """
        given = self._bound(args, kwargs)
        return {name: self._converted(name, value, reading=False) for name, value in given.items()}

    def bound(self, task: ClaimedTask, lease: AnyLease) -> inspect.BoundArguments:
        """Return the arguments of a call for a task.

        Raises:
            InvalidInputError: The content does not fit: it was enqueued by another version, or by hand.
        """
        self._check_names(task.content)
        given: dict[str, Any] = {
            name: self._converted(name, value, reading=True) for name, value in task.content.items()
        }
        for name, wanted in self._of_worker.items():
            given[name] = task if wanted is ClaimedTask else lease
        parameters = self._signature.parameters
        return inspect.BoundArguments(
            self._signature,
            types.MappingProxyType({name: given[name] for name in parameters if name in given}),  # type: ignore[arg-type]
        )

    def result(self, value: Any) -> Any:
        """Return what the function returned as JSON.

        Raises:
            InvalidInputError: It is not what the annotation promises.
        """
        try:
            return self._result.to_json(value, "its result")
        except Misfit as error:
            raise InvalidInputError(f"{self._name}: {error}") from None

    def read_result(self, value: Any) -> Any:
        """Return a stored result as the function returned it.

        Raises:
            InvalidInputError: It is not what the annotation promises.
        """
        try:
            return self._result.from_json(value, "its result")
        except Misfit as error:
            raise InvalidInputError(f"{self._name}: {error}") from None

    def check_lease(self, asynchronous: bool) -> None:
        """Refuse a lease of the other kind.

        Raises:
            ConfigurationError: A coroutine function takes a `Lease`, or a function an `AsyncLease`.
        """
        wrong = Lease if asynchronous else AsyncLease
        for name, wanted in self._of_worker.items():
            if wanted is wrong:
                right = AsyncLease if asynchronous else Lease
                raise ConfigurationError(
                    f"{self._name}: argument {name}: is annotated with {wrong.__name__}; annotate it with {right.__name__}"
                )

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        names = list(self._arguments)
        if len(args) > len(names):
            raise InvalidInputError(f"{self._name}: takes {len(names)} arguments, got {len(args)}")
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise InvalidInputError(f"{self._name}: argument {name}: is passed twice")
            given[name] = value
        self._check_names(given)
        return given

    def _check_names(self, given: Mapping[str, Any]) -> None:
        unknown = [name for name in given if name not in self._arguments]
        if unknown:
            raise InvalidInputError(
                f"{self._name}: got {len(unknown)} arguments that it does not take; expected some of"
                f" {', '.join(self._arguments) or 'none'}"
            )
        for name, argument in self._arguments.items():
            if name not in given and self._signature.parameters[name].default is inspect.Parameter.empty:
                raise InvalidInputError(
                    f"{self._name}: argument {name}: is missing; expected {argument.expected}"
                )

    def _converted(self, name: str, value: Any, *, reading: bool) -> Any:
        try:
            return self._arguments[name].way(reading)(value, name)
        except Misfit as error:
            raise InvalidInputError(f"{self._name}: argument {error}") from None

    def _compiled(self, what: str, hint: Any) -> Conversion:
        try:
            return conversion(hint)
        except Unsupported as error:
            raise ConfigurationError(
                f"{self._name}: {what}: {error} cannot be stored as JSON; use text, numbers, lists, mappings, dataclasses,"
                " TypedDicts or models of pydantic"
            ) from None


def _of_worker(hint: Any) -> type | None:
    """Return the class that the worker passes for such a parameter, None for an argument of the task."""
    known = (AsyncLease, Lease, AnyLease, ClaimedTask)
    if typing.get_origin(hint) in (Union, types.UnionType):
        found = [one for one in typing.get_args(hint) if one in known]
        return found[0] if found else None
    return hint if hint in known else None
