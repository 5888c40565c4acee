"""Cron expressions: the slots of a schedule, and which of them run after a downtime.

A slot is a time at which a schedule is due. An expression has five fields: minute, hour, day of month, month,
day of week; or it is one of @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly. It is
evaluated in an IANA time zone, with the rules of Debian's cron:

- Daylight saving begins: a fixed time that is skipped (02:30 in Europe/Prague on 2026-03-29) has its slot at the first
  moment after the change (03:00); several of them in one change have one slot.
- Daylight saving ends: a fixed time that occurs twice has one slot, the first.
- If the field of the minute or of the hour begins with `*`, the schedule follows the clock instead: skipped times
  have no slot, and repeated times have two.
- A step that is longer than its range is refused: `*/90` as a minute would be once an hour.
- 29 February has its slot in leap years. A date that never occurs is refused.
- Day of month and day of week: both must match if either begins with `*`, otherwise one is enough.

Slots are times in UTC, each strictly later than the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from .checks import aware, kind, whole
from .errors import InvalidCron, InvalidInputError
from .models.scheduler import MisfirePolicy, OverlapPolicy, ScheduledTask

__all__ = [
    "MAX_SLOTS",
    "Due",
    "Plan",
    "Run",
    "Slot",
    "due",
    "first_slot",
    "next_runs",
    "plan",
    "run",
    "slots",
    "zone",
]

MAX_SLOTS = 1000
"""Maximum number of slots of a task that are processed at once: the latest ones. Counts stop at it."""

_MAX_LENGTH = 200

_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_LAST = (59, 23, 31, 12, 7)

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_NO_ZONES = frozenset({"factory", "leapseconds", "localtime", "posixrules"})


@dataclass(frozen=True, slots=True)
class Due:
    """The slots of a schedule that are due."""

    slots: Sequence[datetime]
    """The latest of them, at most `MAX_SLOTS`, the earliest first."""
    earlier: int
    """The number of due slots before these, counted up to `MAX_SLOTS`."""
    next: datetime | None
    """The first slot that is not due yet."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a misfire policy for due slots."""

    slots: Sequence[datetime]
    """The slots to run, the earliest first."""
    dropped: int
    """The number of the others."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An execution to create."""

    task_id: int
    scheduled_at: datetime
    missed_slots: int
    """The number of dropped slots before it."""
    exclusive: bool
    skipped_at: datetime | None = None
    """When it was decided that it is not run; None if it is run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The executions to create for a task, and its next slot."""

    slots: Sequence[Slot]
    dropped: int
    next_run_at: datetime | None


def slots(expression: str, timezone: str, *, after: datetime) -> Iterator[datetime]:
    """Yield the slots later than `after`, up to a gap of fifty years.

    Args:
        expression: The cron expression.
        timezone: The IANA name of a time zone.
        after: A time with time zone.

    Raises:
        InvalidCron: The expression or the time zone is invalid.
        InvalidInputError: `after` has no time zone.
    """
    aware("after", after)
    for name, text in (("schedule", expression), ("timezone", timezone)):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidCron(f"{name}: expected text, got {kind(text)}")
    return _later(_parsed(expression, after.astimezone(zone(timezone))), after.astimezone(UTC))


def first_slot(expression: str, timezone: str, *, after: datetime) -> datetime:
    """Return the first slot later than `after`.

    Raises:
        InvalidCron: The schedule has no further slot, or the expression or the time zone is invalid.
    """
    found = next(slots(expression, timezone, after=after), None)
    if found is None:
        raise InvalidCron(f"schedule: {expression[:60]!r} names a date that never occurs; use another")
    return found


def next_runs(
    expression: str, timezone: str = "UTC", *, after: datetime | None = None, count: int = 5
) -> Sequence[datetime]:
    """Return the next slots of a schedule.

    Args:
        expression: The cron expression.
        timezone: The IANA name of a time zone.
        after: The slots are later than this time; None is now, by the clock of this machine.
        count: The number of slots, 1 to `MAX_SLOTS`.

    Raises:
        InvalidCron: The expression or the time zone is invalid.
        InvalidInputError: `count` is out of range, or `after` has no time zone.
    """
    whole("count", count)
    if not 1 <= count <= MAX_SLOTS:
        raise InvalidInputError(f"count: expected 1 to {MAX_SLOTS}, got {count}")
    return list(islice(slots(expression, timezone, after=after or datetime.now(UTC)), count))


def due(expression: str, timezone: str, *, first: datetime, now: datetime) -> Due:
    """Return the slots from `first` to `now`.

    Args:
        expression: The cron expression.
        timezone: The IANA name of a time zone.
        first: The stored slot; it counts as a slot even if the expression does not match it.
        now: The current time.
    """
    aware("first", first)
    aware("now", now)
    found: list[datetime] = [first.astimezone(UTC)]
    for slot in slots(expression, timezone, after=first):
        if slot > now:
            return Due(found, 0, slot)
        if len(found) == MAX_SLOTS:
            latest = _latest(expression, timezone, found[-1] - found[0], first, now)
            return Due(latest, MAX_SLOTS, next(slots(expression, timezone, after=now), None))
        found.append(slot)
    return Due(found, 0, None)


