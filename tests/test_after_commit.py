"""Listeners to `after_commit` are called when the transaction has ended, whichever method it consists of."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from injection.ground import build
from injection.specimens import SPECIMENS
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, event
from sqlalchemy.orm import Session

from alfred_db import AlfredDBError, Database
from alfred_db.engine.session import DirectSession


def test_no_method_is_reported_before_its_commit(database_url: URL, tmp_path: Path) -> None:
    open_at_report: set[str] = set()
    committed: set[str] = set()
    with Database(database_url) as database:
        with database.begin() as uow:
            ground = build(uow, tmp_path)
        for name, specimen in SPECIMENS.items():
            noun, _, method = name.partition(",")[0].partition(".")

            def report(session: Session, name: str = name) -> None:
                assert isinstance(session, DirectSession)
                if session.in_nested_transaction():  # released: SQLAlchemy calls this a commit, too
                    return
                driver = session.driver
                if driver is not None and driver.pgconn.transaction_status != TransactionStatus.IDLE:
                    open_at_report.add(name)
                committed.add(name)

            given = specimen(ground)
            with suppress(AlfredDBError), database.begin() as uow:
                event.listen(uow.session, "after_commit", report)
                getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
    assert not open_at_report
    assert len(committed) > len(SPECIMENS) / 2
