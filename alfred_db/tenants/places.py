"""Tenants wherever they are: in the database with the directory, and on the servers that it names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import URL

from .. import migrate
from ..config import parse_url
from ..engine.pool import passing_engine
from ..errors import AlfredDBError, ConflictError, translated
from ..models import TenantMove
from ..server.databases import moved_tenants
from .catalog import Tenant, list_tenants, tenant_missing
from .directory import forget, where, with_secret
from .upgrading import Progress, TenantOutcome, TenantReport, upgrade_each

__all__ = ["Place", "drop_anywhere", "find", "list_everywhere", "place_of", "upgrade_everywhere"]

_NAME = "alfred-db tenants"
_log = logging.getLogger("alfred_db")


@dataclass(frozen=True, slots=True)
class Place:
    """The database of a tenant."""

    url: URL
    """With the password of the database that has the directory."""
    moved_to: str | None
    """The same without a password; None for the database that has the directory."""
    moving: bool


def place_of(home: URL, name: str) -> Place:
    """Return where a tenant is by the directory: there unless it says otherwise."""
    with translated(), passing_engine(home, _NAME).connect() as connection:
        found = where(connection, name)
    if found is None or found[1] is not TenantMove.MOVED:
        return Place(home, None, found is not None)
    return Place(with_secret(parse_url(found[0]), home), found[0], False)


def list_everywhere(home: URL) -> list[Tenant]:
    """Return the tenants of a database and of the servers in its directory; see `Tenants.list`."""
    with translated(), passing_engine(home, _NAME).connect() as connection:
        found = {tenant.name: tenant for tenant in list_tenants(connection, migrate.head())}
        moved = moved_tenants(connection)
    for url in dict.fromkeys(moved.values()):
        there: dict[str, Tenant] = {}
        try:
            there = _at(with_secret(parse_url(url), home))
        except AlfredDBError as error:
            _log.warning("the tenants on %s cannot be listed: %s", url, error)
        for name in (name for name, at in moved.items() if at == url):
            unknown = Tenant(name, None, at_head=False, size=None, owner=None)
            found[name] = replace(there.get(name, unknown), node=url)
    return [found[name] for name in sorted(found)]


def find(home: URL, name: str) -> Tenant:
    """Return a tenant; see `Tenants.get`."""
    place = place_of(home, name)
    tenant = _at(place.url).get(name)
    if tenant is None:
        raise tenant_missing(passing_engine(place.url, _NAME), name)
    return tenant if place.moved_to is None else replace(tenant, node=place.moved_to)


def _at(url: URL) -> dict[str, Tenant]:
    with translated(), passing_engine(url, _NAME).connect() as connection:
        return {tenant.name: tenant for tenant in list_tenants(connection, migrate.head())}


def drop_anywhere(home: URL, name: str) -> None:
    """Drop a tenant where it is, then from the directory; see `Tenants.drop`."""
    place = place_of(home, name)
    moving = place.moving
    if place.moved_to is not None:
        with translated(), passing_engine(place.url, _NAME).connect() as connection:
            moving = where(connection, name) is not None
    if moving:
        raise ConflictError(
            f"tenant {name!r}: it is being moved; end the move, or abort it, and drop it then"
        )
    if name in _at(place.url):
        migrate.downgrade(place.url, "base", schema=name, allow_data_loss=True)
    elif place.moved_to is None:
        raise tenant_missing(passing_engine(home, _NAME), name)
    if place.moved_to is not None:  # also if the tenant was gone: an earlier call was killed before this
        with translated(), passing_engine(home, _NAME).begin() as connection:
            forget(connection, name)


def upgrade_everywhere(
    home: URL,
    names: Sequence[str] | None,
    *,
    parallel: int,
    triggers: bool,
    progress: Progress | None,
) -> TenantReport:
    """Upgrade tenants, each where it is; see `Tenants.upgrade`. None are all, and their servers before them."""
    found = {tenant.name: tenant for tenant in list_everywhere(home)}
    wanted = list(found) if names is None else names
    for name in wanted:
        if name not in found:
            raise tenant_missing(passing_engine(home, _NAME), name)
    with translated(), passing_engine(home, _NAME).connect() as connection:
        moved = moved_tenants(connection)
    groups: dict[URL, list[str]] = {}
    for name in wanted:
        url = with_secret(parse_url(moved[name]), home) if name in moved else home
        groups.setdefault(url, []).append(name)
    changed: list[str] = []
    unchanged: list[str] = []
    failed: dict[str, str] = {}

    def count(outcome: TenantOutcome) -> None:
        if progress is not None:
            ended = len(changed) + len(unchanged) + len(failed)
            progress(replace(outcome, number=ended + outcome.number, total=len(wanted)))

    for url, group in groups.items():
        try:
            if names is None and url is not home:
                migrate.upgrade(url, triggers=triggers)
        except AlfredDBError as error:
            for number, name in enumerate(group, 1):
                count(TenantOutcome(name, False, str(error), number, len(group)))
            failed |= dict.fromkeys(group, str(error))
            continue
        at_head = [name for name in group if found[name].at_head]
        report = upgrade_each(
            url, group, at_head=at_head, parallel=parallel, triggers=triggers, progress=count
        )
        changed += report.changed
        unchanged += report.unchanged
        failed |= report.failed
    return TenantReport(sorted(changed), sorted(unchanged), failed)
