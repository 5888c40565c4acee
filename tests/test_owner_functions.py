"""The application creates and drops partitions by functions of the owner, and can do nothing else by them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from granted import Roles, granted
from sqlalchemy import URL, Engine, create_engine, text

from alfred_db import ConfigurationError, Database, KnowledgeDistance, migrate
from alfred_db.migrate.grants import apply, excess, plan
from alfred_db.models.functions import OWNER_FUNCTIONS
from alfred_db.models.knowledge import partition_name

NAMES = ("new", 'it\'s \\ a "name": 100% %s %1$I', "żółć", "$alfred$ E'' --")


@pytest.fixture(scope="module", params=[None, "acme"], ids=["default", "tenant"])
def roles(
    template: URL,
    new_database: Callable[..., URL],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Roles]:
    with granted(new_database(template.database), request.param, tmp_path_factory.mktemp("ground")) as made:
        yield made


@pytest.fixture
def engine(roles: Roles) -> Iterator[Engine]:
    """As the owner."""
    made = create_engine(roles.url)
    yield made
    made.dispose()


def owners(engine: Engine, like: str) -> set[str]:
    with engine.connect() as connection:
        query = text("SELECT DISTINCT CAST(relowner::regrole AS text) FROM pg_class WHERE relname LIKE :like")
        return set(connection.scalars(query, {"like": like}))


def test_collections(roles: Roles, engine: Engine) -> None:
    with roles.database("app") as database:
        for name in NAMES:
            with database.begin() as uow:
                uow.knowledge.create_collection(name)
                uow.knowledge.upsert(name, [{"id": "one", "vector": [1.0] + [0.0] * 1535}])
        with database.begin() as uow:
            for name in NAMES:
                assert [point.id for point in uow.knowledge.scroll(name).items] == ["one"]
        assert len(owners(engine, partition_name(NAMES[1]))) == 1
        assert owners(engine, partition_name(NAMES[1])) == owners(engine, "knowledge_points")
        with database.begin() as uow:
            for name in NAMES:
                uow.knowledge.drop_collection(name)
        assert owners(engine, partition_name(NAMES[1])) == set()


@pytest.mark.parametrize("distance", list(KnowledgeDistance))
@pytest.mark.parametrize("dimensions", [3, 1536, 2001, 4001])
def test_collections_of_other_vectors(
    roles: Roles, engine: Engine, dimensions: int, distance: KnowledgeDistance
) -> None:
    found: list[list[Any]] = []
    owner = Database(roles.url, schema=roles.schema)
    with roles.database("app") as app, owner:
        for name, database in (("x1", app), ("y1", owner)):
            with database.begin() as uow:
                uow.knowledge.create_collection(name, dimensions=dimensions, distance=distance)
            query = text("""
                SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = :oid
                UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = :oid ORDER BY 1
            """)
            with engine.connect() as connection:
                oid = connection.scalar(
                    text("SELECT oid FROM pg_class WHERE relname = :name"), {"name": partition_name(name)}
                )
                definitions = connection.scalars(query, {"oid": oid}).all()
            found.append([one.replace(partition_name(name), "") for one in definitions])
        with app.begin() as uow:
            for name in ("x1", "y1"):
                uow.knowledge.drop_collection(name)
    assert found[0] == found[1]
    assert found[0]


@pytest.mark.parametrize("kind", ["documents", "memories", "memory_entries", "working_memory"])
def test_spaces(roles: Roles, engine: Engine, kind: str) -> None:
    made: dict[str, int] = {}
    storages = ("vector", "halfvec") if kind == "documents" else ("vector",)
    with roles.database("app") as database:
        for storage in storages:
            for index in ("hnsw", "hnsw-halfvec", "hnsw-bit", "none"):
                with database.begin() as uow:
                    name = f"{storage} {index}"
                    space = uow.spaces.create(
                        name, kind=kind, model="m", dimensions=8, storage=storage, index=index
                    )
                    made[name] = space.id
        with Database(roles.url, schema=roles.schema) as owner, owner.begin() as uow:
            for name in list(made):
                storage, index = name.split()
                made[f"owner {name}"] = uow.spaces.create(
                    f"owner {name}", kind=kind, model="m", dimensions=8, storage=storage, index=index
                ).id
        for name in [name for name in made if not name.startswith("owner")]:
            own, theirs = (definition(engine, kind, made[one]) for one in (name, f"owner {name}"))
            assert own == theirs, name
            assert own
        with database.begin() as uow:
            uow.spaces.create("later", kind=kind, model="m", dimensions=8, building=True)
            assert uow.spaces.activate("later").state == "active"
        with database.begin() as uow:
            for name in [*made, "later"]:
                uow.spaces.drop(name)
    assert owners(engine, f"{kind}_embeddings_%") <= owners(engine, f"{kind}_embeddings")


def definition(engine: Engine, kind: str, space: int) -> list[Any]:
    """What the partition of a space is, without its number."""
    query = text("""
        SELECT replace(replace(found.said, '_' || :number, '_'), '(''' || :number || ''')', '') FROM (
            SELECT pg_get_constraintdef(oid) AS said FROM pg_constraint WHERE conrelid = to_regclass(:table)
            UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = to_regclass(:table)
            UNION ALL SELECT relname || relowner || pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = to_regclass(:table)
        ) AS found ORDER BY 1
    """)
    with engine.connect() as connection:
        schema = connection.scalar(
            text("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = :name"),
            {"name": f"{kind}_embeddings_{space}"},
        )
        table = f"{schema}.{kind}_embeddings_{space}"
        return list(connection.scalars(query, {"number": str(space), "table": table}))


@pytest.mark.parametrize("noun", ["events", "broker_requests"])
def test_partitions(roles: Roles, noun: str) -> None:
    with roles.database("app") as database:
        with database.begin() as uow:
            repository: Any = getattr(uow, noun)
            assert repository.make_partitions(7) > 0
            last = [part.name for part in repository.partitions() if not part.is_default][-1]
        with database.begin() as uow:
            getattr(uow, noun).detach_partition(last)
        with database.begin() as uow:
            assert last not in [part.name for part in getattr(uow, noun).partitions()]
            before = [part.name for part in getattr(uow, noun).partitions() if not part.is_default][-1]
            getattr(uow, noun).detach_partition(before, drop=True)
        with database.begin() as uow:
            assert [part.name for part in getattr(uow, noun).partitions()].count(before) == 0


def attacks(home: str) -> dict[str, str]:
    """Calls that would do something else than what the functions are for, and the error of each."""
    ground, other = partition_name("ground"), partition_name("general-knowledge")
    call = f'SELECT "{home}".alfred_'
    return {
        f"{call}create_collection('nothing', 'knowledge_points_nothing')": "not in knowledge_collections",
        f"{call}create_collection('ground', 'tasks')": "not in knowledge_collections",
        f"{call}create_collection('ground', 'knowledge_points_x (id int); DROP TABLE tasks; --')": "not in",
        f"{call}create_collection('ground', '{ground}')": "already exists",
        f"{call}drop_collection('ground', 'tasks')": "not that of the collection",
        f"{call}drop_collection('ground', 'knowledge_points')": "not that of the collection",
        f"{call}drop_collection('ground', '{other}')": "not that of the collection",
        f"{call}drop_collection(NULL, NULL)": "not that of the collection",
        f"{call}create_space(1)": "not in embedding_spaces",
        f"{call}drop_space(1)": "not in embedding_spaces",
        f"{call}drop_space(NULL)": "not in embedding_spaces",
        f"{call}index_space(-1)": "not in embedding_spaces",
        f"{call}make_partitions('tasks', 1)": "no such log",
        f"{call}make_partitions(NULL, 1)": "no such log",
        f"{call}make_partitions('events', 100000)": "0 to 1200",
        f"{call}make_partitions('events', NULL)": "0 to 1200",
        f"{call}detach_partition('events', '{home}.events_default')": "not a monthly partition",
        f"{call}detach_partition('events', '{home}.tasks')": "not a monthly partition",
        f"{call}detach_partition('events', '{home}.{ground}')": "not a monthly partition",
        f"{call}drop_partition('events', '{home}.tasks')": "not a detached partition",
        f"{call}drop_partition('events', '{home}.events')": "not a detached partition",
        f"{call}drop_partition('events', '{home}.events_default')": "not a detached partition",
        f"{call}drop_partition('events', (SELECT max(inhrelid::regclass::text) FROM pg_inherits"
        f" WHERE inhparent = '{home}.events'::regclass AND inhrelid::regclass::text NOT LIKE '%default'))": "not a detached",
        f"{call}drop_partition('broker_request', 'x; DROP TABLE tasks')": "syntax|invalid name|not a detached",
    }


def test_what_else_is_asked_of_the_functions_is_refused(roles: Roles) -> None:
    with roles.database("app") as database, database.engine.connect() as connection:
        for statement, wanted in attacks(roles.home).items():
            with pytest.raises(Exception, match=wanted):
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            connection.rollback()


def test_nobody_else_may_call_them(roles: Roles, engine: Engine) -> None:
    stranger = f"stranger_{uuid.uuid4().hex[:12]}"
    other = None if roles.schema else "acme"
    with engine.begin() as connection:
        apply(connection, {"app": stranger}, other)  # the application of another tenant
        connection.execute(text(f'ALTER ROLE "{stranger}" LOGIN'))
    try:
        callers = [*(roles.names[kind] for kind in ("worker", "broker", "reader")), stranger]
        for caller in callers:
            database = Database(roles.url.set(username=caller))
            with database, database.engine.connect() as connection:
                for function, types in OWNER_FUNCTIONS.items():
                    arguments = ", ".join(f"CAST(NULL AS {type_})" for type_ in types)
                    with pytest.raises(Exception, match=r"permission denied for (function|schema)"):
                        connection.exec_driver_sql(f'SELECT "{roles.home}".{function}({arguments})')
                    connection.rollback()
    finally:
        with engine.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{stranger}"; DROP ROLE "{stranger}"'))


def test_a_function_that_another_role_planted_is_not_called(roles: Roles, engine: Engine) -> None:
    low = f"low_{uuid.uuid4().hex[:12]}"
    signature = f'"{roles.home}".alfred_create_collection(text, text)'
    with engine.begin() as connection:
        connection.execute(text(f'DROP FUNCTION {signature}; CREATE ROLE "{low}"'))
        connection.execute(text(f'GRANT USAGE, CREATE ON SCHEMA "{roles.home}" TO "{low}"; SET ROLE "{low}"'))
        connection.execute(
            text(
                f"CREATE FUNCTION {signature} RETURNS void LANGUAGE plpgsql SECURITY DEFINER"
                " AS 'BEGIN RAISE EXCEPTION ''planted''; END'; RESET ROLE"
            )
        )
    try:
        with (
            roles.database("app") as database,
            database.begin() as uow,
            pytest.raises(ConfigurationError, match="grants of the kind app"),
        ):
            uow.knowledge.create_collection("mine")
        with engine.begin() as connection:
            assert any(
                "OWNER TO" in one for one in apply(connection, {"app": roles.names["app"]}, roles.schema)
            )
        with roles.database("app") as database, database.begin() as uow:
            uow.knowledge.create_collection("mine")
    finally:
        with engine.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{low}"; DROP ROLE "{low}"'))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("GRANT EXECUTE ON FUNCTION {f} TO PUBLIC", "REVOKE ALL ON FUNCTION {f} FROM PUBLIC"),
        ('GRANT EXECUTE ON FUNCTION {f} TO "{reader}"', 'REVOKE ALL ON FUNCTION {f} FROM "{reader}"'),
        ('REVOKE ALL ON FUNCTION {f} FROM "{app}"', 'GRANT EXECUTE ON FUNCTION {f} TO "{app}"'),
        ("ALTER FUNCTION {f} SECURITY INVOKER", "CREATE OR REPLACE FUNCTION"),
        ("ALTER FUNCTION {f} RESET ALL", "CREATE OR REPLACE FUNCTION"),
        ('ALTER FUNCTION {f} OWNER TO "{app}"', "ALTER FUNCTION {f} OWNER TO"),
        ("DROP FUNCTION {f}", "CREATE OR REPLACE FUNCTION"),
    ],
)
def test_what_was_changed_about_them_is_made_right(
    roles: Roles, engine: Engine, change: str, wanted: str
) -> None:
    function = f'"{roles.home}".alfred_drop_space(bigint)'
    with engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql(change.format(f=function, **roles.names))
        found = plan(connection, roles.names, roles.schema)
        assert any(one.startswith(wanted.format(f=function, **roles.names)) for one in found), found
        assert apply(connection, roles.names, roles.schema) == found
        assert plan(connection, roles.names, roles.schema) == []
        assert excess(connection, roles.names, roles.schema) == []
        transaction.rollback()


def test_a_downgrade_to_base_leaves_none(database_url: URL) -> None:
    role = f"app_{uuid.uuid4().hex[:12]}"
    made = create_engine(database_url)
    try:
        with made.begin() as connection:
            for schema in (None, "acme"):
                apply(connection, {"app": role}, schema)
        for schema in ("acme", None):
            migrate.downgrade(database_url, "base", schema=schema)
        with made.begin() as connection:
            query = text("SELECT count(*) FROM pg_proc WHERE proname = ANY (:names)")
            assert connection.scalar(query, {"names": list(OWNER_FUNCTIONS)}) == 0
            assert connection.scalar(text("SELECT to_regnamespace('acme')")) is None
    finally:
        with made.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"'))
        made.dispose()
