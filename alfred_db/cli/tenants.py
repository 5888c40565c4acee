"""`alfred-db tenants`: create, list, upgrade and drop tenants, many at a time."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ..config import migration_url
from ..tenants import TenantOutcome, TenantReport, Tenants
from .grants import read_roles
from .groups import Group
from .options import json_option, migration_url_option, triggers_option

__all__ = ["tenants"]

parallel_option = click.option(
    "--parallel", default=1, show_default=True, help="The number of tenants at the same time."
)


@click.group(cls=Group)
def tenants() -> None:
    """Tenants: create, list, upgrade and drop them, many at a time.

    The exit status of `create` and `upgrade` is 0 if all tenants are done and 1 if some have failed; the others are done
    then. Repeat a command that was interrupted: it goes on from where it was.
    """


@tenants.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@migration_url_option
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="KIND=NAME",
    callback=read_roles,
    help="Grant a role its rights on each tenant, such as app={tenant}_app; may be repeated.",
)
@parallel_option
@triggers_option
@click.pass_context
def create(
    context: click.Context,
    names: tuple[str, ...],
    url: str | None,
    roles: dict[str, str],
    parallel: int,
    triggers: bool,
) -> None:
    """Create tenants, and grant roles their rights on each.

    Example: alfred-db tenants create acme globex --role app={tenant}_app --parallel 2
    """
    made = Tenants(migration_url(url))
    report = made.create(*names, roles=roles, parallel=parallel, triggers=triggers, progress=_show)
    _end(context, report, "created or upgraded")


@tenants.command("list")
@migration_url_option
@json_option
def show(url: str | None, as_json: bool) -> None:
    """List the tenants with their revisions and sizes.

    Example: alfred-db tenants list
    """
    found = Tenants(migration_url(url)).list()
    if as_json:
        click.echo(json.dumps([asdict(tenant) for tenant in found], indent=2))
        return
    for tenant in found:
        revision = f"{tenant.revision or 'unknown'}{'' if tenant.at_head else ' (not at head)'}"
        click.echo(f"{tenant.name:<24}  {revision:<48}  {_size(tenant.size):>10}  {tenant.owner}")
    click.echo(f"{len(found)} tenants", err=True)


@tenants.command()
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Upgrade the database itself, then all tenants.")
@migration_url_option
@parallel_option
@triggers_option
@click.pass_context
def upgrade(
    context: click.Context,
    names: tuple[str, ...],
    every: bool,
    url: str | None,
    parallel: int,
    triggers: bool,
) -> None:
    """Upgrade tenants to the newest revision: those that are named, or all.

    Example: alfred-db tenants upgrade --all --parallel 4
    """
    if every == bool(names):
        raise click.UsageError("pass the names of tenants, or --all")
    found = Tenants(migration_url(url))
    report = found.upgrade(None if every else names, parallel=parallel, triggers=triggers, progress=_show)
    _end(context, report, "upgraded")


@tenants.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False))
@migration_url_option
def export(name: str, file: str, url: str | None) -> None:
    """Dump a tenant with the catalogs that it shares into FILE, for pg_restore into an empty database.

    The dump has no rows of other tenants, and none of `auth` and `storage`.
    """
    size = Tenants(migration_url(url)).export(name, file)
    click.echo(f"wrote {file}: {size:,} bytes")


@tenants.command()
@click.argument("name")
@migration_url_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def drop(name: str, url: str | None, yes: bool) -> None:
    """Drop a tenant with all its rows. Exit status: 0 done, 1 the answer was no, 2 failed.

    Its roles stay, and the schema too if something else is in it.

    Example: alfred-db tenants drop acme --yes
    """
    target = migration_url(url)
    found = Tenants(target)
    tenant = found.get(name)
    if not yes:
        shown = target.render_as_string(hide_password=True)
        click.confirm(
            f"Drop the tenant {name} of {shown}, with all its rows ({_size(tenant.size)})?", abort=True
        )
    found.drop(name)
    click.echo(f"dropped {name}")


@tenants.command()
@click.argument("name")
@migration_url_option
@click.option("--to", "target", metavar="URL", help="The other database, as a superuser.")
@click.option("--source-address", metavar="URL", help="The URL at which the other server reaches this one.")
@click.option("--timeout", default=3600.0, show_default=True, help="The most seconds for the copy.")
@click.option("--pause", default=3.0, show_default=True, help="The most seconds in which writes wait.")
@click.option("--drop", "dropping", is_flag=True, help="Drop the old rows after the switch.")
@click.option("--abort", "aborting", is_flag=True, help="Undo a move that has not switched.")
def move(
    name: str,
    url: str | None,
    target: str | None,
    source_address: str | None,
    timeout: float,
    pause: float,
    dropping: bool,
    aborting: bool,
) -> None:
    """Move a tenant to another server, while it is written; run it again after it was stopped.

    Example: alfred-db tenants move acme --to postgresql://postgres@db-2/platform
    """
    found = Tenants(migration_url(url))
    if aborting:
        found.abort_move(name)
        click.echo(f"{name} stays where it is")
        return
    if target is None:
        raise click.UsageError("pass --to URL, or --abort")
    report = found.move(
        name,
        target,
        source_address=source_address,
        timeout=timeout,
        longest_pause=pause,
        drop=dropping,
        progress=lambda stage: click.echo(stage, err=True),
    )
    kept = "" if report.kept is None else f"; the old rows are in the schema {report.kept}"
    click.echo(f"{name} is on {report.server}; writes waited for {report.pause:.2f} s{kept}")


def _show(outcome: TenantOutcome) -> None:
    done = f"failed: {outcome.error}" if outcome.error else "done" if outcome.changed else "nothing to do"
    click.echo(f"[{outcome.number}/{outcome.total}] {outcome.name}: {done}")


def _end(context: click.Context, report: TenantReport, done: str) -> None:
    click.echo(
        f"{len(report.changed)} {done}, {len(report.unchanged)} unchanged, {len(report.failed)} failed"
    )
    if report.failed:
        click.echo(f"failed, run the command again: {', '.join(sorted(report.failed))}", err=True)
        context.exit(1)


def _size(number: int) -> str:
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"
