"""Capabilities: which extensions were found when the schema was made, and what stands in for the others."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy.orm import Mapped, mapped_column

from ..types import EnumText
from .base import Base, CreatedAt, one_of

__all__ = ["Capability", "ProvidedBy"]


class ProvidedBy(StrEnum):
    """Where a capability comes from."""

    EXTENSION = "extension"
    FALLBACK = "fallback"
    NOTHING = "nothing"


class Capability(Base):
    """One extension, as the first revision found it; `alfred-db doctor` shows what has changed since."""

    __tablename__ = "alfred_db_capabilities"
    __table_args__ = (one_of("provided_by", ProvidedBy), {"schema": "extensions"})

    name: Mapped[str] = mapped_column(primary_key=True)
    """The extension that provides it, or would."""
    provided_by: Mapped[ProvidedBy] = mapped_column(EnumText(ProvidedBy))
    """The extension itself, functions of ours in its place, or nothing."""
    version: Mapped[str | None]
    """Version of the extension."""
    schema_name: Mapped[str | None]
    """Schema of the extension."""
    found_at: Mapped[CreatedAt]
    """When this was found."""
