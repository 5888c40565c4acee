"""How functions of the caller are called, alike for both halves: alone, and several at the same time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..errors import ConfigurationError
from ..repositories import AsyncUnitOfWork, UnitOfWork

__all__ = ["AsyncCalls", "AsyncStepCode", "AsyncTransactionCode", "Calls", "StepCode", "TransactionCode"]

P = ParamSpec("P")
T = TypeVar("T")

StepCode = Callable[P, T]
"""A function that is run as a step."""

AsyncStepCode = Callable[P, Awaitable[T]]
"""The same for asyncio."""

TransactionCode = Callable[Concatenate[UnitOfWork, P], T]
"""A function that is run as a step in a transaction."""

AsyncTransactionCode = Callable[Concatenate[AsyncUnitOfWork, P], Awaitable[T]]
"""The same for asyncio."""


class Calls:
    """Calls in threads."""

    @staticmethod
    def call(function: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Return what a function returns.

        Raises:
            ConfigurationError: It is a coroutine function.
        """
        value = function(*arguments, **options)
        if inspect.iscoroutine(value):
            value.close()
            raise ConfigurationError(
                f"workflow step: {getattr(function, '__name__', 'the function')} is asynchronous; call it from a"
                " workflow that is a coroutine function"
            )
        return value

    @staticmethod
    def together(calls: Sequence[Callable[[], Any]], limit: int) -> list[Any]:
        """Call functions at the same time, at most `limit` of them; return what each returned or raised."""
        if len(calls) <= 1 or limit == 1:
            return [_settled(call) for call in calls]
        with ThreadPoolExecutor(min(limit, len(calls)), "alfred-db workflow") as threads:
            return list(threads.map(_settled, calls))


class AsyncCalls:
    """Calls in the event loop."""

    @staticmethod
    async def call(function: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Return what a function returns, or what it is awaited for."""
        value = function(*arguments, **options)
        return await value if inspect.isawaitable(value) else value

    @staticmethod
    async def together(calls: Sequence[Callable[[], Awaitable[Any]]], limit: int) -> list[Any]:
        """Call functions at the same time, at most `limit` of them; return what each returned or raised."""
        turns = asyncio.Semaphore(limit)

        async def settled(call: Callable[[], Awaitable[Any]]) -> Any:
            async with turns:
                return await call()

        return await asyncio.gather(*(settled(call) for call in calls), return_exceptions=True)


def _settled(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BaseException as error:
        return error
