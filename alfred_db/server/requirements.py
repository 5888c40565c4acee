"""Extensions and rights: what is required, what is wanted, and the advice where one is missing.

    facts = probe(connection)         # one query, which changes nothing
    require(facts)                    # or an error that names the next command on this platform
    require_rights(facts, schemas)    # or an error with the SQL for an administrator
    for line in warnings(facts): ...

`platforms` recognises the platform and knows its commands; `facts` asks the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import (
    ConfigurationError,
    DatabaseUnavailable,
    ExtensionMissingError,
    ExtensionTooOldError,
    SchemaError,
)
from ..sql import quoted
from .databases import not_utf8
from .platforms import GUIDES, Platform
from .probe import EXTENSIONS, OTHERS, OTHERS_TABLES, Extension, Facts, Schema, Status, Tier, probe

__all__ = [
    "EXTENSIONS",
    "MINIMUM_SERVER",
    "OTHERS",
    "OTHERS_TABLES",
    "Extension",
    "Facts",
    "Platform",
    "Schema",
    "Status",
    "Tier",
    "advice",
    "external",
    "probe",
    "require",
    "require_rights",
    "warnings",
]

MINIMUM_SERVER = 15
"""Oldest major version of PostgreSQL that is supported."""


def advice(name: str, facts: Facts) -> str:
    """Return the next step on this platform to make one of EXTENSIONS usable."""
    extension = next(extension for extension in EXTENSIONS if extension.name == name)
    return _steps(extension, facts, extension.minimum)


def _steps(extension: Extension, facts: Facts, minimum: str | None) -> str:
    guide, status, allowed = GUIDES[facts.platform], facts.extension(extension.name), facts.allowed or ()
    steps: list[str] = []
    if status.preloaded is False:
        steps.append(guide.preload.replace("{restart}", guide.restart))
    if not _new_enough(status.installed, minimum):
        if not _new_enough(status.available, minimum):
            packages = {"vector": guide.install, "pg_cron": guide.cron, "pgjwt": None}
            package = packages.get(extension.name, guide.contrib)
            if package is None:
                return f"nothing to do: this server does not offer {extension.name}; without it, {extension.without}"
            steps.insert(0, package)
        if guide.allow and not {"*", extension.name} & set(allowed):
            steps.append(guide.allow)
        sql = "ALTER EXTENSION {extension} UPDATE" if status.installed else guide.create
        steps.append(guide.run.replace("{sql}", sql))
    values = {
        "extension": f'"{extension.name}"' if "-" in extension.name else extension.name,
        "major": facts.major,
        "database": "cron.database_name" if extension.name == "pg_cron" else quoted(facts.database),
        "admin": guide.admin,
        "values": ",".join([*(allowed or ["<what it has>"]), extension.name]),
        "VALUES": ",".join([*allowed, extension.name]).upper(),
    }
    done = f"nothing to do: {extension.name} {status.installed} is installed"
    return ", then ".join(step.format(**values) for step in steps) or done


def require(facts: Facts) -> None:
    """Raise unless the server can hold the library's schema: call it before changing anything.

    A required extension that is not installed is no error as long as this role may create it.

    Raises:
        ExtensionMissingError: A required extension is not installed, and this role may not create it.
        ExtensionTooOldError: A required extension is too old.
        ConfigurationError: The role may not use the schema of an extension, or the database is not in UTF-8.
        SchemaError: PostgreSQL is too old.
    """
    if facts.encoding != "UTF8":
        raise ConfigurationError(not_utf8(facts.database, facts.encoding))
    if facts.major < MINIMUM_SERVER:
        raise SchemaError(
            f"{_server(facts)} is too old: alfred-db needs PostgreSQL {MINIMUM_SERVER} or newer; upgrade the server"
        )
    for extension in EXTENSIONS:
        if extension.tier is not Tier.REQUIRED:
            continue
        status = facts.extension(extension.name)
        version = status.installed or status.available
        steps = advice(extension.name, facts)
        if version is None:
            raise ExtensionMissingError(
                f"the extension {extension.name!r} is missing, which alfred-db needs for {extension.purpose}:"
                f" {_server(facts)} does not have it; {steps}"
            )
        if not _new_enough(version, extension.minimum):
            raise ExtensionTooOldError(
                f"the extension {extension.name!r} {version} of {_server(facts)} is too old: alfred-db needs"
                f" {extension.minimum} or newer; {steps}"
            )
        if status.installed is None and not status.creatable:
            raise ExtensionMissingError(
                f"the extension {extension.name!r} is missing, which alfred-db needs for {extension.purpose}, and the"
                f" role {quoted(facts.role)} may not create it on {_server(facts)}; {steps}"
            )
        if status.schema is not None and not status.usable:
            raise ConfigurationError(
                f"the role {quoted(facts.role)} may not use the schema of the extension {extension.name!r};"
                f" its owner or a superuser runs in {quoted(facts.database)}: GRANT USAGE ON SCHEMA {quoted(status.schema)} TO"
                f" {quoted(facts.role)};"
            )


def require_rights(facts: Facts, needed_schemas: Iterable[str]) -> None:
    """Raise, with the SQL for an administrator, unless this role may create the library's tables.

    Existing schemas are used unchanged; `auth` and `storage` of another owner are left to that owner. The
    schema of the unqualified tables is checked too.

    Raises:
        ConfigurationError: The role lacks a privilege.
        DatabaseUnavailable: The server is a standby, or the session is read-only.
    """
    if facts.read_only:
        raise DatabaseUnavailable(
            "this server or session is read-only: migrate on the primary (target_session_attrs=read-write)"
        )
    role, database = quoted(facts.role), quoted(facts.database)
    if facts.home is None:
        raise ConfigurationError(
            f"the role {role} may use no schema of its search_path, so tables have no place to go; the owner of the"
            f" database, or {GUIDES[facts.platform].admin}, runs in {database}:"
            f" GRANT USAGE, CREATE ON SCHEMA public TO {role};"
            f" ALTER ROLE {role} IN DATABASE {database} SET search_path = public;"
        )
    commands: list[str] = []
    for name in dict.fromkeys((*needed_schemas, facts.home)):
        schema = facts.schema(name)
        if schema is None and not facts.can_create_schema:
            commands.append(f"CREATE SCHEMA {quoted(name)} AUTHORIZATION {role};")
        elif schema is not None and not schema.may_create and not (name in OTHERS and external(facts, name)):
            commands.append(f"GRANT USAGE, CREATE ON SCHEMA {quoted(name)} TO {role};")
    if commands:
        raise ConfigurationError(
            f"the role {role} lacks rights that the migrations need; the owner of the database, or"
            f" {GUIDES[facts.platform].admin}, runs in {database}: {' '.join(commands)}"
        )


def warnings(facts: Facts) -> list[str]:
    """Return warnings about what works less well than it could, and what to do; not what `require` refuses."""
    found: list[str] = []
    if facts.standby:
        found.append(
            "this server is a standby and read-only: writes, migrations and workers need the primary"
            " (target_session_attrs=read-write); pass this one as replica_url, and `read()` reads from it"
        )
    for extension in EXTENSIONS:
        status = facts.extension(extension.name)
        version = status.installed or status.available
        if _new_enough(version, extension.minimum) and not _new_enough(version, extension.advised):
            rebuild = ", then REINDEX the hnsw indexes made before" if status.installed else ""
            found.append(
                f"{extension.name} {version}: versions before {extension.advised} can corrupt indexes;"
                f" {_steps(extension, facts, extension.advised)}{rebuild}"
            )
        if status.schema and not status.visible and extension.tier is Tier.REQUIRED:
            found.append(
                f"{extension.name} is in the schema {quoted(status.schema)}, outside the search_path: alfred-db finds"
                " it there; for other programs, and behind a transaction pooler:"
                f" ALTER ROLE {quoted(facts.role)} IN DATABASE {quoted(facts.database)}"
                f" SET search_path = {_extended(facts.search_path, status.schema)};"
            )
        if status.installed and status.preloaded is False:
            found.append(
                f"{extension.name} is installed but not preloaded, so that every use of it fails;"
                f" {advice(extension.name, facts)}"
            )
        if extension.tier is Tier.WANTED and not extension.replaced and not status.installed:
            found.append(f"{extension.name} is not installed: {extension.without}")
    found += [
        f"schema {quoted(schema)}: {role} may create in it, and so put functions and operators where the SQL of others finds"
        f" them before PostgreSQL's own; its owner runs in {quoted(facts.database)}: REVOKE CREATE ON SCHEMA {quoted(schema)} FROM {role};"
        for schema, role in facts.creators
    ]
    return found


def _extended(path: str, schema: str) -> str:
    """Return the search_path with one schema appended: another order could find tables of others first."""
    return ", ".join(filter(None, (path, quoted(schema))))


def external(facts: Facts, schema: str) -> bool:
    """Return whether a schema is another service's: it has tables without our comment.

    The owner does not matter then. Where none of the models' tables exists yet, a schema is another service's if
    neither this role nor one of its groups owns it.
    """
    made_here = [made for name, made in facts.shared_tables.items() if name.startswith(f"{schema}.")]
    found = facts.schema(schema)
    return not all(made_here) if made_here else found is not None and not found.owned


def _new_enough(version: str | None, minimum: str | None) -> bool:
    return version is not None and (minimum is None or _numbers(version) >= _numbers(minimum))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _server(facts: Facts) -> str:
    return f"PostgreSQL {facts.major}.{facts.server_version % 10000} ({GUIDES[facts.platform].title})"
