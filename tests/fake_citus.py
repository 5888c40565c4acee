"""A stand-in for Citus: tables and functions of the names that the library uses, on an ordinary server.

No package index has Citus. The stand-in records what is called, and refuses what a cluster of Citus 14.0.1 refused: a
schema or table with triggers, a foreign key to a table that is not distributed, a catalog before its parents. It drops the
comment of a table, as Citus does, and moves no row: what a distributed table refuses in statements is not seen here, but
in the rules of tests/unit/rules.py.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, NullPool, create_engine, text

_TABLES = """
    CREATE TABLE pg_catalog.pg_dist_local_group (groupid integer NOT NULL);
    INSERT INTO pg_catalog.pg_dist_local_group VALUES (0);
    CREATE TABLE pg_catalog.pg_dist_node (
        nodeid integer, groupid integer, nodename text, nodeport integer, noderole text DEFAULT 'primary',
        isactive boolean DEFAULT true, hasmetadata boolean DEFAULT true, metadatasynced boolean DEFAULT true,
        shouldhaveshards boolean DEFAULT true
    );
    INSERT INTO pg_catalog.pg_dist_node (nodeid, groupid, nodename, nodeport, shouldhaveshards) VALUES
        (1, 0, 'coordinator', 5432, false), (2, 1, 'worker-1', 5432, true), (3, 2, 'worker-2', 5432, true);
    CREATE TABLE pg_catalog.pg_dist_partition (
        logicalrelid regclass NOT NULL, partmethod "char" NOT NULL, colocationid integer, repmodel "char"
    );
    CREATE TABLE pg_catalog.pg_dist_shard (logicalrelid regclass, shardid bigint);
    CREATE TABLE pg_catalog.pg_dist_placement (placementid bigint, shardid bigint, groupid integer);
    CREATE TABLE pg_catalog.pg_dist_schema (schemaid oid NOT NULL, colocationid integer NOT NULL);
    CREATE TABLE pg_catalog.pg_dist_transaction (groupid integer, gid text, outer_xid xid8);
    CREATE TABLE pg_catalog.fake_prepared (gid text, answers boolean DEFAULT true);
    CREATE TABLE pg_catalog.fake_calls (number bigint GENERATED ALWAYS AS IDENTITY, call text);
    GRANT SELECT ON pg_catalog.pg_dist_local_group, pg_catalog.pg_dist_node, pg_catalog.pg_dist_partition,
        pg_catalog.pg_dist_schema, pg_catalog.pg_dist_transaction, pg_catalog.pg_dist_shard, pg_catalog.pg_dist_placement TO PUBLIC
