"""What searches by words know about all texts: read by one call at a time, and no more of it sent than is needed."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import URL, event, text

from alfred_db import Database
from alfred_db.execution._sync.hybrid_search import TextStatistics, _statistics


def test_other_calls_use_what_is_known_while_one_reads_it_anew(database_url: URL) -> None:
    sampled: list[str] = []
    with Database(database_url) as db:
        with db.begin() as uow:
            uow.documents.hybrid_search("tea", None)
        kept = _statistics[db.engine]
        for key, (known, _) in kept.items():
            kept[key] = (known, 0.0)

        def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "TABLESAMPLE" not in statement:
                return
            sampled.append(statement)
            if len(sampled) == 1:
                with db.begin() as other:
                    other.documents.hybrid_search("tea", None)

        event.listen(db.engine, "before_cursor_execute", look)
        with db.begin() as uow:
            uow.documents.hybrid_search("tea", None)
    assert len(sampled) == 1


def test_a_search_sends_the_common_words_that_begin_as_its_own(database_url: URL) -> None:
    with Database(database_url) as db, db.begin() as uow:
        uow.documents.add_many([{"content": f"happy ponies run on day {number}"} for number in range(40)])
        uow.session.execute(text("ANALYZE documents"))
        uow.documents.hybrid_search("tea", None)
        ((known, _),) = _statistics[db.engine].values()
    assert isinstance(known, TextStatistics)
    given = known.parameters("What makes PONIES (and a pony) Happy?")
    assert json.loads(given["common"]) == {"happi": 1.0, "poni": 1.0}
    assert given["rows"] == 40.0
    assert json.loads(known.parameters("day-trips and runners")["common"]) == {"day": 1.0, "run": 1.0}
    assert known.parameters("tea & <-> | ' " + "x" * 10_000)["common"] == "{}"
