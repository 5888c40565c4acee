"""`alfred-db grants`: the rights of the roles that use the database."""

from __future__ import annotations

import click

from ..config import migration_url
from ..engine.pool import passing_engine
from ..errors import translated
from ..migrate.grants import KINDS, apply, excess, plan
from .groups import Group
from .options import migration_url_option, schema_option

__all__ = ["grants", "read_roles"]


def read_roles(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the names of roles by their kinds, for an option of click."""
    roles: dict[str, str] = {}
    for value in values:
        kind, equals, name = value.partition("=")
        if kind not in KINDS or not equals or not name:
            raise click.BadParameter(
                f"{value!r} is not KIND=NAME with a kind of {', '.join(KINDS)}", context, parameter
            )
        if kind in roles:
            raise click.BadParameter(f"{kind} is named twice; run the command for each", context, parameter)
        roles[kind] = name
    return roles


roles_option = click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    metavar="KIND=NAME",
    callback=read_roles,
    help="A role and its kind, such as app=shop_app; may be repeated. Kinds: " + ", ".join(KINDS) + ".",
)


@click.group(cls=Group)
def grants() -> None:
    """Rights of roles: what each kind needs, as SQL; applying it; and checking it."""


@grants.command("plan")
@migration_url_option
@schema_option
@roles_option
def show(url: str | None, schema: str | None, roles: dict[str, str]) -> None:
    """Print the statements that the roles still need, and change nothing.

    Example: alfred-db grants plan --role app=shop_app --role reader=shop_read
    """
    engine = passing_engine(migration_url(url), "alfred-db grants")
    with translated(), engine.connect() as connection:
        for statement in plan(connection, roles, schema):
            click.echo(f"{statement};")


@grants.command("apply")
@migration_url_option
@schema_option
@roles_option
def execute(url: str | None, schema: str | None, roles: dict[str, str]) -> None:
    """Execute the statements of `plan`, all in one transaction. Run it as the owner of the tables.

    Example: alfred-db grants apply --role app=shop_app --role reader=shop_read
    """
    engine = passing_engine(migration_url(url), "alfred-db grants")
    with translated(), engine.begin() as connection:
        done = apply(connection, roles, schema)
    for statement in done:
        click.echo(f"{statement};")
    click.echo(f"{len(done)} statements" if done else "nothing to do")


@grants.command("check")
@migration_url_option
@schema_option
@roles_option
@click.pass_context
def compare(context: click.Context, url: str | None, schema: str | None, roles: dict[str, str]) -> None:
    """Compare the rights of the roles with their kinds. Exit status: 0 as they should be, 1 something differs.

    Example: alfred-db grants check --role app=shop_app
    """
    engine = passing_engine(migration_url(url), "alfred-db grants")
    with translated(), engine.connect() as connection:
        found = [f"needs: {statement}" for statement in plan(connection, roles, schema)]
        if not any("CREATE ROLE" in one for one in found):
            found += excess(connection, roles, schema)
    for one in found:
        click.echo(one)
    if not found:
        click.echo("the roles have the rights of their kinds, and no others")
    context.exit(1 if found else 0)
