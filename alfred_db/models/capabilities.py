"""Capabilities: the extensions that existed when the schema was created, and the substitutes for others."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy.orm import Mapped, mapped_column

from ..types import EnumText
from .base import Base, CreatedAt, one_of

__all__ = ["Capability", "ProvidedBy"]


class ProvidedBy(StrEnum):
    """What provides a capability."""

    EXTENSION = "extension"
    FALLBACK = "fallback"
    NOTHING = "nothing"


class Capability(Base):
    """One extension, as found by the first revision; `alfred-db doctor` shows later changes."""

    __tablename__ = "alfred_db_capabilities"
    __table_args__ = (one_of("provided_by", ProvidedBy), {"schema": "extensions"})

    name: Mapped[str] = mapped_column(primary_key=True)
    """The extension."""
    provided_by: Mapped[ProvidedBy] = mapped_column(EnumText(ProvidedBy))
    """The extension, substitute functions of this library, or nothing."""
    version: Mapped[str | None]
    """Version of the extension."""
    schema_name: Mapped[str | None]
    """Schema of the extension."""
    found_at: Mapped[CreatedAt]
    """When it was checked."""
