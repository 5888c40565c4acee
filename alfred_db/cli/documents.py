"""`alfred-db documents`: what is stored, and what a search finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .databases import opened
from .groups import Group
from .options import after_option, confirm, json_option, limit_option, schema_option, url_option, yes_option
from .output import print_result
from .tables import as_dict, print_one, print_page

if TYPE_CHECKING:
    from ..models import Document
    from ..repositories import UnitOfWork

__all__ = ["documents"]


@click.group(cls=Group)
def documents() -> None:
    """Documents: list, show, search and delete them. DOCUMENT is an `external_id` or an `id`."""


@documents.command("list")
@limit_option
@after_option
@url_option
@schema_option
@json_option
def list_(limit: int, after: str | None, url: str | None, schema: str | None, as_json: bool) -> None:
    """List documents."""
    with opened(url, schema) as database, database.begin() as uow:
        page = uow.documents.list(after=after, limit=limit)
        rows = [as_dict(document) for document in page.items]
    columns = ("id", "external_id", "title", "created_at", "content")
    print_page("documents", columns, rows, next=page.next, as_json=as_json)


@documents.command()
@click.argument("document")
@url_option
@schema_option
@json_option
def show(document: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Show a document."""
    with opened(url, schema) as database, database.begin() as uow:
        values = as_dict(_found(uow, document))
    print_one(values, as_json=as_json)


@documents.command()
@click.argument("text")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option(
    "--language", default="english", show_default=True, help="How words are reduced to their stems."
)
@url_option
@schema_option
@json_option
def search(text: str, limit: int, language: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Find documents by the words of TEXT."""
    with opened(url, schema) as database, database.begin() as uow:
        found = uow.documents.hybrid_search(text, None, limit=limit, language=language)
        rows = [
            {
                "score": round(hit.score, 4),
                "id": hit.row.id,
                "title": hit.row.title,
                "content": hit.row.content,
            }
            for hit in found.hits
        ]
    print_page("documents", ("score", "id", "title", "content"), rows, as_json=as_json)


@documents.command()
@click.argument("document")
@yes_option
@url_option
@schema_option
@json_option
def delete(document: str, yes: bool, url: str | None, schema: str | None, as_json: bool) -> None:
    """Delete a document."""
    confirm(f"Delete the document {document!r}?", yes)
    with opened(url, schema) as database, database.begin() as uow:
        id = _found(uow, document).id
        uow.documents.delete(id)
    print_result({"deleted": id}, f"deleted {id}", as_json=as_json)


def _found(uow: UnitOfWork, name: str) -> Document:
    from ..errors import NotFoundError

    found = uow.documents.get_by_external_id(name)
    if found is None and name.isdecimal() and len(name) < 19:
        found = uow.documents.get(int(name))
    if found is None:
        raise NotFoundError(f"document {name!r}: not found; pass the external_id or the id of a document")
    return found