"""

_FUNCTIONS = (
    """
    CREATE FUNCTION pg_catalog.run_command_on_shards(relation regclass, command text, parallel boolean DEFAULT true)
    RETURNS TABLE (shardid bigint, success boolean, result text) LANGUAGE plpgsql AS $$
    DECLARE answer text;
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = relation) THEN RETURN; END IF;
        IF command LIKE '%pg_prepared_xacts%' THEN
            RETURN QUERY SELECT 102008::bigint, coalesce(bool_and(answers), true), string_agg(gid, ' ') FROM fake_prepared;
            RETURN;
        END IF;
        EXECUTE format(command, relation) INTO answer;
        RETURN QUERY SELECT 102008::bigint, true, answer;
    END $$
    """,
    """
    CREATE FUNCTION pg_catalog.fake_refuse(relation regclass, kind text) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE refused record;
    BEGIN
        IF (SELECT groupid FROM pg_dist_local_group) <> 0 THEN
            RAISE EXCEPTION 'operation is not allowed on this node' USING ERRCODE = '0A000';
        END IF;
        IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND NOT tgisinternal) THEN
            RAISE EXCEPTION 'cannot distribute relation "%" because it has triggers', relation USING ERRCODE = '0A000';
        END IF;
        SELECT conname, confrelid::regclass AS target INTO refused FROM pg_constraint
        WHERE contype = 'f' AND conrelid = relation AND confrelid <> relation
            AND NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = confrelid AND repmodel = 't')
            AND (kind = 'n' OR (SELECT relnamespace FROM pg_class WHERE pg_class.oid = confrelid)
                <> (SELECT relnamespace FROM pg_class WHERE pg_class.oid = relation));
        IF FOUND THEN
            RAISE EXCEPTION 'referenced table "%" must be a distributed table or a reference table', refused.target
                USING ERRCODE = '0A000';
        END IF;
    END $$
    """,
    """
    CREATE FUNCTION pg_catalog.create_reference_table(table_name regclass) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM fake_refuse(table_name, 'n');
        IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = table_name) THEN
            RAISE EXCEPTION 'table "%" is already distributed', table_name USING ERRCODE = '42P16';
        END IF;
        INSERT INTO pg_dist_partition VALUES (table_name, 'n', 1, 't');
        INSERT INTO fake_calls (call) VALUES (format('create_reference_table %s', table_name));
        EXECUTE format('COMMENT ON TABLE %s IS NULL', table_name);
    END $$
    """,
    """
    CREATE FUNCTION pg_catalog.citus_schema_distribute(schemaname regnamespace) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE relation regclass; number integer := (SELECT count(*) + 2 FROM pg_dist_schema);
    BEGIN
        FOR relation IN SELECT oid FROM pg_class WHERE relnamespace = schemaname AND relkind IN ('r', 'p') LOOP
            PERFORM fake_refuse(relation, 's');
            INSERT INTO pg_dist_partition VALUES (relation, 'n', number, 's');
            INSERT INTO pg_dist_shard VALUES (relation, 102008 + number);
        END LOOP;
        INSERT INTO pg_dist_schema VALUES (schemaname, number);
        INSERT INTO pg_dist_placement VALUES (number, 102008 + number, 1 + number % 2);
        INSERT INTO fake_calls (call) VALUES (format('citus_schema_distribute %s', schemaname));
        FOR relation IN SELECT oid FROM pg_class WHERE relnamespace = schemaname AND relkind IN ('r', 'p') LOOP
            EXECUTE format('COMMENT ON TABLE %s IS NULL', relation);
        END LOOP;
    END $$
    """,
    """
    CREATE FUNCTION pg_catalog.citus_total_relation_size(logicalrelid regclass, fail_on_error boolean DEFAULT true)
    RETURNS bigint LANGUAGE sql AS 'SELECT pg_catalog.pg_total_relation_size(logicalrelid)'
    """,
    """
    CREATE FUNCTION pg_catalog.citus_relation_size(logicalrelid regclass)
    RETURNS bigint LANGUAGE sql AS 'SELECT pg_catalog.pg_relation_size(logicalrelid)'
    """,
)

_EXTENSION = """
    INSERT INTO pg_catalog.pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    SELECT 16000, 'citus', 10, oid, false, '14.0-1' FROM pg_catalog.pg_namespace WHERE nspname = 'pg_catalog'
"""


def install(url: URL) -> None:
    """Make a database look like the coordinator of a cluster with two workers; its superuser does."""
    execute(url, "SET allow_system_table_mods = on", _TABLES, *_FUNCTIONS, _EXTENSION)


def become_worker(url: URL) -> None:
    """Make the database look like that of a worker."""
    execute(url, "SET allow_system_table_mods = on", "UPDATE pg_catalog.pg_dist_local_group SET groupid = 2")


def distribute(url: URL, *tables: str) -> None:
    """Say that these tables are distributed."""
    execute(
        url,
        "SET allow_system_table_mods = on",
        *(f"INSERT INTO pg_catalog.pg_dist_partition VALUES ('{table}', 'n', 9, 's')" for table in tables),
    )


def calls(url: URL) -> list[str]:
    """Return what was called, in order."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT call FROM pg_catalog.fake_calls ORDER BY number")))


def execute(url: URL, *statements: str) -> None:
    """Run statements as the superuser, in one transaction."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        for statement in statements:
            driver.execute(statement)
