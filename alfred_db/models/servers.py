"""Servers: the directory of the tenants that have been moved to other servers."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy.orm import Mapped, mapped_column

from ..types import EnumText
from .base import Base, CreatedAt, one_of

__all__ = ["TenantMove", "TenantServer"]


class TenantMove(StrEnum):
    """How far the move of a tenant is."""

    MOVING = "moving"
    MOVED = "moved"


class TenantServer(Base):
    """The server of a tenant that is not, or soon will not be, in this database."""

    __tablename__ = "alfred_db_servers"
    __table_args__ = (one_of("state", TenantMove), {"schema": "extensions"})

    tenant: Mapped[str] = mapped_column(primary_key=True)
    """The name of the tenant."""
    url: Mapped[str]
    """The database that it is in, or moves to, without a password."""
    state: Mapped[TenantMove] = mapped_column(EnumText(TenantMove))
    """`moving` until the switch, in the database that the tenant is in: it is used there."""
    changed_at: Mapped[CreatedAt]
    """When the state changed."""
