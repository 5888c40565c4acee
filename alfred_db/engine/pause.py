"""Waiting, alike for both halves of the library."""

from __future__ import annotations

import asyncio
import time

__all__ = ["AsyncPause", "Pause"]


class Pause:
    """Waiting of a thread."""

    @staticmethod
    def seconds(duration: float) -> None:
        """Wait."""
        time.sleep(duration)


class AsyncPause:
    """Waiting of an asyncio task."""

    @staticmethod
    async def seconds(duration: float) -> None:
        """Wait."""
        await asyncio.sleep(duration)
