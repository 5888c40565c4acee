"""A database of the platforms: their own tables, filled with rows as their applications leave them."""

from __future__ import annotations

from pathlib import Path

import psycopg
from sqlalchemy import URL

HERE = Path(__file__).parent

BEFORE = """
    CREATE SCHEMA extensions;
    CREATE EXTENSION vector;
    CREATE FUNCTION extensions.uuid_generate_v4() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';
    CREATE SCHEMA auth; CREATE SCHEMA wm; CREATE SCHEMA entity; CREATE SCHEMA brk_tracking; CREATE SCHEMA brk_registry;
"""


def create(url: URL, rows: int) -> None:
    """Make the tables in an empty database, and fill the large ones with this many rows each."""
    with psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        connection.execute(BEFORE)
        connection.execute((HERE / "schema.sql").read_text(encoding="utf-8"))
        if rows:
            connection.execute((HERE / "rows.sql").read_text(encoding="utf-8").replace("{n}", str(rows)))
