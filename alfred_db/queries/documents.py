"""Statements about documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import Document
from ..models.base import table_of
from .shapes import cascades
from .shapes.functions import func
from .shapes.paging import page

LIST_KEY = ("id",)


def add(values: Mapping[str, Any]) -> ReturningInsert[Document]:
    """File a document; one with a known `external_id` is brought up to date."""
    statement = insert(Document).values(**values, updated_at=func.now())
    changed = {
        name: statement.excluded[name]
        for name in (*map(_column, values), "updated_at")
        if name != "external_id"
    }
    return statement.on_conflict_do_update(index_elements=[Document.external_id], set_=changed).returning(
        Document
    )


def _column(attribute: str) -> str:
    return attribute.rstrip("_")


def get(document_id: int) -> Select[Document]:
    return select(Document).where(Document.id == document_id)


def get_by_external_id(external_id: str) -> Select[Document]:
    return select(Document).where(Document.external_id == external_id)


def change(document_id: int, values: Mapping[str, Any]) -> ReturningUpdate[Document]:
    return update(Document).where(Document.id == document_id).values(**values).returning(Document)


def remove(document_id: int) -> ReturningDelete[int]:
    held = cascades.held(table_of(Document), document_id)
    return delete(Document).where(Document.id == document_id, *held).returning(Document.id)


def list_(*, after: str | None, limit: int) -> Select[Document]:
    return page(select(Document), [Document.id], after=after, limit=limit)
