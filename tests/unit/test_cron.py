"""When a schedule has its slots, against a reckoning of its own: every minute, looked at one by one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinned import some

from alfred_db import MisfirePolicy, OverlapPolicy, ScheduledTask, cron
from alfred_db.errors import InvalidCron, InvalidInputError

PRAGUE = "Europe/Prague"
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SPRING = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 24, 12, 0, tzinfo=UTC)


def local(expression: str, timezone: str, after: datetime, count: int) -> Sequence[str]:
    found = cron.next_runs(expression, timezone, after=after, count=count)
    return [slot.astimezone(ZoneInfo(timezone)).strftime("%m-%d %H:%M %Z") for slot in found]


def test_slots_are_in_utc_and_later_than_the_base() -> None:
    assert cron.next_runs("0 2 * * *", PRAGUE, after=NOW, count=2) == [
        datetime(2026, 6, 2, 0, 0, tzinfo=UTC),
        datetime(2026, 6, 3, 0, 0, tzinfo=UTC),
    ]
    slot = datetime(2026, 6, 2, 0, 0, tzinfo=UTC)
    assert cron.first_slot("0 2 * * *", PRAGUE, after=slot) > slot
    assert cron.first_slot("0 2 * * *", PRAGUE, after=slot - timedelta(microseconds=1)) == slot


def test_a_fixed_time_in_the_gap_runs_when_the_gap_ends() -> None:
    assert local("30 2 * * *", PRAGUE, SPRING, 2) == ["03-29 03:00 CEST", "03-30 02:30 CEST"]
    assert local("0,30 2 * * *", PRAGUE, SPRING, 2) == ["03-29 03:00 CEST", "03-30 02:00 CEST"]
    assert local("0 2,3 * * *", PRAGUE, SPRING, 2) == ["03-29 03:00 CEST", "03-30 02:00 CEST"]


def test_a_fixed_time_in_the_overlap_runs_in_its_first_pass() -> None:
    assert local("30 2 * * *", PRAGUE, AUTUMN, 2) == ["10-25 02:30 CEST", "10-26 02:30 CET"]


def test_a_base_in_the_second_pass_does_not_go_back_to_the_first() -> None:
    second_pass = datetime(2026, 10, 25, 1, 15, tzinfo=UTC)  # 02:15 CET
    assert local("30 2 * * *", PRAGUE, second_pass, 1) == ["10-26 02:30 CET"]


def test_a_schedule_that_follows_the_clock_has_every_hour_of_it() -> None:
    day = timedelta(hours=30)
    hourly = [
        slot for slot in islice(cron.slots("0 * * * *", PRAGUE, after=SPRING), 30) if slot <= SPRING + day
    ]
    assert len(hourly) == 30
    assert local("*/30 2 * * *", PRAGUE, SPRING, 1) == ["03-30 02:00 CEST"]
    assert local("*/30 2 * * *", PRAGUE, AUTUMN, 4) == [
        "10-25 02:00 CEST",
        "10-25 02:30 CEST",
        "10-25 02:00 CET",
        "10-25 02:30 CET",
    ]


def test_the_29th_of_february_comes_in_leap_years() -> None:
    found = cron.next_runs("0 0 29 2 *", after=NOW, count=3)
    assert [slot.year for slot in found] == [2028, 2032, 2036]
    around_2100 = cron.next_runs("0 0 29 2 *", after=datetime(2096, 3, 1, tzinfo=UTC), count=1)
    assert around_2100[0].year == 2104


def test_days_of_month_and_of_week() -> None:
    either = cron.next_runs("0 0 13 * FRI", after=NOW, count=4)
    assert [slot.day for slot in either] == [5, 12, 13, 19]
    both = cron.next_runs("0 0 13 * */5", after=NOW, count=2)
    assert all(slot.day == 13 for slot in both)
    last = cron.next_runs("0 0 L * *", after=NOW, count=2)
    assert [(slot.month, slot.day) for slot in last] == [(6, 30), (7, 31)]


# An independent reckoning: the local time of each minute of UTC


def follows_the_clock(expression: str) -> bool:
    minute, hour, *_ = expression.split()
    return minute.startswith("*") or hour.startswith("*")


def expected(expression: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    minute, hour, *_ = expression.split()
    minutes, hours = set(numbers(minute, 60)), set(numbers(hour, 24))
    found: list[datetime] = []
    passed: set[datetime] = set()
    previous = (start - timedelta(hours=3)).astimezone(zone).replace(tzinfo=None)
    moment = start - timedelta(hours=3)
    while moment < end:
        moment += timedelta(minutes=1)
        wall = moment.astimezone(zone).replace(tzinfo=None)
        if follows_the_clock(expression):
            matches = wall.hour in hours and wall.minute in minutes
        else:
            jumped: list[datetime] = []
            step = previous + timedelta(minutes=1)
            while step <= wall:
                jumped.append(step)
                step += timedelta(minutes=1)
            matches = any(
                time.hour in hours and time.minute in minutes and time not in passed for time in jumped
            )
            passed.update(jumped)
            previous = max(previous, wall) if wall >= previous else previous
        if matches and start < moment <= end:
            found.append(moment)
    return found


def numbers(field: str, count: int) -> Sequence[int]:
    if field == "*":
        return range(count)
    if field.startswith("*/"):
        return range(0, count, int(field[2:]))
    return [int(part) for part in field.split(",")]


ZONES = [
    "UTC",
    PRAGUE,
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Africa/Cairo",
    "Asia/Beirut",
]


EXPRESSIONS = [
    "* * * * *",
    "*/7 * * * *",
    "0 * * * *",
    "30 2 * * *",
    "0,45 0,2 * * *",
    "15 */2 * * *",
    "*/20 0,2 * * *",
]
STARTS = ["2026-03-07", "2026-03-27", "2026-04-23", "2026-10-23", "2026-10-31"]
"""Days before a change of the clocks in one of the zones."""


@pytest.mark.parametrize(
    ("zone", "expression", "start"),
    [
        (zone, expression, start)
        for zone in ZONES
        for start in STARTS
        for expression in some(EXPRESSIONS, 3, zone, start)
    ],
)
def test_slots_agree_with_the_reckoning(zone: str, expression: str, start: str) -> None:
    after = datetime.fromisoformat(f"{start}T00:00+00:00")
    end = after + timedelta(days=3)
    found: list[datetime] = []
    for slot in cron.slots(expression, zone, after=after):
        if slot > end:
            break
        found.append(slot)
    assert found == expected(expression, ZoneInfo(zone), after, end)


@settings(max_examples=200, deadline=None)
@given(
    expression=st.sampled_from(["*/5 * * * *", "30 2 * * *", "0 */3 * * *", "0,15 1,2 * * 0", "0 0 1 * *"]),
    zone=st.sampled_from(ZONES),
    minutes=st.integers(0, 60 * 24 * 365 * 3),
)
def test_one_slot_after_the_other_is_the_same_as_all_at_once(
    expression: str, zone: str, minutes: int
) -> None:
    after = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    at_once = cron.next_runs(expression, zone, after=after, count=6)
    one_by_one: list[datetime] = []
    base = after
    for _ in range(6):
        base = cron.first_slot(expression, zone, after=base)
        one_by_one.append(base)
    assert one_by_one == at_once
    assert sorted(set(at_once)) == at_once


# What is refused

INVALID = [
    "",
    " ",
    "* * * *",
    "* * * * * *",
    "0 0 0 * * * 2026",
    "@reboot",
    "@every 5m",
    "*/90 * * * *",
    "*/60 * * * *",
    "5/90 * * * *",
    "10-20/30 * * * *",
    "0,*/70 * * * *",
    "0 */24 * * *",
    "0 0 */32 * *",
    "0 0 * */13 *",
    "0 0 * * */8",
    "0 0 L/2 * *",
    "60 * * * *",
    "* 24 * * *",
    "* * 0 * *",
    "* * 32 * *",
    "* * * 0 *",
    "* * * 13 *",
    "* * * * 8",
    "-1 * * * *",
    "*/0 * * * *",
    "*/-5 * * * *",
    "5-1 * * * *",
    "1,,2 * * * *",
    "1, * * * *",
    "a * * * *",
    "* * * FOO *",
    "* * * * MONDAY",
    "1.5 * * * *",
    "٣ * * * *",
    "*/2/3 * * * *",
    "* * * * 1#6",
    "* * * * L",
    "* * W * *",
    "0 0 30 2 *",
    "0 0 31 4,6,9,11 *",
    "0 0 30,LW 2 */7",
    "9" * 190 + " * * * *",
    "9" * 5000 + " * * * *",
    "1," * 3000 + "1 * * * *",
    "' OR 1=1 -- * * *",
    "* * * * *\0",
    "%s %s %s %s %s",
]


@pytest.mark.parametrize("expression", INVALID, ids=lambda expression: repr(expression[:20]))
def test_an_expression_that_names_no_time_is_refused(expression: str) -> None:
    with pytest.raises(InvalidCron, match="schedule: "):
        cron.first_slot(expression, PRAGUE, after=NOW)


@given(expression=st.text(alphabet="0123456789*,-/#LW MONFRI?@", max_size=40) | st.text(max_size=20))
def test_anything_else_is_a_slot_or_invalid(expression: str) -> None:
    try:
        slot = cron.first_slot(expression, PRAGUE, after=NOW)
    except InvalidCron:
        return
    assert slot > NOW


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "Europe",
        "Mars/Olympus",
        "../../etc/passwd",
        "/etc/localtime",
        "UTC\0",
        "\ud800",
        "+02:00",
        "x" * 5000,
    ],
)
def test_a_time_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(InvalidCron, match=r"timezone: .* use an IANA name"):
        cron.first_slot("* * * * *", zone, after=NOW)


def test_other_arguments_are_checked() -> None:
    with pytest.raises(InvalidInputError, match="time without time zone"):
        cron.next_runs("* * * * *", after=datetime(2026, 1, 1))
    for count in (0, -1, cron.MAX_SLOTS + 1):
        with pytest.raises(InvalidInputError, match="count: expected 1 to 1000"):
            cron.next_runs("* * * * *", count=count)
    assert cron.next_runs("* * * * *", count=1)[0] > datetime.now(UTC)


def test_the_end_of_the_calendar_is_the_end_of_the_slots() -> None:
    assert len(cron.next_runs("0 0 1 1 *", after=datetime(9990, 1, 1, tzinfo=UTC), count=100)) <= 9
    with pytest.raises(InvalidCron, match="never occurs"):
        cron.first_slot("0 0 31 12 *", PRAGUE, after=datetime(9999, 12, 31, 12, tzinfo=UTC))


# What is due


def test_slots_are_due_from_the_stored_one_to_now() -> None:
    first = NOW - timedelta(minutes=3)
    found = cron.due("* * * * *", "UTC", first=first, now=NOW)
    assert list(found.slots) == [first + timedelta(minutes=number) for number in range(4)]
    assert (found.earlier, found.next) == (0, NOW + timedelta(minutes=1))


def test_a_stored_slot_counts_whatever_the_schedule() -> None:
    first = NOW - timedelta(seconds=17)
    found = cron.due("0 3 * * *", "UTC", first=first, now=NOW)
    assert list(found.slots) == [first]
    assert found.next == datetime(2026, 6, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize("expression", ["* * * * *", "*/5 9-16 * * 1-5", "30 2 * * *"])
def test_of_very_many_slots_the_latest_are_looked_at(expression: str) -> None:
    first = cron.first_slot(expression, PRAGUE, after=NOW - timedelta(days=5000))
    found = cron.due(expression, PRAGUE, first=first, now=NOW)
    assert (len(found.slots), found.earlier) == (cron.MAX_SLOTS, cron.MAX_SLOTS)
    assert found.next == cron.first_slot(expression, PRAGUE, after=NOW)
    assert list(found.slots) == sorted(set(found.slots))
    assert cron.first_slot(expression, PRAGUE, after=found.slots[-1]) == found.next
    again = list(islice(cron.slots(expression, PRAGUE, after=found.slots[0]), cron.MAX_SLOTS - 1))
    assert list(found.slots[1:]) == again


def decide(
    minutes: int, policy: MisfirePolicy, *, grace: int = 60, max_catchup: int = 100
) -> tuple[list[int], int]:
    """How many minutes ago the slots are that are run, of one each minute since so many minutes ago."""
    found = cron.due("* * * * *", "UTC", first=NOW - timedelta(minutes=minutes), now=NOW)
    chosen = cron.run(found, NOW, policy=policy, grace_seconds=grace, max_catchup=max_catchup)
    return [int((NOW - slot).total_seconds() // 60) for slot in chosen.slots], chosen.dropped


@pytest.mark.parametrize("policy", MisfirePolicy)
def test_slots_that_are_merely_late_are_all_run(policy: MisfirePolicy) -> None:
    assert decide(1, policy) == ([1, 0], 0)
    assert decide(5, policy, grace=300) == ([5, 4, 3, 2, 1, 0], 0)


def test_missed_slots_are_dropped_merged_or_made_up_for() -> None:
    assert decide(10, MisfirePolicy.SKIP) == ([1, 0], 9)
    assert decide(10, MisfirePolicy.SKIP, grace=0) == ([0], 10)
    assert decide(10, MisfirePolicy.LATEST) == ([0], 10)
    assert decide(10, MisfirePolicy.ALL) == (list(range(10, -1, -1)), 0)
    assert decide(10, MisfirePolicy.ALL, max_catchup=3) == ([4, 3, 2, 1, 0], 6)
    assert decide(5000, MisfirePolicy.LATEST) == ([0], cron.MAX_SLOTS)
    slots, dropped = decide(5000, MisfirePolicy.ALL, max_catchup=1000)
    assert (len(slots), dropped) == (1000, 1000)


def test_a_plan_has_a_skipped_execution_when_nothing_is_run() -> None:
    task = ScheduledTask(
        id=7,
        schedule="0 * * * *",
        timezone="UTC",
        next_run_at=NOW - timedelta(hours=3, minutes=30),
        misfire_policy=MisfirePolicy.SKIP,
        misfire_grace_seconds=60,
        max_catchup=100,
        overlap_policy=OverlapPolicy.SKIP,
    )
    now = NOW - timedelta(minutes=30)
    plan = cron.plan(task, now)
    assert plan.dropped == 4
    assert plan.next_run_at == NOW
    assert plan.slots == [cron.Slot(7, NOW - timedelta(hours=1), 3, exclusive=False, skipped_at=now)]


@pytest.mark.parametrize(
    ("nickname", "expression"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@Midnight", "0 0 * * *"),
        (" @hourly ", "0 * * * *"),
    ],
)
def test_a_nickname_is_the_expression_that_cron_makes_of_it(nickname: str, expression: str) -> None:
    assert cron.next_runs(nickname, PRAGUE, after=NOW) == cron.next_runs(expression, PRAGUE, after=NOW)


@pytest.mark.parametrize(
    "expression", ["*/59 * * * *", "0 */23 * * *", "0 0 */31 * *", "0 0 1/1 * *", "59/1 * * * *"]
)
def test_a_step_within_its_range_is_taken(expression: str) -> None:
    assert cron.next_runs(expression, after=NOW, count=1)


@pytest.mark.parametrize(
    "name",
    [
        "localtime",
        "LOCALTIME",
        "Factory",
        "posixrules",
        "right/UTC",
        "posix/Europe/Prague",
        "Europe",
        "",
        "a\0",
    ],
)
def test_what_names_no_place_is_no_time_zone(name: str) -> None:
    with pytest.raises(InvalidCron, match="timezone: "):
        cron.first_slot("0 0 * * *", name, after=NOW)
