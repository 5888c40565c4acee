"""Platforms that PostgreSQL runs on: how SQL recognises them, and what to type on each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["GUIDES", "ROLES", "Guide", "Platform", "Signs", "recognise"]


class Platform(StrEnum):
    """Where a server runs, as far as it matters to the installation of extensions."""

    RDS = "rds"
    AZURE = "azure"
    CLOUD_SQL = "cloud_sql"
    SUPABASE = "supabase"
    NEON = "neon"
    HEROKU = "heroku"
    EMBEDDED = "embedded"
    DOCKER = "docker"
    DEBIAN = "debian"
    RHEL = "rhel"
    HOMEBREW = "homebrew"
    GENERIC = "generic"


# Settings come before roles: a dump that was restored elsewhere brings its roles along.
_MARKS = (
    (Platform.SUPABASE, "supautils", "supabase_admin"),
    (Platform.NEON, "neon", "neon_superuser"),
    (Platform.CLOUD_SQL, "cloudsql", "cloudsqlsuperuser"),
    (Platform.AZURE, "azure", "azure_pg_admin"),
    (Platform.RDS, "rds", "rds_superuser"),
)


@dataclass(frozen=True, slots=True)
class Signs:
    """What a server shows of its platform; a setting that the role may not read is None."""

    version: str
    """The result of `version()`."""
    prefixes: frozenset[str] = frozenset()
    """First parts of the names of settings that have a dot in them."""
    roles: frozenset[str] = frozenset()
    database: str = ""
    role: str = ""
    heroku_schema: bool = False
    cluster_name: str | None = None
    data_directory: str | None = None
    sockets: str | None = None


def recognise(signs: Signs) -> Platform:
    """Return the platform of a server: GENERIC when nothing identifies it."""
    # Heroku names databases and roles at random, and some of its plans run on RDS.
    at_random = re.fullmatch(r"d(?=.*\d)[a-z0-9]{13}", signs.database)
    if signs.heroku_schema or (at_random and re.fullmatch(r"u[a-z0-9]{13}|[a-z]{14}", signs.role)):
        return Platform.HEROKU
    for platform, prefix, _ in _MARKS:
        if prefix in signs.prefixes:
            return platform
    for platform, _, role in _MARKS:
        if role in signs.roles:
            return platform
    return _own_server(signs)


def _own_server(signs: Signs) -> Platform:
    data = signs.data_directory
    if signs.cluster_name == "alfred-db":
        return Platform.EMBEDDED
    in_image = re.match(r"/var/lib/postgresql/(data|\d+/docker)\b", data or "")
    if in_image or re.search("Alpine|musl", signs.version):
        return Platform.DOCKER
    if re.match(r"PostgreSQL \S+ \((Debian|Ubuntu)", signs.version):
        return Platform.DEBIAN
    if "Homebrew" in signs.version:
        return Platform.HOMEBREW
    # Portable builds name Red Hat's compiler too, but not its folders.
    folders = data is None or data.startswith("/var/lib/pgsql") or "run/postgresql" in (signs.sockets or "")
    return Platform.RHEL if "Red Hat" in signs.version and folders else Platform.GENERIC


@dataclass(frozen=True, slots=True)
class Guide:
    """What to type on a platform; the texts have the fields of `extensions.advice`."""

    title: str
    install: str
    """Brings `vector`, or a newer one, to the server."""
    preload: str = "add {extension} to shared_preload_libraries in the file that `SHOW config_file` names, then {restart}"
    """Has the server load the library of an extension when it starts."""
    restart: str = "restart the server"
    admin: str = "a superuser"
    """Who creates extensions."""
    managed: bool = False
    """Whether a provider's own code decides who creates extensions."""
    admins: tuple[str, ...] = ()
    """Roles whose members a provider lets create them; none: nobody knows, so everybody."""
    trusted: bool = True
    """Whether a role with CREATE on the database creates what is marked as trusted."""
    allow: str | None = None
    """Adds an extension to the platform's own list of those that may be created."""
    create: str = "CREATE EXTENSION {extension}"
    run: str = "as {admin} in database {database}: `{sql};`"
    contrib: str | None = None
    """Brings the extensions that are part of PostgreSQL; None: they are there, or cannot be had."""
    cron: str | None = None
    """Brings pg_cron; None: it is there, or cannot be had."""


