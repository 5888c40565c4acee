"""Rows of every table in fixed proportions, written by the server itself: seeded, and the same in every run.

`{n}` is the number of tasks. Of a million: 2M messages of conversations, 2M requests, 2M events, 1M edges with a hub of
100k, 300k memories with one bank of 100k, 1M steps. One memory and one document in ten have a vector, and one point and
one record of working memory in twenty: a vector index of them all would take hours, and its growth is measured by
`make bench-vectors`.
"""

from __future__ import annotations

import psycopg

__all__ = ["fill"]

STATEMENTS = (
    "SELECT pg_catalog.setseed(0.5)",
    # Tasks: most have completed; one intent, one queue and one agent have few of them.
    """
    INSERT INTO tasks (id, task_id, intent, status, priority, assigned_to, parent_task_id, queue, content, created_at,
        available_at, completed_at, failed_at, cancelled_at, lease_token, lease_expires_at, attempt_deadline_at)
    SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'task-' || i,
        CASE WHEN i % 20000 = 7 THEN 'rare' ELSE 'intent-' || i % 20 END, status, 1 + i % 5,
        CASE WHEN i % 20000 = 9 THEN 'seldom' WHEN i % 10 = 0 THEN 'agent-' || i % 7 END,
        CASE WHEN i % 100 = 3 AND i > 100 THEN ('01900000-0000-7000-8000-' || lpad(to_hex(i / 1000 + 1), 12, '0'))::uuid END,
        CASE WHEN i % 20000 = 11 THEN 'narrow' WHEN i % 5 = 0 THEN 'queue-' || i % 4 ELSE 'default' END,
        '{{"url": "https://example.org"}}', at, at,
        CASE status WHEN 'completed' THEN at END, CASE status WHEN 'failed' THEN at END,
        CASE status WHEN 'cancelled' THEN at END, gen_random_uuid(),
        CASE status WHEN 'processing' THEN now() + interval '1 day' END,
        CASE status WHEN 'processing' THEN now() + interval '1 day' END
    FROM generate_series(1, {n}) AS i, LATERAL (SELECT now() - ({n} - i) * interval '30 s' AS at,
        CASE WHEN i % 20000 = 13 THEN 'cancelled' WHEN i % 1000 = 17 THEN 'failed' WHEN i % 2000 = 19 THEN 'processing'
            WHEN i % 20 = 1 THEN 'pending' ELSE 'completed' END AS status) AS s
    """,
    """
    INSERT INTO task_results (task_id, result_type, content)
    SELECT id, 'r', '{{}}' FROM tasks WHERE status = 'completed' AND priority = 3
    """,
    """
    INSERT INTO processed_messages (message_id, expires_at)
    SELECT 'message-' || i, now() + (i % 100 - 5) * interval '1 hour' FROM generate_series(1, {n} / 5) AS i
    """,
    """
    INSERT INTO agent_registry (name, type, version, status, capabilities, last_heartbeat)
    SELECT 'agent-' || i, 'type-' || i % 5, '1', 'active', jsonb_build_array('c', 'c-' || i % 50), now()
    FROM generate_series(1, {n} / 100) AS i
    """,
    # A session in a hundred is long; the others have twenty messages.
    """
    INSERT INTO conversations (session_id, role, content, created_at)
    SELECT CASE WHEN i % 10 = 0 THEN 'long' ELSE 'session-' || i / 20 END, CASE i % 2 WHEN 0 THEN 'user' ELSE 'assistant' END,
        'the message ' || i || CASE WHEN i % 1000 = 0 THEN ' unusual' ELSE '' END, now() - (2 * {n} - i) * interval '10 s'
    FROM generate_series(1, 2 * {n}) AS i
    """,
    "INSERT INTO brk_registry.hosting_provider (code, name) SELECT 'provider-' || i, 'n' FROM generate_series(1, 20) AS i",
    """
    INSERT INTO brk_tracking.broker_request (created_at, request_id, status, finished_at, model, provider, prompt_tokens,
        completion_tokens, total_tokens, latency_ms, cost, agent_name, session_id)
    SELECT at, 'request-' || i, CASE WHEN i % 20000 = 1 THEN 'pending' WHEN i % 50 = 2 THEN 'failed' ELSE 'completed' END,
        CASE WHEN i % 20000 <> 1 THEN at END, 'model-' || i % 10,
        CASE WHEN i % 20000 = 3 THEN 'small' ELSE 'provider-' || i % 4 END, 100, 50, 150, 200, 0.001,
        CASE WHEN i % 20000 = 5 THEN 'quiet' ELSE 'agent-' || i % 100 END, 'session-' || i / 20
    FROM generate_series(1, 2 * {n}) AS i, LATERAL (SELECT now() - (2 * {n} - i) * (interval '360 days' / (2 * {n})) AS at) AS a
    """,
    """
    INSERT INTO events (topic, type, key, payload)
    SELECT 'topic-' || i % 50, 't', 'key-' || i % 1000, '{{"k": 1}}' FROM generate_series(1, 2 * {n}) AS i
    """,
    """
    INSERT INTO entity.entity_node (id, node_type, key, name)
    SELECT ('02900000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'person', 'node-' || i, 'n'
    FROM generate_series(0, {n} / 4) AS i
    """,
    # Node 0 is the hub of a tenth of the edges; the others have a few neighbours each.
    """
    INSERT INTO entity.entity_edge (source_id, target_id, edge_type, weight)
    SELECT ('02900000-0000-7000-8000-' || lpad(to_hex(CASE WHEN i % 10 = 0 THEN 0 ELSE i % ({n} / 4) + 1 END), 12, '0'))::uuid,
        ('02900000-0000-7000-8000-' || lpad(to_hex(CASE WHEN i % 10 = 0 THEN i / 10 + 1
            ELSE (i::bigint * 7919 + i / ({n} / 4)) % ({n} / 4) + 1 END), 12, '0'))::uuid, 'knows-' || i / ({n} / 4) || i % 2, 1
    FROM generate_series(1, {n}) AS i ON CONFLICT DO NOTHING
    """,
    "INSERT INTO memory_banks (name) SELECT 'bank-' || i FROM generate_series(1, greatest({n} / 1000, 3)) AS i",
    """
    INSERT INTO memories (memory_bank_id, content, embedding, importance, metadata, created_at, embedding_model)
    SELECT CASE WHEN i % 3 = 0 THEN (SELECT id FROM memory_banks WHERE name = 'bank-1')
            ELSE (SELECT min(id) FROM memory_banks WHERE name LIKE 'bank-%') + 1 + i % (greatest({n} / 1000, 3) - 1) END,
        'the memory ' || i, v, 1 + i % 5, jsonb_build_object('k', i % 1000), now() - i * interval '1 s', NULL
    FROM generate_series(1, {n} * 3 / 10) AS i
    LEFT JOIN LATERAL (SELECT ARRAY(SELECT random() + i * 0 FROM generate_series(1, 384))::vector AS v) AS e ON i % 10 < 1
    """,
    """
    INSERT INTO memory_entries (namespace, content, metadata, expires_at)
    SELECT 'namespace-' || i % 100, 'the entry ' || i, jsonb_build_object('k', i % 1000), now() + interval '1 day' FROM generate_series(1, {n} / 10) AS i
    """,
    """
    INSERT INTO documents (title, content, metadata, external_id, embedding)
    SELECT 'title ' || i, 'the text of document ' || i, jsonb_build_object('k', i % 1000, 'year', 1900 + i % 120), 'document-' || i, v
    FROM generate_series(1, {n} / 10) AS i
    LEFT JOIN LATERAL (SELECT ARRAY(SELECT random() + i * 0 FROM generate_series(1, 384))::vector AS v) AS e ON i % 10 < 1
    """,
    "INSERT INTO rag_sessions (session_id) SELECT 'rag-' || i FROM generate_series(1, {n} / 100) AS i",
    """
    INSERT INTO rag_queries (session_id, query_text)
    SELECT (SELECT min(id) FROM rag_sessions WHERE session_id LIKE 'rag-%') + i % ({n} / 100), 'query ' || i
    FROM generate_series(1, {n} / 2) AS i
    """,
    # One document is used by every tenth query.
    """
    INSERT INTO rag_query_documents (query_id, document_id, rank)
    SELECT q.id, CASE WHEN q.id % 10 = 0 THEN d.first ELSE d.first + q.id % ({n} / 10) END, 1
    FROM rag_queries AS q, (SELECT min(id) AS first FROM documents WHERE external_id LIKE 'document-%') AS d
    WHERE query_text LIKE 'query %'
    """,
    """
    INSERT INTO knowledge_points (collection, id, embedding, payload)
    SELECT 'legal-knowledge', 'point-' || i, v, jsonb_build_object('lang', 'l-' || i % 20, 'n', i)
    FROM generate_series(1, {n} / 10) AS i
    LEFT JOIN LATERAL (SELECT ARRAY(SELECT random() + i * 0 FROM generate_series(1, 1536))::vector AS v) AS e ON i % 20 < 1
    """,
    """
    INSERT INTO wm.working_memory (name, memory_type, content, session_id, agent, expires_at, metadata, embedding)
    SELECT 'w-' || i, 'type-' || i % 5, 'c', 'session-' || i / 20, 'agent-' || i % 50, now() + interval '1 day',
        jsonb_build_object('k', i % 1000), v
    FROM generate_series(1, {n} / 10) AS i
    LEFT JOIN LATERAL (SELECT ARRAY(SELECT random() + i * 0 FROM generate_series(1, 1536))::vector AS v) AS e ON i % 20 < 1
    """,
    """
    INSERT INTO scheduler_tasks (name, command, schedule, schedule_key, next_run_at)
    SELECT 's-' || i, 'c', '0 0 1 1 *', 'schedule-' || i, now() + interval '1 year' FROM generate_series(1, greatest({n} / 1000, 5)) AS i
    """,
    """
    INSERT INTO scheduler_executions (task_id, status, start_time, end_time, scheduled_at)
    SELECT (SELECT min(id) FROM scheduler_tasks WHERE schedule_key LIKE 'schedule-%') + i % greatest({n} / 1000, 5), 'completed', at, at, at
    FROM generate_series(1, {n} / 2) AS i, LATERAL (SELECT now() - ({n} - i) * interval '1 min' AS at) AS a
    """,
    # A workflow has a page of executions at least: to read a full page beside a short one would be taken for growth.
    "INSERT INTO workflows (name, definition, status) SELECT 'flow-' || i, '{{}}', 'active' FROM generate_series(1, 20) AS i",
    """
    INSERT INTO workflow_executions (workflow_id, status, started_at, completed_at, definition)
    SELECT (SELECT min(id) FROM workflows WHERE name LIKE 'flow-%') + i % 19, 'completed', at, at, '{{}}'
    FROM generate_series(1, greatest({n} / 10, 2500)) AS i,
        LATERAL (SELECT now() - (greatest({n}, 2500) - i) * interval '1 min' AS at) AS a
    """,
    "UPDATE workflow_executions SET parent_execution_id = (SELECT min(id) FROM workflow_executions) WHERE id % 10 = 5 AND"
    " id > (SELECT min(id) + 1 FROM workflow_executions)",
    # One execution has a tenth of the steps.
    """
    INSERT INTO workflow_steps (execution_id, step_key, seq, name, output)
    SELECT CASE WHEN i % 10 = 0 THEN f.first + 1 ELSE f.first + 2 + i % greatest({n} / 10 - 10, 1) END, 'step-' || i, i, 's', '1'
    FROM generate_series(1, {n}) AS i, (SELECT min(id) AS first FROM workflow_executions WHERE status = 'completed') AS f
    ON CONFLICT DO NOTHING
    """,
    "INSERT INTO test_suites (name) SELECT 'suite-' || i FROM generate_series(1, 10) AS i",
    """
    INSERT INTO test_cases (test_suite_id, name)
    SELECT (SELECT min(id) FROM test_suites WHERE name LIKE 'suite-%') + i % 10, 'case-' || i
    FROM generate_series(1, greatest({n} / 1000, 20)) AS i
    """,
    """
    INSERT INTO test_runs (test_suite_id, status, finished_at)
    SELECT (SELECT min(id) FROM test_suites WHERE name LIKE 'suite-%'), 'passed', now()
    FROM generate_series(1, 100) AS i
    """,
    """
    INSERT INTO test_results (test_case_id, metric_name, metric_value, status, test_run_id)
    SELECT c.first + i % greatest({n} / 1000, 20), 'metric-' || i % 3, i % 100,
        CASE WHEN i % 200 = 0 THEN 'fail' ELSE 'pass' END, r.first + 1 + (i / 7) % 90
    FROM generate_series(1, {n} / 2) AS i,
        (SELECT min(id) AS first FROM test_cases WHERE name LIKE 'case-%') AS c, (SELECT min(id) AS first FROM test_runs) AS r
    """,
    """
    INSERT INTO storage.objects (bucket_id, name, metadata)
    SELECT 'ground', 'folder-' || i % 100 || '/file-' || i, '{{}}' FROM generate_series(1, {n} / 10) AS i
    """,
    "INSERT INTO auth.users (id, email) SELECT gen_random_uuid(), 'user-' || i FROM generate_series(1, {n} / 100) AS i",
)


def fill(url: str, size: int) -> None:
    """Write the rows of a database of `size` tasks, a transaction for each table, and analyze it."""
    with psycopg.connect(url, autocommit=True) as connection:
        # Rows of the log of a year are in partitions of their months, as they would be after a year.
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET maintenance_work_mem = '128MB'")
        for table in ("brk_tracking.broker_request",):
            make_months(connection, table)
        for statement in STATEMENTS:
            connection.execute(statement.format(n=size).encode())
        connection.execute("VACUUM (ANALYZE)")


def make_months(connection: psycopg.Connection, table: str) -> None:
    """Create the partitions of the past year."""
    connection.execute(f"""
        DO $$ DECLARE first date; BEGIN
            FOR i IN 1..13 LOOP
                first := date_trunc('month', now() AT TIME ZONE 'UTC') - i * interval '1 month';
                EXECUTE format('CREATE TABLE IF NOT EXISTS {table}_%s PARTITION OF {table} FOR VALUES FROM (%L) TO (%L)',
                    to_char(first, 'YYYY_MM'), first::text || ' 00:00:00+00',
                    (first + interval '1 month')::date::text || ' 00:00:00+00');
            END LOOP;
        END $$
    """)