def run(due: Due, now: datetime, *, policy: MisfirePolicy, grace_seconds: int, max_catchup: int) -> Run:
    """Return which due slots to run.

    A slot is missed if it is more than `grace_seconds` in the past. If none is missed, all are run. Otherwise
    `skip` runs those that are not missed, `latest` runs the last one, and `all` runs all of them except that
    at most `max_catchup` missed ones, the latest, are run.
    """
    aware("now", now)
    oldest = now - timedelta(seconds=grace_seconds)
    missed = [slot for slot in due.slots if slot < oldest]
    on_time = due.slots[len(missed) :]
    if not missed and not due.earlier:
        return Run(on_time, 0)
    chosen: Sequence[datetime] = on_time
    if policy is MisfirePolicy.LATEST:
        chosen = due.slots[-1:]
    elif policy is MisfirePolicy.ALL:
        chosen = due.slots[max(0, len(missed) - max_catchup) :]
    return Run(chosen, min(due.earlier + len(due.slots) - len(chosen), MAX_SLOTS))


def plan(task: ScheduledTask, now: datetime) -> Plan:
    """Return the executions to create for a task at a time, and its next slot.

    If the misfire policy runs no slot, one execution with the status `skipped` represents them in the
    history.
    """
    aware("now", now)
    expression = task.schedule or ""
    if task.next_run_at is None:
        return Plan((), 0, first_slot(expression, task.timezone, after=now))
    found = due(expression, task.timezone, first=task.next_run_at, now=now)
    chosen = run(
        found,
        now,
        policy=task.misfire_policy,
        grace_seconds=task.misfire_grace_seconds,
        max_catchup=task.max_catchup,
    )
    if not chosen.slots:
        skipped = Slot(task.id, found.slots[-1], chosen.dropped - 1, exclusive=False, skipped_at=now)
        return Plan([skipped], chosen.dropped, found.next)
    exclusive = task.overlap_policy is OverlapPolicy.SKIP
    slots = [
        Slot(task.id, slot, chosen.dropped if number == 0 else 0, exclusive)
        for number, slot in enumerate(chosen.slots)
    ]
    return Plan(slots, chosen.dropped, found.next)


def _latest(
    expression: str, timezone: str, width: timedelta, first: datetime, now: datetime
) -> Sequence[datetime]:
    """Return the last `MAX_SLOTS` slots up to `now`; there are more since `first`."""
    while True:
        start = max(first, now - width)
        found = list(takewhile(lambda slot: slot <= now, slots(expression, timezone, after=start)))
        if len(found) >= MAX_SLOTS or start == first:
            return found[-MAX_SLOTS:]
        width *= 2


def _later(found: CronSim, last: datetime) -> Iterator[datetime]:
    """Yield the times of CronSim in UTC, in ascending order.

    For an hour that occurs twice CronSim returns to its first occurrence.
    """
    try:
        for time in found:
            slot = time.astimezone(UTC)
            if slot > last:
                last = slot
                yield slot
    except OverflowError:  # the end of the range of datetime
        return


def _parsed(expression: str, base: datetime) -> CronSim:
    reason = "it does not have five fields"
    written = _NICKNAMES.get(expression.strip().lower(), expression)
    fields = written.split()
    if len(written) <= _MAX_LENGTH and len(fields) == 5:
        try:
            for name, last, field in zip(_FIELDS, _LAST, fields, strict=True):
                _check_steps(name, last, field)
            return CronSim(written, base)
        except (CronSimError, ValueError) as error:
            reason = str(error).lower()
    elif written.lstrip().startswith("@"):
        reason = f"expected one of {', '.join(_NICKNAMES)}"
    raise InvalidCron(
        f"schedule: {expression[:60]!r} is not a cron expression ({reason}); write minute, hour, day of month, month"
        " and day of week, such as '30 2 * * *' for 02:30 each day"
    )


def _check_steps(name: str, last: int, field: str) -> None:
    """Refuse a step that exceeds its range: `*/90` would be once an hour instead of each 90 minutes."""
    for term in field.split(","):
        span, slash, step = term.partition("/")
        if not slash or not step.isascii() or not step.isdigit():
            continue
        if span.startswith(("L", "l")):
            raise ValueError(f"a step of the last {name}")
        start, dash, end = span.partition("-")
        low = int(start) if start.isascii() and start.isdigit() else 0
        high = int(end) if dash and end.isascii() and end.isdigit() else last
        if int(step) > max(high - low, 1):
            raise ValueError(f"the step {step[:20]} of the {name} is more than its range")


def zone(name: str) -> tzinfo:
    """Return the time zone of an IANA name.

    Raises:
        InvalidCron: The name is not one, for example that of the local time of this machine.
    """
    if name == "UTC":
        return UTC
    try:
        # Files of the database that are not IANA zones: the zone of this machine, a placeholder, and other scales.
        if name.lower() in _NO_ZONES or name.lower().startswith(("posix/", "right/")):
            raise ValueError
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidCron(
            f"timezone: {name[:60]!r} is not in this machine's time zone database; use an IANA name such as"
            " 'Europe/Prague', or install the package tzdata"
        ) from None
