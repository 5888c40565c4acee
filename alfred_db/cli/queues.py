"""`alfred-db queues`: pauses and limits of the queues of tasks."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .databases import opened
from .groups import Group
from .options import confirm, json_option, schema_option, url_option, yes_option
from .output import print_result
from .tables import table

if TYPE_CHECKING:
    from ..values import QueueRate, QueueSettings

__all__ = ["queues"]

NONE = "none"
"""What removes a limit."""


class _Limit(click.ParamType[float | str]):
    """A number, or `none`."""

    name = "N|none"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float | str:
        """Return the number, or the word."""
        if value == NONE:
            return NONE
        try:
            return self._kind(value)
        except ValueError:
            self.fail(f"{value!r}: expected a number, or {NONE}", param, ctx)


class _Rate(click.ParamType["QueueRate | str"]):
    """JOBS/SECONDS, or JOBS/SECONDS/BURST, or `none`."""

    name = "JOBS/SECONDS|none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> QueueRate | str:
        """Return the rate, or the word."""
        from ..errors import InvalidInputError
        from ..values import QueueRate

        if value == NONE:
            return NONE
        jobs, *others = str(value).split("/")
        try:
            period = float(others[0]) if others else 60.0
            return QueueRate(int(jobs), period, int(others[1]) if len(others) > 1 else None)
        except InvalidInputError as error:
            self.fail(str(error), param, ctx)
        except ValueError:
            self.fail(f"{value!r}: expected a rate such as 100/60, or {NONE}", param, ctx)


@click.group(cls=Group)
def queues() -> None:
    """Queues of tasks: pause and resume them, and set their limits."""


@queues.command("list")
@url_option
@schema_option
@json_option
def list_(url: str | None, schema: str | None, as_json: bool) -> None:
    """List the queues that have settings, with the number of their tasks that run."""
    from ..queries import task_figures

    with opened(url, schema) as database, database.begin() as uow:
        running = {row[0]: row[1] for row in uow.session.execute(task_figures.running())}
        rows = [{**_values(one), "running": running.get(one.name, 0)} for one in uow.queues.list()]
    columns = ("name", "paused", "running", "max_running", "max_running_per_key", "rate", "ageing")
    print_result(rows, table(columns, rows) if rows else "no queue has settings", as_json=as_json)


@queues.command("set")
@click.argument("name")
@click.option("--max-running", type=_Limit(int), help="How many of its tasks may run at the same time.")
@click.option(
    "--max-running-per-key", type=_Limit(int), help="How many of them with the same concurrency key."
)
@click.option(
    "--rate",
    type=_Rate(),
    help="How many may be claimed in a time, such as 100/60; 100/60/5 has at most 5 at once.",
)
@click.option(
    "--ageing", type=_Limit(float), help="Seconds after which the priority of a waiting task is raised."
)
@url_option
@schema_option
@json_option
def set_(name: str, url: str | None, schema: str | None, as_json: bool, **limits: Any) -> None:
    """Set limits of the queue NAME; `none` removes one, and those that are left out stay."""
    with opened(url, schema) as database, database.begin() as uow:
        known = uow.queues.get(name)
        before: dict[str, Any] = {} if known is None else {limit: getattr(known, limit) for limit in limits}
        changed = {limit: value for limit, value in limits.items() if value is not None}
        merged = {**before, **changed}
        found = uow.queues.set(
            name, **{limit: None if value == NONE else value for limit, value in merged.items()}
        )
    print_result(_values(found), _line(found), as_json=as_json)


@queues.command()
@click.argument("name")
@url_option
@schema_option
@json_option
def pause(name: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Claim no further task of the queue NAME; what runs goes on."""
    with opened(url, schema) as database, database.begin() as uow:
        found = uow.queues.pause(name)
    print_result(_values(found), _line(found), as_json=as_json)


@queues.command()
@click.argument("name")
@url_option
@schema_option
@json_option
def resume(name: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """End the pause of the queue NAME."""
    with opened(url, schema) as database, database.begin() as uow:
        found = uow.queues.resume(name)
    print_result(_values(found), _line(found), as_json=as_json)


@queues.command()
@click.argument("name")
@yes_option
@url_option
@schema_option
@json_option
def delete(name: str, yes: bool, url: str | None, schema: str | None, as_json: bool) -> None:
    """Delete the settings of the queue NAME: its pause and its limits; its tasks stay."""
    from ..errors import NotFoundError

    confirm(f"Delete the pause and the limits of the queue {name!r}?", yes)
    with opened(url, schema) as database, database.begin() as uow:
        if not uow.queues.delete(name):
            raise NotFoundError(f"queue {name!r}: has no settings; `queues list` shows those that have some")
    print_result({"deleted": name}, f"deleted the settings of {name}", as_json=as_json)


def _values(one: QueueSettings) -> dict[str, Any]:
    return {**asdict(one), "rate": _rate(one)}


def _rate(one: QueueSettings) -> str | None:
    if one.rate is None:
        return None
    burst = "" if one.rate.burst is None else f"/{one.rate.burst}"
    return f"{one.rate.jobs}/{one.rate.period:g}{burst}"


def _line(one: QueueSettings) -> str:
    limits = {
        "max running": one.max_running,
        "max running per key": one.max_running_per_key,
        "rate": _rate(one),
        "ageing": one.ageing,
    }
    words = [f"{name} {value}" for name, value in limits.items() if value is not None]
    return f"{one.name}: {', '.join(['paused' if one.paused else 'open', *words])}"
