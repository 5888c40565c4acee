"""What Alembic compares: the tables of one tenant and the shared ones, and nothing of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.sql.schema import SchemaConst

from .facts import OTHERS
from .models import Base
from .models.base import MADE_HERE, schema_translate_map

__all__ = ["settings"]


def settings(schema: str | None, home: str | None = None) -> dict[str, Any]:
    """What `context.configure` receives for the tenant `schema`; `home` is where the default tenant's tables are."""
    mapping = schema_translate_map(schema) or ({} if home is None else {None: home})
    target = moved_metadata(mapping) if mapping else Base.metadata
    return {
        "target_metadata": target,
        "include_schemas": True,
        "include_name": _only_ours(target),
        "include_object": _compared,
    }


def tenant_metadata(schema: str) -> MetaData:
    """The models' tables as the tenant `schema` has them, beside the shared ones that they refer to."""
    return moved_metadata(schema_translate_map(schema) or {})


def moved_metadata(mapping: Mapping[str | None, str | None]) -> MetaData:
    """The models' tables in the schemas that the mapping has for theirs."""
    copy = MetaData(naming_convention=Base.metadata.naming_convention)

    def referred(
        table: Any, to_schema: str | None, constraint: Any, referred_schema: str | None
    ) -> str | None:
        return mapping.get(referred_schema, referred_schema)

    for table in Base.metadata.sorted_tables:
        home = mapping.get(table.schema, table.schema)
        table.to_metadata(copy, schema=home or SchemaConst.RETAIN_SCHEMA, referred_schema_fn=referred)
    return copy


def _only_ours(target: MetaData) -> Any:
    schemas = {table.schema for table in target.tables.values()}

    def include(name: str | None, type_: str, parent_names: Any) -> bool:
        if type_ == "schema":
            return name in schemas
        return type_ != "table" or parent_names["schema_qualified_table_name"] in target.tables

    return include


def _compared(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Not compared: trigram indexes, which exist only where pg_trgm does, and tables that others made."""
    if type_ == "index" and reflected and (name or "").endswith("_trgm"):
        return False
    if type_ != "table" or item.schema not in OTHERS:
        return True
    live = item if reflected else compare_to  # None: it is missing
    return live is None or live.comment == MADE_HERE
