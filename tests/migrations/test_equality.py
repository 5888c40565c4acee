"""What the revisions make is what the models say, in everything that a dump shows."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import URL, text

from alfred_db import migrate
from alfred_db.models import Base
from alfred_db.models.functions import OWN_FUNCTIONS

from .catalog import dump, engine_of, unlike

Databases = Callable[[], URL]


def test_alembic_would_generate_nothing(any_server: Databases) -> None:
    url = any_server()
    migrate.upgrade(url)
    migrate.check(url)


def test_alembic_would_generate_nothing_for_a_tenant(database_url: URL) -> None:
    migrate.check(database_url, schema="acme")


def test_the_migrated_database_is_the_one_of_the_models(any_server: Databases) -> None:
    migrated, modelled = any_server(), any_server()
    migrate.upgrade(migrated)
    migrate.upgrade(modelled, "alfred_0003_tenant_schemas")
    with engine_of(migrated).connect() as connection:  # a revision after the third may have made one
        functions = [
            connection.scalar(text("SELECT pg_get_functiondef(CAST(:name AS regprocedure))"), {"name": name})
            for name in OWN_FUNCTIONS
        ]
    with engine_of(modelled).begin() as connection:
        for function in functions:
            connection.exec_driver_sql(str(function).replace("%", "%%"))
    Base.metadata.create_all(engine_of(modelled))

    def without_functions(objects: dict[str, str]) -> dict[str, str]:
        """Functions are no part of the models, and a later revision replaces some."""
        return {name: body for name, body in objects.items() if "Type: FUNCTION" not in name}

    first, second = dump(migrated), dump(modelled)
    assert set(first) == set(second)
    assert unlike(without_functions(first), without_functions(second)) == []


def test_a_tenant_is_the_default_tenant_in_one_schema(database_url: URL) -> None:
    """Its objects have the same names and texts, when the schemas of both are left out."""

    def plain(objects: dict[str, str]) -> dict[str, str]:
        homes = ("public", "wm", "entity", "brk_tracking", "acme")
        found: dict[str, str] = {}
        for name, body in objects.items():
            if "Type: SCHEMA" in name or "Type: EXTENSION" in name or "Type: COMMENT" in name:
                continue
            schema = name.rpartition("Schema: ")[2]
            if schema in homes:
                for home in homes:
                    name = name.replace(f"Schema: {home}", "Schema: home")
                    body = body.replace(f"{home}.", "home.")
                found[name] = body
        return found

    default = plain(dump(database_url, "public", "wm", "entity", "brk_tracking"))
    acme = plain(dump(database_url, "acme"))
    for home in ("public", "acme"):
        assert any("home.tasks" in body for body in (default if home == "public" else acme).values())
    extras = {name for name in default if "Type: FUNCTION" in name or "Type: TYPE" in name}
    assert unlike({k: v for k, v in default.items() if k not in extras}, acme) == []
