"""Options that several commands have."""

from __future__ import annotations

import click

__all__ = ["json_option", "migration_url_option", "schema_option", "url_option"]

url_option = click.option("--url", help="Database URL; else ALFRED_DB_URL, DATABASE_URL.")
migration_url_option = click.option(
    "--url", help="Database URL; else ALFRED_DB_MIGRATION_URL, ALFRED_DB_URL, DATABASE_URL."
)
schema_option = click.option(
    "--schema", help="The tenant whose tables are meant; default: the unqualified ones."
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
