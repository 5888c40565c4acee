"""`alfred-db catalog`: the catalogs as JSON."""

from __future__ import annotations

from typing import BinaryIO, TextIO

import click

from ..config import database_url
from ..database import Database
from ..interchange.catalog import read, seed, written
from ..interchange.files import limited, utf8
from ..repositories import BrokerCatalogRepository, ModelRegistryRepository
from .options import url_option

__all__ = ["catalog"]


@click.group()
def catalog() -> None:
    """The catalogs that all tenants share: the broker's, and the model registry."""


@catalog.command()
@click.argument("file", type=click.File("rb"), required=False)
@url_option
def load(file: BinaryIO | None, url: str | None) -> None:
    """Load FILE (JSON; `-` for standard input), by default the one that comes with alfred-db.

    Known rows are brought up to date by their codes; what FILE does not name stays.
    """
    if file is None:
        document = read(seed())
    else:
        name = str(getattr(file, "name", "standard input"))
        document = read(utf8(limited(file, name), name), name)
    with Database(database_url(url)) as database, database.begin() as uow:
        loaded = dict(BrokerCatalogRepository(uow.session).import_catalog(document))
        loaded["registry"] = ModelRegistryRepository(uow.session).import_catalog(document)
    click.echo("loaded " + ", ".join(f"{name} {count}" for name, count in loaded.items()))


@catalog.command()
@click.argument("file", type=click.File("w", encoding="utf-8", atomic=True), default="-")
@url_option
def export(file: TextIO, url: str | None) -> None:
    """Write both catalogs to FILE, by default to standard output, as `load` reads them."""
    with Database(database_url(url)) as database, database.begin() as uow:
        # Both are of one moment.
        uow.session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        document = BrokerCatalogRepository(uow.session).export_catalog()
        document |= ModelRegistryRepository(uow.session).export_catalog()
    file.write(written(document))
