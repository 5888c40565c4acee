"""How far long work is: a bar on a terminal, if `rich` is installed, and lines on standard error elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..indexes.results import Progress

__all__ = ["EVERY", "Report", "counted", "progress", "reporter"]

EVERY = 2.0
"""Seconds between two lines about the same step."""

Report = Callable[[str, float | None, float | None], None]
"""What is called with the step, what is done of it, and all that is to be done; None is unknown."""


@contextmanager
def progress(*, steps: bool = False) -> Generator[Report]:
    """Yield what long work calls after each part of it.

    Args:
        steps: Whether the beginning and the end of each step are printed, however short it is; otherwise short work prints nothing.
    """
    if sys.stderr.isatty() and find_spec("rich") is not None:
        with _bars() as report:
            yield report
    else:
        yield _lines(steps)


@contextmanager
def counted(step: str) -> Generator[Callable[[int], None]]:
    """Yield what `in_chunks` calls with the number of rows so far."""
    with progress() as report:
        yield lambda rows: report(step, rows, None)


def reporter(report: Report) -> Callable[[Progress], None]:
    """Return what work on an index calls with its progress."""

    def show(so_far: Progress) -> None:
        step = f"{so_far.index}: {so_far.phase}"
        report(step, *((so_far.done, so_far.total) if so_far.total else (None, None)))

    return show


def _lines(steps: bool) -> Report:
    last, shown = time.monotonic(), ""

    def report(step: str, done: float | None, total: float | None) -> None:
        nonlocal last, shown
        is_new = steps and (step != shown or (None not in (done, total) and done == total))
        if is_new or time.monotonic() - last >= EVERY:
            last, shown = time.monotonic(), step
            click.echo(f"{step}{_amount(done, total)}", err=True)

    return report


def _amount(done: float | None, total: float | None) -> str:
    if done is None:
        return ""
    return f": {done:,.0f}" if total is None else f": {done:,.0f} of {total:,.0f}"


@contextmanager
def _bars() -> Generator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    known: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def report(step: str, done: float | None, total: float | None) -> None:
            if step not in known:
                known[step] = bars.add_task(step, total=total, amount="")
            bars.update(known[step], completed=done, total=total, amount=_amount(done, total)[2:])

        yield report
