"""Cron expressions: the slots of a schedule, and which are run after a downtime.

An expression has five fields: minute, hour, day of month, month, day of week; or it is one of @yearly, @annually,
@monthly, @weekly, @daily, @midnight and @hourly. It is read in an IANA time zone, as Debian's cron reads it:

- Daylight saving begins: a fixed time that the clock jumps over (02:30 in Europe/Prague on 2026-03-29) has its
  slot at the first moment after the jump (03:00); several of them in one jump have one slot.
- Daylight saving ends: a fixed time that the clock passes twice has one slot, the first.
- When the field of the minute or of the hour begins with `*`, the schedule follows the clock instead: what it
  jumps over has no slot, what it passes twice has two.
- A step that is longer than its range is refused: `*/90` as a minute would be once an hour.
- 29 February has its slot in leap years. A date that never comes is refused.
- Day of month and day of week: both must match when either begins with `*`, otherwise one is enough.

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
"""How many slots of a task are looked at in one go; of more, the latest are, and the count says no more than this."""

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
    """The slots of a schedule that have come."""

    slots: Sequence[datetime]
    """The latest of them, at most `MAX_SLOTS`, the earliest first."""
    earlier: int
    """How many came before these; no more than `MAX_SLOTS` are counted."""
    next: datetime | None
    """The first one that has not come."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a misfire policy makes of the slots that are due."""

    slots: Sequence[datetime]
    """The slots that are run, the earliest first."""
    dropped: int
    """How many are not."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An execution that is to be filed."""

    task_id: int
    scheduled_at: datetime
    missed_slots: int
    """How many slots before it are dropped."""
    exclusive: bool
    skipped_at: datetime | None = None
    """When it was found that it is not to be run; None is that it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a task whose slot has come."""

    slots: Sequence[Slot]
    dropped: int
    next_run_at: datetime | None


def slots(expression: str, timezone: str, *, after: datetime) -> Iterator[datetime]:
    """The slots later than `after`; they end when the next one is more than fifty years away.

    Raises InvalidCron for an expression or a time zone that is none, InvalidInputError for a time without zone.
    """
    aware("after", after)
    for name, text in (("schedule", expression), ("timezone", timezone)):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidCron(f"{name}: expected text, got {kind(text)}")
    return _later(_parsed(expression, after.astimezone(zone(timezone))), after.astimezone(UTC))


def first_slot(expression: str, timezone: str, *, after: datetime) -> datetime:
    """The first slot later than `after`; raises InvalidCron when there is none."""
    found = next(slots(expression, timezone, after=after), None)
    if found is None:
        raise InvalidCron(f"schedule: {expression[:60]!r} names a date that does not come; use one that does")
    return found


def next_runs(
    expression: str, timezone: str = "UTC", *, after: datetime | None = None, count: int = 5
) -> Sequence[datetime]:
    """The next `count` slots, at most `MAX_SLOTS`; after now by this machine's clock, unless `after` is given."""
    whole("count", count)
    if not 1 <= count <= MAX_SLOTS:
        raise InvalidInputError(f"count: expected 1 to {MAX_SLOTS}, got {count}")
    return list(islice(slots(expression, timezone, after=after or datetime.now(UTC)), count))


def due(expression: str, timezone: str, *, first: datetime, now: datetime) -> Due:
    """The slots from `first`, which is taken for one as it is stored, to `now`."""
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
    """Which slots that are due are run.

    A slot is missed when it is more than `grace_seconds` past. When none is, all are run, late as they are.
    Otherwise: `skip` runs those that are not missed; `latest` runs one, the last; `all` runs them all, but of the
    missed ones the last `max_catchup`.
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
    """What is to be filed for a task at this time, and its next slot.

    When the misfire policy runs no slot at all, one execution that is `skipped` stands for them in the history.
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
    filed = [
        Slot(task.id, slot, chosen.dropped if number == 0 else 0, exclusive)
        for number, slot in enumerate(chosen.slots)
    ]
    return Plan(filed, chosen.dropped, found.next)


def _latest(
    expression: str, timezone: str, width: timedelta, first: datetime, now: datetime
) -> Sequence[datetime]:
    """The last `MAX_SLOTS` slots up to `now`, of more that there are since `first`."""
    while True:
        start = max(first, now - width)
        found = list(takewhile(lambda slot: slot <= now, slots(expression, timezone, after=start)))
        if len(found) >= MAX_SLOTS or start == first:
            return found[-MAX_SLOTS:]
        width *= 2


def _later(found: CronSim, last: datetime) -> Iterator[datetime]:
    """CronSim's times in UTC, ascending: it goes back to the first pass of an hour that the clock passes twice."""
    try:
        for time in found:
            slot = time.astimezone(UTC)
            if slot > last:
                last = slot
                yield slot
    except OverflowError:  # the end of the calendar
        return


def _parsed(expression: str, base: datetime) -> CronSim:
    reason = "it has other than five fields"
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
        f"schedule: {expression[:60]!r} is no cron expression ({reason}); write minute, hour, day of month, month"
        " and day of week, such as '30 2 * * *' for 02:30 each day"
    )


def _check_steps(name: str, last: int, field: str) -> None:
    """Refuse a step that leaves its range at once: `*/90` would be once an hour, and not each 90 minutes."""
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
    """The time zone of an IANA name; raises InvalidCron for any other, such as that of this machine."""
    if name == "UTC":
        return UTC
    try:
        # Files of the database that name no place: this machine's zone, a placeholder, and other ways to count.
        if name.lower() in _NO_ZONES or name.lower().startswith(("posix/", "right/")):
            raise ValueError
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidCron(
            f"timezone: {name[:60]!r} is not in this machine's time zone database; use an IANA name such as"
            " 'Europe/Prague', or install the package tzdata"
        ) from None
