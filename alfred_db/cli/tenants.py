"""`alfred-db tenants`: create, list, upgrade and drop tenants, many at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .grants import read_roles
from .groups import Group
from .options import answerable, confirm, json_option, migration_url_option, triggers_option, yes_option
from .output import note, print_result
from .progress import Report, progress

if TYPE_CHECKING:
    from ..tenants import TenantOutcome, TenantReport, Tenants

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
@json_option
@click.pass_context
def create(
    context: click.Context,
    names: tuple[str, ...],
    url: str | None,
    roles: dict[str, str],
    parallel: int,
    triggers: bool,
    as_json: bool,
) -> None:
    """Create tenants, and grant roles their rights on each.

    Example: alfred-db tenants create acme globex --role app={tenant}_app --parallel 2
    """
    with progress() as bar:
        report = _tenants(url).create(
            *names, roles=roles, parallel=parallel, triggers=triggers, progress=_shown(bar)
        )
    _end(context, report, "created or upgraded", as_json)


@tenants.command("list")
@migration_url_option
@json_option
def show(url: str | None, as_json: bool) -> None:
    """List the tenants with their revisions, sizes and owners.

    The server of each that was moved, and on Citus its node, is shown too.

    Example: alfred-db tenants list
    """
    found = _tenants(url).list()
    lines: list[str] = []
    for tenant in found:
        revision = f"{tenant.revision or 'unknown'}{'' if tenant.at_head else ' (not at head)'}"
        lines.append(
            f"{tenant.name:<24}  {revision:<48}  {_size(tenant.size):>10}  {tenant.owner or 'unknown'}"
        )
        if tenant.node is not None:
            lines[-1] += f"  {tenant.node}"
    print_result([asdict(tenant) for tenant in found], *lines, as_json=as_json)
    if not as_json:
        note(f"{len(found)} tenants")


@tenants.command()
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Upgrade the database itself, then all tenants.")
@migration_url_option
@parallel_option
@triggers_option
@json_option
@click.pass_context
def upgrade(
    context: click.Context,
    names: tuple[str, ...],
    every: bool,
    url: str | None,
    parallel: int,
    triggers: bool,
    as_json: bool,
) -> None:
    """Upgrade tenants to the newest revision: those that are named, or all.

    Example: alfred-db tenants upgrade --all --parallel 4
    """
    if every == bool(names):
        raise click.UsageError("pass the names of tenants, or --all")
    wanted = None if every else names
    with progress() as bar:
        report = _tenants(url).upgrade(wanted, parallel=parallel, triggers=triggers, progress=_shown(bar))
    _end(context, report, "upgraded", as_json)


@tenants.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False))
@migration_url_option
@json_option
def export(name: str, file: str, url: str | None, as_json: bool) -> None:
    """Dump a tenant with the catalogs that it shares into FILE, for pg_restore into an empty database.

    The dump has no rows of other tenants, and none of `auth` and `storage`.
    """
    with progress() as bar:
        size = _tenants(url).export(name, file, progress=lambda written: bar("bytes", written, None))
    print_result({"file": file, "bytes": size}, f"wrote {file}: {size:,} bytes", as_json=as_json)


@tenants.command()
@click.argument("name")
@migration_url_option
@yes_option
@json_option
def drop(name: str, url: str | None, yes: bool, as_json: bool) -> None:
    """Drop a tenant with all its rows. Exit status: 0 done, 1 the answer was no, 2 failed.

    Its roles stay, and the schema too if something else is in it.

    Example: alfred-db tenants drop acme --yes
    """
    from ..config import migration_url

    answerable(yes)
    found = _tenants(url)
    tenant = found.get(name)
    shown = migration_url(url).render_as_string(hide_password=True)
    confirm(f"Drop the tenant {name} of {shown}, with all its rows ({_size(tenant.size)})?", yes)
    found.drop(name)
    print_result({"dropped": name}, f"dropped {name}", as_json=as_json)


@tenants.command()
@click.argument("name")
@migration_url_option
@click.option("--to", "target", metavar="URL", help="The other database, as a superuser.")
@click.option("--source-address", metavar="URL", help="The URL at which the other server reaches this one.")
@click.option("--timeout", default=3600.0, show_default=True, help="The most seconds for the copy.")
@click.option("--pause", default=3.0, show_default=True, help="The most seconds in which writes wait.")
@click.option("--drop", "dropping", is_flag=True, help="Drop the old rows after the switch.")
@click.option("--abort", "aborting", is_flag=True, help="Undo a move that has not switched.")
@yes_option
@json_option
def move(
    name: str,
    url: str | None,
    target: str | None,
    source_address: str | None,
    timeout: float,
    pause: float,
    dropping: bool,
    aborting: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Move a tenant to another server, while it is written; run it again after it was stopped.

    Example: alfred-db tenants move acme --to postgresql://postgres@db-2/platform
    """
    found = _tenants(url)
    if aborting:
        found.abort_move(name)
        print_result({"aborted": name}, f"{name} stays where it is", as_json=as_json)
        return
    if target is None:
        raise click.UsageError("pass --to URL, or --abort")
    if dropping:
        confirm(f"Drop the rows of {name} here, after they have been copied?", yes)
    report = found.move(
        name,
        target,
        source_address=source_address,
        timeout=timeout,
        longest_pause=pause,
        drop=dropping,
        progress=note,
    )
    kept = "" if report.kept is None else f"; the old rows are in the schema {report.kept}"
    line = f"{name} is on {report.server}; writes waited for {report.pause:.2f} s{kept}"
    print_result(asdict(report), line, as_json=as_json)


def _tenants(url: str | None) -> Tenants:
    from ..config import migration_url
    from ..tenants import Tenants

    return Tenants(migration_url(url))


def _shown(bar: Report) -> Callable[[TenantOutcome], None]:
    def show(outcome: TenantOutcome) -> None:
        done = f"failed: {outcome.error}" if outcome.error else "done" if outcome.changed else "nothing to do"
        note(f"[{outcome.number}/{outcome.total}] {outcome.name}: {done}")
        bar("tenants", outcome.number, outcome.total)

    return show


def _end(context: click.Context, report: TenantReport, done: str, as_json: bool) -> None:
    line = f"{len(report.changed)} {done}, {len(report.unchanged)} unchanged, {len(report.failed)} failed"
    print_result(asdict(report), line, as_json=as_json)
    if report.failed:
        note(f"failed, run the command again: {', '.join(sorted(report.failed))}")
        context.exit(1)


def _size(number: int | None) -> str:
    if number is None:
        return "unknown"
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"
