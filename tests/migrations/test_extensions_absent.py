"""What the schema holds of extensions: only `vector`, and what stands beside it where it is installed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest
from sqlalchemy import URL, Table
from sqlalchemy.schema import CreateTable

from alfred_db import Database, embedded, migrate
from alfred_db.cli.doctor import examine
from alfred_db.models import Base

from .catalog import column, libpq, run, scalar

DEPENDENT = """
    SELECT d.classid::regclass || ' ' || pg_describe_object(d.classid, d.objid, d.objsubid) || ' needs '
        || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
    FROM pg_depend d JOIN pg_depend e ON e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e'
    JOIN pg_extension ON pg_extension.oid = e.refobjid
    WHERE extname NOT IN ('vector', 'plpgsql') AND d.deptype <> 'e' AND d.classid <> 'pg_rewrite'::regclass
        AND NOT EXISTS (SELECT FROM pg_depend o WHERE o.classid = d.classid AND o.objid = d.objid AND o.deptype = 'e')
    ORDER BY 1
"""
"""What is no extension's, and needs something that is another extension's than `vector`; PL/pgSQL is PostgreSQL's own."""


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=lambda table: table.fullname)
def test_no_default_of_the_models_calls_a_function_outside_of_postgresql(table: Table) -> None:
    """A function of ours, or of an extension, is named with its schema."""
    for each in table.c:
        default = str(getattr(each.server_default, "arg", ""))
        assert not re.search(r"\w+\.\w+\(|uuid_generate|digest\(|hmac\(", default), (each, default)
    assert "uuid_generate" not in str(CreateTable(table))


@pytest.mark.parametrize("on", ["embedded", "full"])
def test_only_trigram_indexes_need_another_extension(on: str, new_database: Callable[..., URL]) -> None:
    url = new_database(on=on)
    migrate.upgrade(url)
    migrate.upgrade(url, schema="acme")
    needed = [line for line in column(url, DEPENDENT) if "_trgm" not in line]
    assert needed == []
    defaults = column(
        url,
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum"
        " WHERE atttypid = 'uuid'::regtype AND attname = 'id'",
    )
    assert set(defaults) == {"gen_random_uuid()"}
    assert len(defaults) == 15  # eight of the default tenant and the shared ones, seven of acme
    assert scalar(url, "SELECT extensions.uuid_generate_v4() IS NOT NULL")  # for raw SQL


def test_a_dump_is_restored_where_the_extensions_are_absent(
    new_database: Callable[..., URL],
) -> None:
    source, target = new_database(on="full"), new_database()
    assert scalar(source, "SELECT count(*) FROM pg_available_extensions WHERE name = 'uuid-ossp'") == 1
    absent = column(
        target,
        "SELECT name FROM unnest(ARRAY['uuid-ossp', 'pgcrypto', 'pg_trgm', 'pg_stat_statements']) AS name"
        " WHERE name NOT IN (SELECT available.name FROM pg_available_extensions AS available)",
    )
    assert "uuid-ossp" in absent
    migrate.upgrade(source)
    with Database(source) as database, database.begin() as uow:
        uow.tasks.enqueue("KEPT", task_id="kept")
    dumped = subprocess.run(
        [str(embedded.binaries() / "pg_dump"), *libpq(source), "--no-owner"], capture_output=True, text=True
    )
    assert dumped.returncode == 0, dumped.stderr
    restored = subprocess.run(
        [str(embedded.binaries() / "psql"), *libpq(target), "--no-psqlrc", "--quiet"],
        input=dumped.stdout,
        capture_output=True,
        text=True,
    )
    errors = [line for line in restored.stderr.splitlines() if "ERROR" in line]
    assert errors
    # The pg_dump of 18.6 writes pg_attver, which no server takes.
    expected = rf"extension \"({'|'.join(absent)})\"|parameter \"pg_attver\""
    assert all(re.search(expected, line) for line in errors), errors
    with Database(target) as database:
        database.verify()
        migrate.check(target)
        with database.begin() as uow:
            kept = uow.tasks.get_by_task_id("kept")
            assert kept is not None
            assert uow.tasks.enqueue("NEW")[0].id != kept.id
    report = examine(target)
    assert report.errors == []
    (line,) = [
        line for line in report.warnings if line.startswith("extensions.uuid_generate_v4() is missing")
    ]
    run(target, line[line.index("CREATE FUNCTION") :].removesuffix(";"))
    assert not [line for line in examine(target).warnings if "uuid_generate_v4" in line]
