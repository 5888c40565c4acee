"""Up, down and up again: each revision undoes all that it does, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from sqlalchemy import URL

from alfred_db import migrate

from .catalog import (
    HEAD,
    REVISIONS,
    differences,
    dump,
    numbering,
    objects_in,
    prepare,
    run,
    snapshot,
    unlike,
    version,
)

Databases = Callable[[], URL]


def test_every_revision_goes_up_down_and_up(any_server: Databases) -> None:
    url = any_server()
    prepare(url)
    migrate.upgrade(url, REVISIONS[0])
    below = snapshot(url)
    for before, revision in pairwise(REVISIONS):
        migrate.upgrade(url, revision)
        above = snapshot(url)
        assert version(url) == revision
        migrate.downgrade(url, before)
        assert differences(below, snapshot(url)) == [], revision
        assert version(url) == before
        migrate.upgrade(url, revision)
        assert differences(above, snapshot(url)) == [], revision
        below = above
    assert version(url) == HEAD


def test_base_to_head_to_base_leaves_no_trace(any_server: Databases) -> None:
    url = any_server()
    prepare(url)
    run(url, "CREATE TABLE theirs (id int)", "GRANT SELECT ON theirs TO PUBLIC", "CREATE SCHEMA wm")
    before = snapshot(url)
    migrate.upgrade(url)
    at_head = snapshot(url)
    assert len(differences(before, at_head)) > 100
    migrate.downgrade(url, "base")
    assert differences(before, snapshot(url)) == []
    migrate.upgrade(url)
    assert differences(at_head, snapshot(url)) == []
    migrate.downgrade(url, "base")
    assert differences(before, snapshot(url)) == []


def test_an_empty_database_keeps_only_the_extensions_and_their_schema(any_server: Databases) -> None:
    url = any_server()
    before = snapshot(url)
    migrate.upgrade(url)
    at_head = snapshot(url)
    migrate.downgrade(url, "base")
    after = snapshot(url)
    homes = {row[2] for row in after["extensions"]}
    assert {row[0] for row in after["extensions"]} >= {"plpgsql", "vector"}
    assert {row[0] for row in after["schemas"]} - {row[0] for row in before["schemas"]} == homes & {
        "extensions"
    }
    kept = [
        line for line in differences(before, after) if not line.startswith(("+ extensions:", "+ schemas:"))
    ]
    assert kept == []
    migrate.upgrade(url)
    assert differences(at_head, snapshot(url)) == []
    migrate.downgrade(url, "base")
    assert differences(after, snapshot(url)) == []


def test_step_by_step_makes_what_one_go_makes(newest_and_oldest: Databases) -> None:
    at_once, by_steps = newest_and_oldest(), newest_and_oldest()
    migrate.upgrade(at_once)
    for revision in REVISIONS:
        migrate.upgrade(by_steps, revision)
    assert unlike(dump(at_once), dump(by_steps)) == []
    assert differences(snapshot(at_once), snapshot(by_steps)) == []


def test_head_to_base_to_head_makes_the_same(empty_url: URL) -> None:
    url = empty_url
    migrate.upgrade(url)
    before = dump(url)
    for revision in [*reversed(REVISIONS[:-1]), "base"]:
        migrate.downgrade(url, revision)
    assert version(url) is None
    migrate.upgrade(url)
    assert unlike(before, dump(url)) == []


# An upgrade makes the partitions of the months from now on, and a month may end between two of them


def dumped(*months: str, end: str = "{following}") -> dict[str, str]:
    """What a dump has of a log with partitions of these months and the one after them."""
    script = ""
    for month, after in pairwise(months):
        start, following = (f"{day.replace('_', '-')}-01 00:00:00+00" for day in (month, after))
        script += (
            f"--\n-- Name: events_{month}; Type: TABLE ATTACH; Schema: public; Owner: -\n--\n"
            f"ALTER TABLE ONLY public.events ATTACH PARTITION public.events_{month}"
            f" FOR VALUES FROM ('{start}') TO ('{end.format(following=following)}');\n"
        )
    return objects_in(script)


def test_the_months_of_partitions_are_compared_by_their_numbers() -> None:
    november, december = dumped("2026_11", "2026_12", "2027_01"), dumped("2026_12", "2027_01", "2027_02")
    assert unlike(november, december) == []
    assert unlike(november, dumped("2026_11", "2026_12")) != []
    assert unlike(november, dumped("2026_11", "2026_12", "2027_01", end="2026-12-15 00:00:00+00")) != []
    assert unlike(november, dumped("2026_11", "2026_12", "2027_01", end="2027-03-01 00:00:00+00")) != []

    names = ["events_2026_11_pkey", "events_2026_12_pkey", "broker_request_2026_12", "idx_2026", 7, None]
    assert list(map(numbering(names), names)) == [
        "events_month_0_pkey",
        "events_month_1_pkey",
        "broker_request_month_0",
        "idx_2026",
        7,
        None,
    ]
