"""`alfred-db queues`: settings are listed, changed one by one, and deleted."""

from __future__ import annotations

import json

from click.testing import CliRunner
from sqlalchemy import URL

from alfred_db import Database, QueueRate
from alfred_db.cli import main
from alfred_db.telemetry.figures import PARTS


def run(database_url: URL, *arguments: str) -> tuple[int, str]:
    url = database_url.render_as_string(hide_password=False)
    result = CliRunner().invoke(main, ["queues", *arguments, "--url", url])
    return result.exit_code, result.output


def test_a_queue_from_its_first_setting_to_its_last(database_url: URL) -> None:
    assert run(database_url, "list") == (0, "no queue has settings\n")
    assert run(database_url, "pause", "gpu") == (0, "gpu: paused\n")
    set_ = ["set", "gpu", "--max-running", "5", "--rate", "100/60/7", "--ageing", "1.5"]
    assert run(database_url, *set_) == (0, "gpu: paused, max running 5, rate 100/60/7, ageing 1.5\n")
    changed = run(database_url, "set", "gpu", "--max-running-per-key", "1", "--rate", "9", "--ageing", "none")
    assert changed == (0, "gpu: paused, max running 5, max running per key 1, rate 9/60\n")
    with Database(database_url) as db, db.begin() as uow:
        found = uow.queues.get("gpu")
        assert found is not None
        assert (found.rate, found.ageing) == (QueueRate(9, 60.0), None)
        figures = {figure.name: figure.samples for figure in PARTS["queues"](uow)}
        assert figures["alfred_db_queue_paused"] == [(("gpu",), 1.0)]
        assert dict(figures["alfred_db_queue_limit"]) == {
            ("gpu", "running"): 5.0,
            ("gpu", "running_per_key"): 1.0,
            ("gpu", "per_second"): 0.15,
        }
        uow.tasks.enqueue("x", queue="gpu")
    code, listed = run(database_url, "list", "--json")
    assert code == 0
    (one,) = json.loads(listed)
    assert (one["name"], one["paused"], one["running"], one["rate"]) == ("gpu", True, 0, "9/60")
    assert "gpu" in run(database_url, "list")[1]
    assert run(database_url, "resume", "gpu")[1].startswith("gpu: open, max running 5")
    assert run(database_url, "delete", "gpu", "--yes") == (0, "deleted the settings of gpu\n")
    for words in (("delete", "gpu", "--yes"), ("resume", "gpu")):
        code, output = run(database_url, *words)
        assert code == 2
        assert "alfred-db: queue 'gpu': has no settings" in output


def test_what_is_no_limit_is_refused(database_url: URL) -> None:
    for option, value in (
        ("--max-running", "many"),
        ("--max-running", "1.5"),
        ("--max-running", "0"),
        ("--ageing", "soon"),
        ("--ageing", "-1"),
        ("--rate", "often"),
        ("--rate", "5/0"),
        ("--rate", "5/60/6"),
    ):
        code, output = run(database_url, "set", "gpu", option, value)
        assert code == 2, (option, value, output)
        assert "expected" in output
    assert run(database_url, "list") == (0, "no queue has settings\n")
