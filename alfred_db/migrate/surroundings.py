"""Which statements of the revisions a database runs: all, or those of a part that it has alone or has elsewhere.

The revisions are frozen, so their statements are chosen where Alembic executes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["CATALOG", "choose_statements", "kept"]

CATALOG = "brk_registry"
"""The schema of the broker's catalog."""

_KEY_OF_LOG = re.compile(
    r",\s*CONSTRAINT fk_broker_request_hosted_model_id FOREIGN KEY[^,]*ON DELETE SET NULL"
)


def choose_statements(impl: Any, attributes: Mapping[str, Any]) -> None:
    """Have Alembic execute only the statements that concern this database.

    Args:
        impl: What executes the statements of a run.
        attributes: Of Alembic's configuration: `target` (`broker`: the database has the broker's catalog alone), `linked`
            (the catalog is in another database) and `citus`.
    """
    if attributes.get("target") is None and not {"linked", "citus"} & set(attributes):
        return
    execute: Callable[..., None] = impl.execute

    def chosen(sql: Any, execution_options: Any = None) -> None:
        if not isinstance(sql, str):
            execute(sql, execution_options=execution_options)
        elif (rest := kept(sql, attributes)) is not None:
            execute(rest, execution_options=execution_options)

    impl.execute = chosen


def kept(sql: str, attributes: Mapping[str, Any]) -> str | None:
    """Return the statement as this database runs it, or None if what it makes belongs to another one.

    Where the catalog is in another database, and on Citus, the request log cannot have the foreign key to it that a later
    revision drops everywhere.
    """
    catalog = CATALOG in sql and "broker_request" not in sql  # the log refers to it
    if attributes.get("target") == "broker":
        return sql if catalog else None
    if "linked" in attributes and catalog:
        return None
    return _KEY_OF_LOG.sub("", sql)
