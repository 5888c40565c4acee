"""What can be done with the tenants of a database: `Database.tenants` and `AsyncDatabase.tenants`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from .. import migrate
from ..checks import within
from ..config import command, migration_url, tenant_schema
from ..engine.pool import passing_engine
from ..errors import InvalidInputError, SchemaOutdatedError, translated
from ..migrate import grants
from ..migrate.preflight import elsewhere
from ..server.databases import moved_tenants
from .catalog import Tenant, list_tenants
from .directory import TenantMoveReport
from .dumping import dump
from .places import drop_anywhere, find, list_everywhere, place_of, upgrade_everywhere
from .upgrading import MAX_PARALLEL, Progress, TenantReport, upgrade_each

__all__ = ["AsyncTenants", "Tenants"]

TENANT = "{tenant}"
"""What stands for the name of the tenant in the name of a role."""


class Tenants:
    """The tenants of one database.

    All methods connect with ALFRED_DB_MIGRATION_URL if that is set, else with the URL of the database, outside of
    its pool: as the role that runs the migrations.
    """

    def __init__(self, url: URL, opened: MutableMapping[str, Any] | None = None) -> None:
        self._given = url
        self._opened: MutableMapping[str, Any] = {} if opened is None else opened

    def list(self) -> Sequence[Tenant]:
        """Return the tenants by name, with their revisions and sizes; the default tenant is not one of them.

        Those that were moved to other servers are among them: each server is asked, as the same role with the same
        password. Of one that does not answer the list has the names and the place.
        """
        return list_everywhere(self._url)

    def get(self, name: str) -> Tenant:
        """Return a tenant.

        Raises:
            ConfigurationError: The name cannot be that of a tenant.
            NotFoundError: There is no such tenant.
        """
        return find(self._url, tenant_schema(name))

    def create(
        self,
        *names: str,
        roles: Mapping[str, str] | None = None,
        parallel: int = 1,
        triggers: bool = True,
        progress: Progress | None = None,
    ) -> TenantReport:
        """Create tenants, and grant roles their rights on each. Repeat it after it was killed, and it goes on.

        A tenant that exists in this database is upgraded, and its roles are granted what they lack. The database itself
        has to be at the newest revision.

            db.tenants.create("acme", "globex", roles={"app": "{tenant}_app"}, parallel=2)

        Args:
            names: The names of the tenants.
            roles: The name of a role by its kind, one of `owner`, `app`, `worker`, `broker` and `reader`. `{tenant}` in it
                becomes the name of the tenant. A role that does not exist is created as a group, without a login.
            parallel: The number of tenants at the same time, each in a separate process.
            triggers: Whether to create the `updated_at` triggers, which Citus cannot distribute.
            progress: Called after each tenant.

        Returns:
            What was done, and the error of each tenant that failed.

        Raises:
            ConfigurationError: A name cannot be that of a tenant. Nothing has been done.
            ConflictError: A tenant of this name has been moved to another server. Nothing has been done.
            InvalidInputError: There is no such kind of role. Nothing has been done.
            SchemaOutdatedError: The database itself is not at the newest revision. Nothing has been done.
        """
        wanted = _wanted(names, parallel)
        for kind in roles or {}:
            grants.check_kind(kind)
        self._require_default()
        with translated(), passing_engine(self._url, "alfred-db tenants").connect() as connection:
            moved = moved_tenants(connection)
            there = {tenant.name for tenant in list_tenants(connection, migrate.head()) if tenant.at_head}
        for name in wanted:
            if name in moved:
                raise elsewhere(name, moved[name])
        at_head = [name for name in wanted if name in there]

        def grant(name: str) -> bool:
            if not roles:
                return False
            named = {kind: role.replace(TENANT, name) for kind, role in roles.items()}
            with translated(), passing_engine(self._url, "alfred-db tenants").begin() as connection:
                return bool(grants.apply(connection, named, name))

        return upgrade_each(
            self._url,
            wanted,
            at_head=at_head,
            parallel=parallel,
            triggers=triggers,
            then=grant,
            progress=progress,
        )

    def upgrade(
        self,
        names: Collection[str] | None = None,
        *,
        parallel: int = 1,
        triggers: bool = True,
        progress: Progress | None = None,
    ) -> TenantReport:
        """Upgrade tenants to the newest revision. Repeat it after it was killed, and it goes on.

        A tenant that was moved is upgraded on its server, as the same role with the same password.

        Args:
            names: The tenants; None is the default tenant with the shared catalogs, then all of them, and on each server
                that tenants were moved to the same.
            parallel: The number of tenants at the same time, each in a separate process.
            triggers: Whether to create the `updated_at` triggers, which Citus cannot distribute.
            progress: Called after each tenant.

        Returns:
            What was done, and the error of each tenant that failed.

        Raises:
            NotFoundError: A tenant does not exist. Nothing has been done.
        """
        if names is None:
            within("parallel", parallel, 1, MAX_PARALLEL)
            migrate.upgrade(self._url, triggers=triggers)
        wanted = None if names is None else _wanted(names, parallel)
        return upgrade_everywhere(self._url, wanted, parallel=parallel, triggers=triggers, progress=progress)

    def export(self, name: str, file: str | Path, *, progress: Callable[[int], None] | None = None) -> int:
        """Dump a tenant with the catalogs that it shares, for `pg_restore` into an empty database; needs pg_dump.

        The dump has no rows of other tenants, and none of `auth` and `storage`.

        Args:
            name: The name of the tenant.
            file: The file; one that exists is replaced once the dump is complete.
            progress: Called twice a second with the bytes written so far, in another thread.

        Returns:
            The number of bytes.

        Raises:
            ConfigurationError: The name cannot be that of a tenant, or pg_dump is not installed.
            NotFoundError: There is no such tenant.
        """
        self.get(name)
        with translated():
            dump(place_of(self._url, name).url, Path(file), schema=name, progress=progress)
        return Path(file).stat().st_size

    def drop(self, name: str) -> None:
        """Drop a tenant with all its rows, and its schema unless something else is in it. Roles stay.

        One that was moved is dropped on its server, and then from the directory. Repeat it after it was killed, and it goes on.

        Raises:
            ConfigurationError: The name cannot be that of a tenant.
            NotFoundError: There is no such tenant.
            ConflictError: Something else in the database depends on its tables, or the tenant is being moved.
        """
        drop_anywhere(self._url, tenant_schema(name))
        self._opened.pop(name, None)

    def move(
        self,
        name: str,
        to: str | URL,
        *,
        source_address: str | URL | None = None,
        timeout: float = 3600.0,
        longest_pause: float = 3.0,
        drop: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> TenantMoveReport:
        """Move a tenant to another server, while it is written. Repeat it after it was killed, and it goes on.

        Its rows are copied and followed by logical replication; then writes wait until the rest has arrived, and go on
        there. `Database.tenant` follows: a unit of work that the switch interrupts raises `DatabaseUnavailable`, which is
        retryable. Nothing acknowledged is lost. The cache and the rate limits arrive empty.

        Args:
            name: The name of the tenant.
            to: The other database, as a superuser. It is upgraded, and gets the shared catalogs if it has none.
            source_address: The URL at which the other server reaches this one, if it is not the same.
            timeout: The most seconds for the copy.
            longest_pause: The most seconds in which writes wait; if the rest does not arrive in it, they go on here.
            drop: Drop the old rows; otherwise they are kept in a schema that nothing uses.
            progress: Called with each stage, in words.

        Raises:
            NotFoundError: There is no such tenant, or the target lacks a role that has rights on it.
            ConfigurationError: The server has no logical replication. Nothing has been done.
            ConflictError: The target has a tenant of this name, or tables were created meanwhile.
            DatabaseUnavailable: It took too long; run it again.
        """
        from .moving import move

        return move(
            self._url,
            name,
            to,
            source_address=source_address,
            timeout=timeout,
            longest_pause=longest_pause,
            drop=drop,
            progress=progress,
        )

    def abort_move(self, name: str) -> None:
        """Undo a move that has not switched; the tenant has been used here all the time.

        Raises:
            InvalidTransition: The tenant is not being moved, or the switch is done.
        """
        from .moving import abort

        abort(self._url, name)

    @property
    def _url(self) -> URL:
        return migration_url(os.environ.get("ALFRED_DB_MIGRATION_URL") or self._given)

    def _require_default(self) -> None:
        with translated(), passing_engine(self._url, "alfred-db tenants").connect() as connection:
            found = migrate.current(connection)
        if found != migrate.head():
            run = command("upgrade", self._url, None)
            raise SchemaOutdatedError(
                f"the database is at revision {found or 'base'}, and tenants need {migrate.head()}: run {run} first"
            )


class AsyncTenants:
    """The `Tenants` for asyncio: each call runs in a thread."""

    def __init__(self, url: URL, opened: MutableMapping[str, Any] | None = None) -> None:
        self._tenants = Tenants(url, opened)

    async def list(self) -> Sequence[Tenant]:
        """Return the tenants by name, with their revisions and sizes; the default tenant is not one of them."""
        return await asyncio.to_thread(self._tenants.list)

    async def get(self, name: str) -> Tenant:
        """Return a tenant; see `Tenants.get`."""
        return await asyncio.to_thread(self._tenants.get, name)

    async def create(
        self,
        *names: str,
        roles: Mapping[str, str] | None = None,
        parallel: int = 1,
        triggers: bool = True,
        progress: Progress | None = None,
    ) -> TenantReport:
        """Create tenants, and grant roles their rights on each; see `Tenants.create`."""
        return await asyncio.to_thread(
            self._tenants.create,
            *names,
            roles=roles,
            parallel=parallel,
            triggers=triggers,
            progress=progress,
        )

    async def upgrade(
        self,
        names: Collection[str] | None = None,
        *,
        parallel: int = 1,
        triggers: bool = True,
        progress: Progress | None = None,
    ) -> TenantReport:
        """Upgrade tenants to the newest revision; see `Tenants.upgrade`."""
        return await asyncio.to_thread(
            self._tenants.upgrade, names, parallel=parallel, triggers=triggers, progress=progress
        )

    async def export(
        self, name: str, file: str | Path, *, progress: Callable[[int], None] | None = None
    ) -> int:
        """Dump a tenant with the catalogs that it shares; see `Tenants.export`."""
        return await asyncio.to_thread(self._tenants.export, name, file, progress=progress)

    async def drop(self, name: str) -> None:
        """Drop a tenant with all its rows; see `Tenants.drop`."""
        await asyncio.to_thread(self._tenants.drop, name)

    async def move(
        self,
        name: str,
        to: str | URL,
        *,
        source_address: str | URL | None = None,
        timeout: float = 3600.0,
        longest_pause: float = 3.0,
        drop: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> TenantMoveReport:
        """Move a tenant to another server; see `Tenants.move`."""
        return await asyncio.to_thread(
            self._tenants.move,
            name,
            to,
            source_address=source_address,
            timeout=timeout,
            longest_pause=longest_pause,
            drop=drop,
            progress=progress,
        )

    async def abort_move(self, name: str) -> None:
        """Undo a move that has not switched; see `Tenants.abort_move`."""
        await asyncio.to_thread(self._tenants.abort_move, name)


def _wanted(names: Collection[str], parallel: int) -> Sequence[str]:
    """Return the names, each once, after they and the number have been checked."""
    within("parallel", parallel, 1, MAX_PARALLEL)
    if isinstance(names, str) or not names:
        raise InvalidInputError("tenants: pass the names of one tenant or more")
    return list(dict.fromkeys(tenant_schema(name) for name in names))
