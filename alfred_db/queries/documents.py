"""Statements about documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, case, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import Document
from ..models.base import table_of
from .shapes import cascades
from .shapes.functions import func
from .shapes.paging import page

LIST_KEY = ("id",)

_documents = table_of(Document)


def add(values: Mapping[str, Any]) -> ReturningInsert[Document]:
    """Insert a document, or update the one with the same `external_id`.

    Without `embedding` among the values a document with the same content keeps its own.
    """
    statement = insert(Document).values(**values, updated_at=func.now())
    changed: dict[str, Any] = {
        name: statement.excluded[name]
        for name in (*map(_column, values), "updated_at")
        if name != "external_id"
    }
    if "embedding" not in values:
        same = _documents.c.content.is_not_distinct_from(statement.excluded.content)
        for name in ("embedding", "embedding_model"):
            changed[name] = case((same, _documents.c[name]))
    return statement.on_conflict_do_update(index_elements=[Document.external_id], set_=changed).returning(
        Document
    )


def _column(attribute: str) -> str:
    return attribute.rstrip("_")


def get(document_id: int) -> Select[Document]:
    """Select a document by its id."""
    return select(Document).where(Document.id == document_id)


def get_by_external_id(external_id: str) -> Select[Document]:
    """Select a document by its `external_id`."""
    return select(Document).where(Document.external_id == external_id)


def change(document_id: int, values: Mapping[str, Any]) -> ReturningUpdate[Document]:
    """Update columns of a document."""
    return update(Document).where(Document.id == document_id).values(**values).returning(Document)


def remove(document_id: int) -> ReturningDelete[int]:
    """Delete a document.

    Rows that its foreign keys delete or change are locked first, in the order of their keys.
    """
    held = cascades.held(table_of(Document), document_id)
    return delete(Document).where(Document.id == document_id, *held).returning(Document.id)


def list_(*, after: str | None, limit: int) -> Select[Document]:
    """Select a page of documents, ordered by id."""
    return page(select(Document), [Document.id], after=after, limit=limit)
