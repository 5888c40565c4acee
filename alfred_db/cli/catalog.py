"""`alfred-db catalog`: the catalogs as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click

from .databases import connected, opened
from .groups import Group
from .options import json_option, migration_url_option, url_option
from .output import print_result

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["catalog"]


@click.group(cls=Group)
def catalog() -> None:
    """The catalogs that all tenants share: the broker's, and the model registry."""


@catalog.command()
@click.argument("file", type=click.File("rb"), required=False)
@url_option
@json_option
def load(file: BinaryIO | None, url: str | None, as_json: bool) -> None:
    """Load FILE (JSON; `-` for standard input), by default the one that comes with alfred-db.

    Known rows are brought up to date by their codes; what FILE does not name stays. A database that has the broker's
    catalog alone takes that, and not the model registry.
    """
    from ..interchange.catalog import read, seed
    from ..interchange.files import limited, utf8
    from ..repositories import BrokerCatalogRepository, ModelRegistryRepository

    if file is None:
        document = read(seed())
    else:
        name = str(getattr(file, "name", "standard input"))
        document = read(utf8(limited(file, name), name), name)
    with opened(url) as database, database.begin() as uow:
        loaded = dict(BrokerCatalogRepository(uow.session).import_catalog(document))
        if _has_registry(uow.session):
            loaded["registry"] = ModelRegistryRepository(uow.session).import_catalog(document)
    lines = ["loaded " + ", ".join(f"{name} {count}" for name, count in loaded.items())]
    if "registry" not in loaded:
        lines.append(
            "the database has the broker's catalog alone: entries of the model registry were skipped"
        )
    print_result({"loaded": loaded}, *lines, as_json=as_json)


@catalog.command()
@click.argument("catalog_url")
@migration_url_option
@json_option
def link(catalog_url: str, url: str | None, as_json: bool) -> None:
    """Read the broker's catalog from the database CATALOG_URL, which has it alone, and stop writing it here.

    CATALOG_URL has a role that may only read, with its password. Run it again after an upgrade of that database.

    Example: alfred-db catalog link postgresql://catalog_reader:...@broker-db/catalog
    """
    from .. import migrate

    with connected(url, "alfred-db catalog", owner=True) as connection:
        linked = migrate.link_catalog(connection, catalog_url)
    line = f"linked {len(linked)} tables; they are read here, and written in the other database only"
    print_result({"linked": linked}, line, as_json=as_json)


@catalog.command()
@migration_url_option
@click.option("--stale", is_flag=True, help="Keep the last known state; the other database is not asked.")
@json_option
def unlink(url: str | None, stale: bool, as_json: bool) -> None:
    """Have the broker's catalog in this database again, with the rows of the linked one.

    Afterwards run `alfred-db grants apply`: the roles that wrote the catalog here may only read it.
    """
    from .. import migrate

    with connected(url, "alfred-db catalog", owner=True) as connection:
        migrate.unlink_catalog(connection, stale=stale)
    print_result({"linked": []}, "the catalog is in this database again", as_json=as_json)


@catalog.command()
@migration_url_option
@json_option
def refresh(url: str | None, as_json: bool) -> None:
    """Copy the linked catalog to the last known state, which is read when its database cannot be reached."""
    from .. import migrate

    with connected(url, "alfred-db catalog", owner=True) as connection:
        rows = migrate.refresh_catalog(connection)
    print_result({"copied": rows}, f"copied {rows} rows", as_json=as_json)


@catalog.command("check")
@migration_url_option
@json_option
@click.pass_context
def look(context: click.Context, url: str | None, as_json: bool) -> None:
    """Show whether the broker's catalog is linked, and whether it can be read. Exit status: 0 well, 1 not."""
    from .. import migrate

    with connected(url, "alfred-db catalog", owner=True) as connection:
        found = migrate.check_catalog(connection)
    lines = ["the catalog is in this database"]
    if found.linked:
        lines = [
            f"linked from {found.database} on {found.host or 'this server'}",
            f"hosted models {'-' if found.rows is None else found.rows}, revision {found.revision or '-'}",
            f"last known state of {found.last_known or 'never'}",
            *(f"problem: {problem}" for problem in found.problems),
        ]
    print_result(asdict(found), *lines, as_json=as_json)
    context.exit(1 if found.problems else 0)


@catalog.command()
@click.argument("file", type=click.File("w", encoding="utf-8", atomic=True), default="-")
@url_option
def export(file: TextIO, url: str | None) -> None:
    """Write the catalogs of the database to FILE, by default to standard output, as `load` reads them."""
    from ..interchange.catalog import written
    from ..repositories import BrokerCatalogRepository, ModelRegistryRepository

    with opened(url) as database, database.begin() as uow:
        # Both are of one moment.
        uow.session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        document = BrokerCatalogRepository(uow.session).export_catalog()
        if _has_registry(uow.session):
            document |= ModelRegistryRepository(uow.session).export_catalog()
    file.write(written(document))


def _has_registry(session: Session) -> bool:
    """Return whether the database has the model registry: one with `upgrade --target broker` has not."""
    from sqlalchemy import text

    from ..models import RegistryModel
    from ..models.base import table_of

    found = text("SELECT pg_catalog.to_regclass(CAST(:name AS text)) IS NOT NULL")
    return bool(session.scalar(found, {"name": table_of(RegistryModel).fullname}))
