"""What is kept for how long."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..checks import MAX_SECONDS
from ..errors import ConfigurationError, InvalidInputError, shown

__all__ = ["Age", "RetentionPolicy", "seconds_of"]

Age = float | timedelta | str
"""Seconds, a `timedelta`, or a number with one of the units s, m, h, d, w and y (365 days), such as "30d"."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_TEXT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([smhdwy]?)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RetentionPolicy:
    """Which rows are deleted after which time. None keeps them.

    Raises:
        InvalidInputError: An age is negative, too large, or none at all.
    """

    tasks: Age | None = None
    """Tasks, since they ended, with their results; a parent stays as long as a child."""
    executions: Age | None = None
    """Executions of scheduled tasks, since they ended."""
    workflows: Age | None = None
    """Executions of workflows, since they ended, with their steps and events; one stays as long as its parts."""
    conversations: Age | None = None
    """Messages of conversations, since they were stored; a session ends with its last message."""
    events: Age | None = None
    """Events, since they were published; one stays until all consumers of its topic have read it."""
    requests: Age | None = None
    """Requests of the broker's log, since they were made."""
    expired: bool = True
    """Whether what has passed its own time is deleted: processed messages, memories, memory entries, working memory
    without a blob, values of the cache, states of rate limits, and web sessions."""

    def __post_init__(self) -> None:
        for name in self.ages():
            seconds_of(name, getattr(self, name))

    @classmethod
    def ages(cls) -> list[str]:
        """Return the names of the fields that are ages."""
        return [field.name for field in fields(cls) if field.name != "expired"]

    def seconds(self, name: str) -> float | None:
        """Return an age in seconds; None keeps these rows."""
        return seconds_of(name, getattr(self, name))

    @classmethod
    def from_file(cls, path: str | Path) -> RetentionPolicy:
        """Read a policy from a TOML file with lines such as `tasks = "30d"` and `expired = false`.

        Raises:
            ConfigurationError: The file cannot be read, is not TOML, or names something else.
        """
        try:
            found: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigurationError(f"retention policy {shown(str(path))}: {reason}; pass a file") from None
        except ValueError as error:  # not UTF-8, not TOML, or a path with a NUL
            raise ConfigurationError(
                f"retention policy {shown(str(path))}: is not TOML: {error}; correct it"
            ) from None
        known = [*cls.ages(), "expired"]
        for name, value in found.items():
            if name not in known:
                raise ConfigurationError(
                    f"retention policy {shown(str(path))}: {shown(name)} is unknown; use {', '.join(known)}"
                )
            if (name == "expired") is not isinstance(value, bool):
                wanted = "true or false" if name == "expired" else 'an age such as "30d"'
                raise ConfigurationError(
                    f"retention policy {shown(str(path))}: {name}: expected {wanted}, got {type(value).__name__}"
                )
        return cls(**found)


def seconds_of(name: str, age: Age | None) -> float | None:
    """Return an age in seconds.

    Raises:
        InvalidInputError: It is negative, too large, or none at all.
    """
    if age is None:
        return None
    found: Any = age
    if isinstance(found, str):
        match = _TEXT.fullmatch(found.strip())
        if match is None:
            raise InvalidInputError(
                f'{name}: expected an age such as "12h", "30d" or "1y", got {shown(found)}'
            )
        found = float(match[1]) * _UNITS[match[2] or "s"]
    elif isinstance(found, timedelta):
        found = found.total_seconds()
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise InvalidInputError(
            f"{name}: expected an age in seconds, a timedelta or text, got {type(found).__name__}"
        )
    if not 0 <= found <= MAX_SECONDS:
        raise InvalidInputError(f"{name}: expected 0 to {MAX_SECONDS:,} seconds, got {found:g}")
    return float(found)
