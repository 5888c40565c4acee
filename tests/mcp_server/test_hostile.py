"""Hostile calls of `alfred-db mcp`: SQL that wants out, cancelled calls, vanished clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp_calls import called, refused
from sqlalchemy import URL, NullPool, create_engine, text

SQL = [
    "SELECT 1; COMMIT; DROP TABLE documents",
    "COMMIT",
    "ROLLBACK; DROP SCHEMA public CASCADE",
    "SELECT 1; SELECT 2",
    "BEGIN",
    "END; DELETE FROM documents",
    "SAVEPOINT a",
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET ROLE postgres",
    "RESET ROLE",
    "SET statement_timeout = 0",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT pg_catalog.\"set_config\"('role', 'postgres', false)",
    "SELECT U&\"set\\005fconfig\"('role', 'postgres', false)",
    "SELECT SET_CONFIG/**/('role', 'postgres', true)",
    "SELECT current_setting('data_directory')",
    "SELECT * FROM pg_settings",
    "INSERT INTO documents (content) VALUES ('x')",
    "UPDATE documents SET content = 'x'",
    "DELETE FROM documents",
    "TRUNCATE documents",
    "MERGE INTO documents d USING documents s ON true WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM documents RETURNING *) SELECT * FROM gone",
    "SELECT * INTO stolen FROM documents",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x (a int)",
    "SELECT * FROM documents FOR UPDATE",
    "SELECT nextval('documents_id_seq')",
    "SELECT setval('documents_id_seq', 1)",
    "SELECT lo_export(1, '/tmp/x')",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_create(0)",
    "COPY documents TO PROGRAM 'id'",
    "COPY documents TO '/tmp/x'",
    "COPY documents FROM STDIN",
    "SELECT * FROM dblink('dbname=postgres', 'select 1') AS x(a int)",
    "SELECT dblink_exec('dbname=postgres', 'drop table documents')",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock_shared(1)",
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "SELECT pg_cancel_backend(1)",
    "SELECT pg_reload_conf()",
    "SELECT pg_notify('x', 'y')",
    "LISTEN x",
    "NOTIFY x",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "FETCH ALL FROM alfred_db_rows",
    "DO $$ BEGIN DELETE FROM documents; END $$",
    "CALL x()",
    "EXPLAIN ANALYZE DELETE FROM documents",
    "ANALYZE documents",
    "LOCK TABLE documents",
    "SELECT query_to_xml('select * from acme.documents', true, true, '')",
    "SELECT table_to_xml('acme.documents', true, true, '')",
    "SELECT * FROM ts_stat('select search from acme.documents')",
    "SELECT * FROM acme.documents",
    "SELECT (SELECT content FROM acme.documents LIMIT 1)",
    "SELECT 1 WHERE EXISTS (SELECT FROM acme.documents)",
    "SELECT most_common_vals FROM pg_stats",
    "SELECT query FROM pg_stat_activity",
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM auth.users",
    "SELECT * FROM information_schema.tables",
    "SELECT 1) AS q(c0), (SELECT 2",
    "SELECT 1 /*",
    "SELECT $1",
    "SELECT 1 \0; DROP TABLE documents",
    "SELECT '\ud800'",
    "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "SELECT " + "1," * 40_000 + "1",
    "SELECT count(*) FROM generate_series(1, 100000000000)",
    "",
    ";",
]


def figures(url: URL) -> tuple[Any, ...]:
    """What writes of rows would change, by the server's own counters."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        written = connection.execute(
            text(
                "SELECT tup_inserted, tup_updated, tup_deleted FROM pg_stat_database"
                " WHERE datname = current_database()"
            )
        ).one()
        tables = connection.scalar(text("SELECT count(*) FROM pg_class"))
    return (*written, tables)


@pytest.mark.usefixtures("no_connection_left")
@pytest.mark.parametrize("read_only", [True, False])
async def test_sql_has_no_way_out(
    serve: Any, template: URL, new_database: Any, served_url: URL, read_only: bool
) -> None:
    url = new_database(template.database)
    before = figures(url)
    async with serve(url=url, read_only=read_only, groups=["postgres"], sql_timeout=1.0) as client:
        tool = "query" if read_only else "export_data"
        for sql in SQL:
            message = await refused(client, tool, sql=sql)
            assert len(message) < 2_500
        assert (await called(client, "query", sql="SELECT count(*) FROM documents"))["rows"] == [[0]]
        user = (await called(client, "query", sql="SELECT current_user"))["rows"]
        assert user == [["pg_read_all_data"]]
    assert figures(url) == before


async def test_a_cancelled_call_leaves_nothing(serve: Any, no_connection_left: None) -> None:
    async with serve(sql_timeout=3.0) as client:
        slow = "SELECT count(*) FROM generate_series(1, 100000000000)"
        calls = [asyncio.create_task(client.call_tool("query", {"sql": slow})) for _ in range(6)]
        await asyncio.sleep(0.3)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert (await called(client, "query", sql="SELECT 1"))["rows"] == [[1]]
        writes = [
            asyncio.create_task(client.call_tool("store_memory", {"content": f"cancelled {number}"}))
            for number in range(20)
        ]
        await asyncio.sleep(0.02)
        for call in writes:
            call.cancel()
        await asyncio.gather(*writes, return_exceptions=True)
        assert (await called(client, "store_memory", content="afterwards"))["outcome"] == "stored"


async def test_huge_inputs_are_refused(serve: Any) -> None:
    async with serve() as client:
        assert "content" in await refused(client, "add_document", content="x" * 2_000_001)
        assert "query" in await refused(client, "search_documents", query="x" * 10_001)
        assert "memory_ids" in await refused(client, "touch_memory", memory_ids=[1] * 1_001)
        assert "document_id" in await refused(client, "get_document", document_id=2**63)
        deep: Any = "x"
        for _ in range(30):
            deep = {"must": [deep]}
        assert await refused(client, "search_documents", query="x", where=deep)
