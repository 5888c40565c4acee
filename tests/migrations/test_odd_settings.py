"""Migrations where a role or a database has other settings than usual: they make the same, and go all the way back."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import URL

from alfred_db import Database, migrate

from .catalog import HEAD, differences, run, snapshot, version

ODD = {
    "client_encoding": "LATIN1",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kolkata",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "extra_float_digits": "-3",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "exit_on_error": "on",
    "default_transaction_isolation": "serializable",
    "row_security": "off",
    "check_function_bodies": "off",
    "lock_timeout": "1ms",
    "plan_cache_mode": "force_generic_plan",
    "default_text_search_config": "pg_catalog.german",
}


def test_migrations_make_the_same_whatever_is_set(new_database: Callable[..., URL]) -> None:
    odd, usual = new_database(), new_database()
    run(odd, *(f"ALTER DATABASE {odd.database} SET {name} = '{value}'" for name, value in ODD.items()))
    for url in (odd, usual):
        migrate.upgrade(url)
        migrate.upgrade(url, schema="acme")
    for schema in (None, "acme"):
        migrate.check(odd, schema=schema)
        with Database(odd, schema=schema) as database:
            database.verify()
    run(odd, f"ALTER DATABASE {odd.database} RESET ALL")  # the catalog shows itself in these settings
    assert differences(snapshot(usual), snapshot(odd)) == []
    run(odd, *(f"ALTER DATABASE {odd.database} SET {name} = '{value}'" for name, value in ODD.items()))
    migrate.downgrade(odd, "base", schema="acme")
    assert version(odd) == HEAD
    migrate.downgrade(odd, "base")
    assert version(odd) is None
