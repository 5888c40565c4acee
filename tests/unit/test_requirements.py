"""The advice for each platform, on servers that are not available here."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from alfred_db.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    ExtensionMissingError,
    ExtensionTooOldError,
    SchemaError,
)
from alfred_db.server import requirements
from alfred_db.server.platforms import GUIDES, Signs, recognise
from alfred_db.server.requirements import EXTENSIONS, Facts, Platform, Schema, Status, Tier

FACTS = Facts(
    server_version=170004,
    version="PostgreSQL 17.4 on x86_64-pc-linux-gnu",
    platform=Platform.GENERIC,
    database="shop",
    role="app",
    superuser=False,
    can_create_schema=True,
    home="public",
    schemas=(Schema("public", "pg_database_owner", owned=False, may_create=True),),
    extensions=tuple(
        Status(extension.name, extension.tier, preloaded=False if extension.settings else None)
        for extension in EXTENSIONS
    ),
)
EVERY_PLATFORM = pytest.mark.parametrize("platform", Platform)


def with_extension(facts: Facts, name: str, **changes: Any) -> Facts:
    changed = (replace(status, **changes) if status.name == name else status for status in facts.extensions)
    return replace(facts, extensions=tuple(changed))


def with_vector(facts: Facts = FACTS, **changes: Any) -> Facts:
    return with_extension(facts, "vector", **changes)


def with_schema(facts: Facts, name: str, **changes: Any) -> Facts:
    schema = Schema(name, **({"owner": "admin", "owned": False, "may_create": False} | changes))  # type: ignore[arg-type]
    return replace(facts, schemas=(*(found for found in facts.schemas if found.name != name), schema))


INSTALLED = with_vector(
    installed="0.8.6", available="0.8.6", schema="public", creatable=True, visible=True, usable=True
)


def quoted_sql(message: str) -> list[str]:
    return re.findall(r"(?:ALTER|CREATE|GRANT) .*?;", message)


# Platforms


DEBIAN = "PostgreSQL 17.4 (Debian 17.4-1.pgdg120+2) on x86_64-pc-linux-gnu, compiled by gcc (Debian 12.2.0-14) 12.2.0, 64-bit"
UBUNTU = "PostgreSQL 16.4 (Ubuntu 16.4-1.pgdg22.04+1) on aarch64-unknown-linux-gnu, compiled by gcc (Ubuntu 11.4.0) 11.4.0"
RED_HAT = (
    "PostgreSQL 16.2 on x86_64-pc-linux-gnu, compiled by gcc (GCC) 11.4.1 20230605 (Red Hat 11.4.1-2), 64-bit"
)
ALPINE = "PostgreSQL 16.1 on x86_64-pc-linux-musl, compiled by gcc (Alpine 13.2.1_git20231014) 13.2.1, 64-bit"
BREW = (
    "PostgreSQL 17.4 (Homebrew) on aarch64-apple-darwin24.2.0, compiled by Apple clang version 16.0.0, 64-bit"
)
CLOUD_SQL = "PostgreSQL 15.5 on x86_64-pc-linux-gnu, compiled by Debian clang version 12.0.1, 64-bit"
OWN_BUILD = "PostgreSQL 17.4 on x86_64-pc-linux-gnu, compiled by gcc (Debian 12.2.0-14) 12.2.0, 64-bit"


@pytest.mark.parametrize(
    ("signs", "platform"),
    [
        (Signs(RED_HAT, prefixes=frozenset({"rds", "plpgsql"})), Platform.RDS),
        (Signs(RED_HAT, roles=frozenset({"rds_superuser"})), Platform.RDS),
        (Signs(UBUNTU, prefixes=frozenset({"azure"})), Platform.AZURE),
        (Signs(UBUNTU, roles=frozenset({"azure_pg_admin"})), Platform.AZURE),
        (Signs(CLOUD_SQL, prefixes=frozenset({"cloudsql"})), Platform.CLOUD_SQL),
        (Signs(CLOUD_SQL, roles=frozenset({"cloudsqlsuperuser"})), Platform.CLOUD_SQL),
        (Signs(OWN_BUILD, prefixes=frozenset({"supautils"})), Platform.SUPABASE),
        (Signs(OWN_BUILD, roles=frozenset({"supabase_admin"})), Platform.SUPABASE),
        (Signs(OWN_BUILD, prefixes=frozenset({"neon"})), Platform.NEON),
        (Signs(OWN_BUILD, roles=frozenset({"neon_superuser"})), Platform.NEON),
        (Signs(UBUNTU, heroku_schema=True), Platform.HEROKU),
        (Signs(UBUNTU, heroku_schema=True, prefixes=frozenset({"rds"})), Platform.HEROKU),
        (Signs(UBUNTU, database="d7k2n0p4m1q8r5", role="u3f9a7b2c4d6e8"), Platform.HEROKU),
        (Signs(DEBIAN, data_directory="/var/lib/postgresql/17/main"), Platform.DEBIAN),
        (Signs(DEBIAN), Platform.DEBIAN),
        (Signs(UBUNTU), Platform.DEBIAN),
        (Signs(DEBIAN, database="documentsstore", role="platformowners"), Platform.DEBIAN),
        (Signs(DEBIAN, data_directory="/var/lib/postgresql/data"), Platform.DOCKER),
        (Signs(DEBIAN, data_directory="/var/lib/postgresql/data/pgdata"), Platform.DOCKER),
        (Signs(DEBIAN, data_directory="/var/lib/postgresql/18/docker"), Platform.DOCKER),
        (Signs(ALPINE), Platform.DOCKER),
        (Signs(RED_HAT), Platform.RHEL),
        (Signs(RED_HAT, data_directory="/var/lib/pgsql/16/data"), Platform.RHEL),
        (Signs(RED_HAT, data_directory="/data", sockets="/run/postgresql, /tmp"), Platform.RHEL),
        (Signs(RED_HAT, data_directory="/home/me/data", sockets="/home/me"), Platform.GENERIC),
        (Signs(RED_HAT, data_directory="/home/me/data", cluster_name="alfred-db"), Platform.EMBEDDED),
        (Signs(BREW), Platform.HOMEBREW),
        (Signs(OWN_BUILD), Platform.GENERIC),
        # A restored dump brought Supabase's roles to RDS.
        (
            Signs(RED_HAT, prefixes=frozenset({"rds"}), roles=frozenset({"supabase_admin", "rds_superuser"})),
            Platform.RDS,
        ),
    ],
)
def test_a_platform_is_recognised(signs: Signs, platform: Platform) -> None:
    assert recognise(signs) is platform


def test_every_platform_has_its_own_guide() -> None:
    assert set(GUIDES) == set(Platform)
    assert len({guide.title for guide in GUIDES.values()}) == len(Platform)


# vector is missing


COMMANDS = {
    Platform.RDS: "aws rds modify-db-instance",
    Platform.AZURE: "--name azure.extensions --value VECTOR`",
    Platform.CLOUD_SQL: "gcloud sql instances patch",
    Platform.SUPABASE: "`create extension vector with schema extensions;`",
    Platform.NEON: "`CREATE EXTENSION vector;`",
    Platform.HEROKU: "`heroku pg:psql -c 'CREATE EXTENSION vector'`",
    Platform.EMBEDDED: 'pip install --upgrade "alfred-db[embedded]"',
    Platform.DOCKER: "`pgvector/pgvector:pg17`",
    Platform.DEBIAN: "`sudo apt install postgresql-17-pgvector`",
    Platform.RHEL: "`sudo dnf install pgvector_17`",
    Platform.HOMEBREW: "`brew install pgvector`",
    Platform.GENERIC: "install pgvector for PostgreSQL 17",
}


@EVERY_PLATFORM
def test_a_server_without_vector_is_refused_with_the_command_of_its_platform(platform: Platform) -> None:
    facts = replace(FACTS, platform=platform)
    with pytest.raises(ExtensionMissingError) as error:
        requirements.require(facts)
    message = str(error.value)
    assert "'vector' is missing" in message
    assert f"PostgreSQL 17.4 ({GUIDES[platform].title})" in message
    assert COMMANDS[platform] in message
    assert "extension vector" in message.lower()
    assert not error.value.retryable


@EVERY_PLATFORM
def test_the_error_for_a_role_that_may_not_create_vector_names_who_may(platform: Platform) -> None:
    facts = with_vector(replace(FACTS, platform=platform), available="0.8.6")
    with pytest.raises(ExtensionMissingError) as error:
        requirements.require(facts)
    message = str(error.value)
    assert 'the role "app" may not create it' in message
    assert GUIDES[platform].title in message
    assert "extension vector" in message.lower()
    if platform is not Platform.HEROKU:
        assert f'as {GUIDES[platform].admin} in database "shop"' in message
    for command in ("apt install", "dnf", "brew install", "pg17"):
        assert command not in message


def test_vector_that_the_role_may_create_is_no_error() -> None:
    requirements.require(with_vector(available="0.8.0", creatable=True))
    requirements.require(INSTALLED)


def test_azure_adds_to_the_list_that_it_has() -> None:
    azure = replace(FACTS, platform=Platform.AZURE, allowed=("pgcrypto", "pg_trgm"))
    steps = requirements.advice("vector", with_vector(azure, available="0.8.0"))
    assert (
        "--name azure.extensions --value PGCRYPTO,PG_TRGM,VECTOR`, then as a member of azure_pg_admin"
        in steps
    )
    allowed = replace(azure, allowed=("pgcrypto", "vector"))
    steps = requirements.advice("vector", with_vector(allowed, available="0.8.0"))
    assert steps == 'as a member of azure_pg_admin in database "shop": `CREATE EXTENSION vector;`'


def test_rds_adds_to_a_list_only_where_there_is_one() -> None:
    rds = with_vector(replace(FACTS, platform=Platform.RDS, allowed=("*",)), available="0.8.0")
    assert requirements.advice("vector", rds) == (
        'as a member of rds_superuser in database "shop": `CREATE EXTENSION vector;`'
    )
    steps = requirements.advice("vector", replace(rds, allowed=("pgcrypto",)))
    assert "ParameterName=rds.allowed_extensions,ParameterValue='pgcrypto,vector'" in steps


# vector is too old


@pytest.mark.parametrize("version", ["0.7.4", "0.6.2", "0.5"])
def test_an_old_vector_is_updated_where_a_new_one_is_at_hand(version: str) -> None:
    facts = with_vector(INSTALLED, installed=version)
    with pytest.raises(ExtensionTooOldError) as error:
        requirements.require(facts)
    message = str(error.value)
    assert f"'vector' {version} of PostgreSQL 17.4" in message
    assert "0.8.0 or newer" in message
    assert message.endswith('; as a superuser in database "shop": `ALTER EXTENSION vector UPDATE;`')


@EVERY_PLATFORM
@pytest.mark.parametrize("installed", ["0.7.4", None])
def test_an_old_vector_is_replaced_where_there_is_no_other(platform: Platform, installed: str | None) -> None:
    facts = with_vector(
        replace(FACTS, platform=platform, allowed=("vector",)),
        installed=installed,
        available="0.7.4",
        creatable=True,
    )
    with pytest.raises(ExtensionTooOldError) as error:
        requirements.require(facts)
    message = str(error.value)
    verb = "ALTER EXTENSION vector UPDATE" if installed else "CREATE EXTENSION vector"
    assert verb.lower() in message.lower()
    assert GUIDES[platform].install.split("{")[0] in message
    assert GUIDES[platform].title in message


def test_versions_are_compared_as_numbers() -> None:
    requirements.require(with_vector(INSTALLED, installed="0.10.0"))
    requirements.require(with_vector(INSTALLED, installed="1.0"))
    assert not [
        line for line in requirements.warnings(with_vector(INSTALLED, installed="0.10")) if "corrupt" in line
    ]


def test_an_old_server_is_refused() -> None:
    with pytest.raises(
        SchemaError, match=r"PostgreSQL 14\.19 .* is too old: alfred-db needs PostgreSQL 15 or newer"
    ):
        requirements.require(replace(INSTALLED, server_version=140019))
    requirements.require(replace(INSTALLED, server_version=150000))


# Advice on the rest


def test_advice_is_complete_everywhere() -> None:
    for platform in Platform:
        for extension in EXTENSIONS:
            for installed, available in [(None, None), (None, "9.9.9"), ("0.0.1", "9.9.9"), ("0.0.1", None)]:
                for preloaded in (None, True, False):
                    facts = with_extension(
                        replace(FACTS, platform=platform, allowed=("pgcrypto",)),
                        extension.name,
                        installed=installed,
                        available=available,
                        preloaded=preloaded,
                    )
                    advice = requirements.advice(extension.name, facts)
                    assert advice
                    assert not set("{}") & set(advice)
                    assert advice.count("`") % 2 == 0


def test_advice_on_other_extensions() -> None:
    debian = replace(FACTS, platform=Platform.DEBIAN)
    assert requirements.advice("pg_trgm", debian).startswith(
        "`sudo apt install postgresql-17`, then as a superuser"
    )
    assert '`CREATE EXTENSION "uuid-ossp";`' in requirements.advice("uuid-ossp", debian)
    assert "`sudo apt install postgresql-17-cron`" in requirements.advice("pg_cron", debian)
    assert "in database cron.database_name" in requirements.advice("pg_cron", debian)
    assert requirements.advice("pgjwt", debian).startswith(
        "nothing to do: this server does not offer pgjwt; without it,"
    )
    assert requirements.advice("vector", INSTALLED) == "nothing to do: vector 0.8.6 is installed"


# Rights


NEEDED = ("extensions", "auth", "storage", "wm")


def test_missing_schemas_are_for_an_admin_to_create() -> None:
    facts = with_schema(
        replace(FACTS, can_create_schema=False), "wm", owner="app", owned=True, may_create=True
    )
    with pytest.raises(ConfigurationError) as error:
        requirements.require_rights(facts, NEEDED)
    assert quoted_sql(str(error.value)) == [
        'CREATE SCHEMA "extensions" AUTHORIZATION "app";',
        'CREATE SCHEMA "auth" AUTHORIZATION "app";',
        'CREATE SCHEMA "storage" AUTHORIZATION "app";',
    ]
    assert 'in "shop":' in str(error.value)


def test_a_schema_without_create_is_for_an_admin_to_grant() -> None:
    with pytest.raises(ConfigurationError) as error:
        requirements.require_rights(with_schema(with_schema(FACTS, "wm"), "public"), NEEDED)
    assert quoted_sql(str(error.value)) == [
        'GRANT USAGE, CREATE ON SCHEMA "wm" TO "app";',
        'GRANT USAGE, CREATE ON SCHEMA "public" TO "app";',
    ]


def test_what_exists_needs_no_right_to_create_it() -> None:
    facts = replace(FACTS, can_create_schema=False)
    for name in NEEDED:
        facts = with_schema(facts, name, may_create=True)
    requirements.require_rights(facts, NEEDED)


def test_auth_and_storage_of_somebody_else_are_no_error() -> None:
    facts = with_schema(with_schema(FACTS, "auth", owner="supabase_auth_admin"), "storage")
    requirements.require_rights(facts, NEEDED)
    assert requirements.external(facts, "auth")
    assert not requirements.external(with_schema(facts, "auth", owned=True), "auth")
    assert not requirements.external(facts, "wm")


def test_names_are_quoted() -> None:
    facts = replace(FACTS, role='o"hara', database="my shop", can_create_schema=False)
    with pytest.raises(ConfigurationError, match=r'AUTHORIZATION "o""hara";') as error:
        requirements.require_rights(facts, ["wm"])
    assert 'in "my shop":' in str(error.value)


def test_tables_need_a_place_to_go() -> None:
    with pytest.raises(
        ConfigurationError, match='ALTER ROLE "app" IN DATABASE "shop" SET search_path = public;'
    ):
        requirements.require_rights(replace(FACTS, home=None), NEEDED)


def test_a_standby_is_not_migrated() -> None:
    standby = replace(INSTALLED, read_only=True, standby=True)
    requirements.require(standby)
    with pytest.raises(DatabaseUnavailable, match="target_session_attrs=read-write"):
        requirements.require_rights(standby, NEEDED)


def test_vector_in_a_closed_schema_is_for_an_admin_to_open() -> None:
    with pytest.raises(ConfigurationError, match='GRANT USAGE ON SCHEMA "vault" TO "app";'):
        requirements.require(with_vector(INSTALLED, schema="vault", visible=False, usable=False))


# Warnings


def test_a_full_server_has_no_warnings() -> None:
    full = INSTALLED
    for extension in EXTENSIONS:
        if extension.tier is not Tier.REQUIRED:
            full = with_extension(full, extension.name, installed="1.0", preloaded=None)
    assert requirements.warnings(full) == []


def test_vector_with_known_faults() -> None:
    (line,) = (
        line for line in requirements.warnings(with_vector(INSTALLED, installed="0.8.3")) if "corrupt" in line
    )
    assert "before 0.8.4" in line
    assert "`ALTER EXTENSION vector UPDATE;`, then REINDEX" in line
    debian = replace(FACTS, platform=Platform.DEBIAN)
    (line,) = (
        line for line in requirements.warnings(with_vector(debian, available="0.8.0")) if "corrupt" in line
    )
    assert "postgresql-17-pgvector" in line
    assert "REINDEX" not in line
    assert not [line for line in requirements.warnings(INSTALLED) if "corrupt" in line]


def test_vector_outside_the_search_path() -> None:
    lines = requirements.warnings(with_vector(INSTALLED, schema="extensions", visible=False))
    (line,) = (line for line in lines if "search_path" in line)
    assert "alfred-db finds it there" in line
    assert 'ALTER ROLE "app" IN DATABASE "shop" SET search_path = "$user", public, "extensions";' in line


def test_an_extension_that_is_not_preloaded() -> None:
    aws = with_extension(replace(INSTALLED, platform=Platform.RDS), "pg_stat_statements", installed="1.11")
    (line,) = (line for line in requirements.warnings(aws) if "preloaded" in line)
    assert "pg_stat_statements is installed but not preloaded" in line
    assert "aws rds reboot-db-instance" in line
    unknown = with_extension(aws, "pg_stat_statements", preloaded=None)
    assert not [line for line in requirements.warnings(unknown) if "preloaded" in line]


def test_a_missing_extension_is_a_warning_where_nothing_does_all_that_it_would() -> None:
    (line,) = requirements.warnings(INSTALLED)
    assert line.startswith("pg_trgm is not installed: there are no trigram indexes")


# What the answer of a server means


class Answer:
    """A connection on which the catalog returns this one row."""

    def __init__(self, **changes: Any) -> None:
        available = {
            "installed": None, "schema": None, "available": "1.0", "trusted": False, "visible": False, "usable": False,
        }  # fmt: skip
        self.row = {
            "version": UBUNTU, "server_version": 160004, "database": "shop", "role": "app", "superuser": False,
            "can_create_schema": False, "home": "public", "citus": False,
            "creators": None, "read_only": False, "standby": False, "heroku_schema": False,
            "prefixes": [], "settings": None, "roles": None, "schemas": None, "shared_tables": None,
            "extensions": {extension.name: dict(available) for extension in EXTENSIONS},
        } | changes  # fmt: skip

    def execute(self, *_: object) -> Answer:
        return self

    def one(self) -> SimpleNamespace:
        return SimpleNamespace(**self.row)


def probed(**changes: Any) -> Facts:
    return requirements.probe(Answer(**changes))  # type: ignore[arg-type]


def test_azure_creates_what_it_lists_for_its_admins() -> None:
    azure: dict[str, Any] = {"prefixes": ["azure"], "roles": {"azure_pg_admin": True}}
    facts = probed(**azure, settings={"azure.extensions": "PGCRYPTO, VECTOR"})
    assert facts.allowed == ("pgcrypto", "vector")
    assert facts.extension("vector").creatable
    assert not facts.extension("pg_trgm").creatable
    assert not probed(**azure, settings={"azure.extensions": ""}).extension("vector").creatable
    assert probed(**azure).extension("vector").creatable  # the list could not be read
    assert not probed(prefixes=["azure"], roles={"azure_pg_admin": False}).extension("vector").creatable


def test_rds_creates_what_it_lists_for_its_admins() -> None:
    rds: dict[str, Any] = {"prefixes": ["rds"], "roles": {"rds_superuser": False, "rds_extension": True}}
    assert probed(**rds).extension("vector").creatable
    assert probed(**rds, settings={"rds.allowed_extensions": "*"}).extension("vector").creatable
    assert not probed(**rds, settings={"rds.allowed_extensions": "pgcrypto"}).extension("vector").creatable
    assert not probed(prefixes=["rds"], roles={"rds_superuser": False}).extension("vector").creatable


def test_in_doubt_a_provider_is_taken_to_allow_it() -> None:
    for prefix in ("supautils", "neon", "cloudsql", "rds", "azure"):
        assert probed(prefixes=[prefix]).extension("vector").creatable
    assert probed(heroku_schema=True).extension("vector").creatable
    assert not probed().extension("vector").creatable


def test_what_a_role_may_not_know_is_unknown() -> None:
    plain = probed(prefixes=["pg_stat_statements"])
    assert plain.extension("pg_stat_statements").preloaded is True
    assert plain.extension("pg_cron").preloaded is None
    assert plain.extension("vector").preloaded is None
    admin = probed(settings={"data_directory": "/data"}, superuser=True)
    assert admin.extension("pg_stat_statements").preloaded is False
    assert admin.extension("pg_cron").preloaded is False


def test_pg_cron_has_one_database() -> None:
    assert probed(superuser=True, settings={"cron.database_name": "shop"}).extension("pg_cron").creatable
    assert (
        not probed(superuser=True, settings={"cron.database_name": "postgres"}).extension("pg_cron").creatable
    )


def test_messages_hold_no_secret() -> None:
    facts = replace(FACTS, can_create_schema=False)
    messages = [str(error) for error in _errors(facts)] + requirements.warnings(facts)
    messages += [requirements.advice(extension.name, facts) for extension in EXTENSIONS]
    assert not [text for text in messages if re.search("password|postgres(ql)?://", text, re.IGNORECASE)]


def _errors(facts: Facts) -> list[Exception]:
    found: list[Exception] = []
    for check in (requirements.require, lambda facts: requirements.require_rights(facts, NEEDED)):
        with pytest.raises((ConfigurationError, SchemaError)) as error:
            check(facts)
        found.append(error.value)
    return found