GUIDES: Mapping[Platform, Guide] = {
    Platform.RDS: Guide(
        title="Amazon RDS or Aurora",
        install="a newer minor version has it: `aws rds modify-db-instance --db-instance-identifier <instance>"
        " --engine-version <newest {major}> --apply-immediately`",
        preload="`aws rds modify-db-parameter-group --db-parameter-group-name <group> --parameters"
        " \"ParameterName=shared_preload_libraries,ParameterValue='<what it has>,{extension}',"
        'ApplyMethod=pending-reboot"`, then `aws rds reboot-db-instance --db-instance-identifier <instance>`',
        admin="a member of rds_superuser",
        admins=("rds_superuser", "rds_extension"),
        managed=True,
        allow="`aws rds modify-db-parameter-group --db-parameter-group-name <group> --parameters"
        " \"ParameterName=rds.allowed_extensions,ParameterValue='{values}',ApplyMethod=immediate\"`",
    ),
    Platform.AZURE: Guide(
        title="Azure Database for PostgreSQL",
        install="a planned maintenance of the server brings it",
        preload="`az postgres flexible-server parameter set --resource-group <group> --server-name <server> --name"
        " shared_preload_libraries --value <what it has>,{extension}`, then `az postgres flexible-server restart"
        " --resource-group <group> --name <server>`",
        admin="a member of azure_pg_admin",
        admins=("azure_pg_admin",),
        managed=True,
        trusted=False,
        allow="`az postgres flexible-server parameter set --resource-group <group> --server-name <server> --name"
        " azure.extensions --value {VALUES}`",
    ),
    Platform.CLOUD_SQL: Guide(
        title="Google Cloud SQL",
        install="a newer maintenance version has it: `gcloud sql instances patch <instance> --maintenance-version=<newest>`",
        preload="`gcloud sql instances patch <instance> --database-flags=<what it has>,cloudsql.enable_{extension}=on`",
        admin="a member of cloudsqlsuperuser",
        admins=("cloudsqlsuperuser",),
        managed=True,
    ),
    Platform.SUPABASE: Guide(
        title="Supabase",
        install="Project Settings, Infrastructure, `Upgrade project` in the dashboard brings it",
        preload="Database, Extensions in the dashboard: turn {extension} off and on",
        admin="the role postgres",
        managed=True,
        create="create extension {extension} with schema extensions",
    ),
    Platform.NEON: Guide(
        title="Neon",
        install="a restart of the compute in the console brings it",
        preload="a restart of the compute in the console loads it; pg_cron needs its setting cron.database_name by API first",
        admin="a role made in the console",
        managed=True,
    ),
    Platform.HEROKU: Guide(
        title="Heroku Postgres",
        install="a newer version has it: `heroku pg:upgrade:run`",
        preload="Heroku itself decides what is preloaded; do without {extension}",
        admin="the default credential",
        managed=True,
        run="`heroku pg:psql -c '{sql}'`",
    ),
    Platform.EMBEDDED: Guide(
        title="the embedded server",
        install='`pip install --upgrade "alfred-db[embedded]"`, then `alfred-db server stop`',
        preload="`ALTER SYSTEM SET shared_preload_libraries = <what it has>, {extension};`, then `alfred-db server stop`",
    ),
    Platform.DOCKER: Guide(
        title="Docker",
        install="recreate the container on the same volume from the image `pgvector/pgvector:pg{major}`"
        " (after an Alpine image also `REINDEX DATABASE {database};`)",
        preload="recreate the container with `-c shared_preload_libraries=<what it has>,{extension}` after its image",
        cron="add `apt-get install postgresql-{major}-cron` to an image made from `pgvector/pgvector:pg{major}`",
    ),
    Platform.DEBIAN: Guide(
        title="Debian or Ubuntu",
        install="`sudo apt install postgresql-{major}-pgvector` (not found or too old:"
        " `sudo /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh` before it; in a container the image"
        " `pgvector/pgvector:pg{major}`)",
        restart="`sudo systemctl restart postgresql`",
        contrib="`sudo apt install postgresql-{major}`",
        cron="`sudo apt install postgresql-{major}-cron`",
    ),
    Platform.RHEL: Guide(
        title="Red Hat, Rocky, Alma or Fedora",
        install="`sudo dnf install pgvector_{major}` (from the PGDG repository, https://yum.postgresql.org)",
        restart="`sudo systemctl restart postgresql-{major}`",
        contrib="`sudo dnf install postgresql{major}-contrib`",
        cron="`sudo dnf install pg_cron_{major}`",
    ),
    Platform.HOMEBREW: Guide(
        title="Homebrew",
        install="`brew install pgvector` (made for the newest PostgreSQL formulas only; if {major} is none of them:"
        " `git clone https://github.com/pgvector/pgvector && make -C pgvector install"
        " PG_CONFIG=$(brew --prefix postgresql@{major})/bin/pg_config`)",
        restart="`brew services restart postgresql@{major}`",
        contrib="`brew reinstall postgresql@{major}`",
    ),
    Platform.GENERIC: Guide(
        title="a platform that was not recognised",
        install="install pgvector for PostgreSQL {major} on the server (package `postgresql-{major}-pgvector` or"
        " `pgvector_{major}`, image `pgvector/pgvector:pg{major}`, or `git clone"
        " https://github.com/pgvector/pgvector && make -C pgvector install PG_CONFIG=<the server's pg_config>`)",
    ),
}

ROLES = tuple({role for _, _, role in _MARKS} | {role for guide in GUIDES.values() for role in guide.admins})
"""The roles to look for."""
