"""`alfred-db grants`: the rights of the roles that use the database."""

from __future__ import annotations

import click

from .choices import ROLES
from .databases import connected
from .groups import Group
from .options import confirm, json_option, migration_url_option, schema_option, yes_option
from .output import print_result

__all__ = ["grants", "read_roles"]


def read_roles(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the names of roles by their kinds, for an option of click."""
    roles: dict[str, str] = {}
    for value in values:
        kind, equals, name = value.partition("=")
        if kind not in ROLES or not equals or not name:
            raise click.BadParameter(
                f"{value!r} is not KIND=NAME with a kind of {', '.join(ROLES)}", context, parameter
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
    help="A role and its kind, such as app=shop_app; may be repeated. Kinds: " + ", ".join(ROLES) + ".",
)


@click.group(cls=Group)
def grants() -> None:
    """Rights of roles: what each kind needs, as SQL; applying it; and checking it."""


@grants.command("plan")
@migration_url_option
@schema_option
@roles_option
@json_option
def show(url: str | None, schema: str | None, roles: dict[str, str], as_json: bool) -> None:
    """Print the statements that the roles still need, and change nothing.

    Example: alfred-db grants plan --role app=shop_app --role reader=shop_read
    """
    from ..migrate.grants import plan

    with connected(url, "alfred-db grants", owner=True) as connection:
        found = plan(connection, roles, schema)
    print_result({"statements": found}, *(f"{statement};" for statement in found), as_json=as_json)


@grants.command("apply")
@migration_url_option
@schema_option
@roles_option
@yes_option
@json_option
def execute(url: str | None, schema: str | None, roles: dict[str, str], yes: bool, as_json: bool) -> None:
    """Execute the statements of `plan`, all in one transaction. Run it as the owner of the tables.

    It asks first if rights are revoked.

    Example: alfred-db grants apply --role app=shop_app --role reader=shop_read
    """
    from ..migrate.grants import apply, plan

    if not yes:
        with connected(url, "alfred-db grants", owner=True) as connection:
            revoked = [
                one
                for one in plan(connection, roles, schema)
                if one.startswith("REVOKE") and "FROM PUBLIC" not in one
            ]
        if revoked:
            confirm("; ".join(["Revoke these rights", *revoked]) + "?", yes)
    with connected(url, "alfred-db grants", owner=True) as connection:
        done = apply(connection, roles, schema)
    lines = [f"{statement};" for statement in done]
    lines.append(f"{len(done)} statements" if done else "nothing to do")
    print_result({"statements": done}, *lines, as_json=as_json)


@grants.command("check")
@migration_url_option
@schema_option
@roles_option
@json_option
@click.pass_context
def compare(
    context: click.Context, url: str | None, schema: str | None, roles: dict[str, str], as_json: bool
) -> None:
    """Compare the rights of the roles with their kinds. Exit status: 0 as they should be, 1 something differs.

    Example: alfred-db grants check --role app=shop_app
    """
    from ..migrate.grants import excess, plan

    with connected(url, "alfred-db grants", owner=True) as connection:
        found = [f"needs: {statement}" for statement in plan(connection, roles, schema)]
        if not any("CREATE ROLE" in one for one in found):
            found += excess(connection, roles, schema)
    lines = found or ["the roles have the rights of their kinds, and no others"]
    print_result({"differences": found}, *lines, as_json=as_json)
    context.exit(1 if found else 0)
