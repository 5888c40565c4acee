-- Rows as the applications leave them: NULLs, statuses without times, unknown roles, gaps in the keys, parents after
-- their children, repeated names. {n} is the number of rows of a large table.
SELECT setseed(0.5);
INSERT INTO tasks (id, task_id, intent, status, content, priority, created_by, assigned_to, created_at, updated_at, started_at, completed_at, failed_at, error_message, retry_count, max_retries, timeout_seconds, metadata)
SELECT CAST(md5('task' || i) AS uuid), 'task-' || i, (ARRAY['SUMMARISE', 'EMBED', 'REPORT'])[1 + i % 3],
    (ARRAY['pending', 'processing', 'completed', 'failed', 'cancelled'])[1 + i % 5],
    CASE WHEN i % 7 = 0 THEN NULL ELSE jsonb_build_object('url', 'https://example.com/' || i, 'n', i / 10.0) END,
    CASE WHEN i % 11 = 0 THEN NULL ELSE 1 + i % 5 END, CASE WHEN i % 2 = 0 THEN 'agent-' || i % 9 END, NULL,
    CASE WHEN i % 13 = 0 THEN NULL ELSE now() - i * interval '1 minute' END,
    CASE WHEN i % 17 = 0 THEN NULL ELSE now() - i * interval '30 seconds' END,
    CASE WHEN i % 3 = 0 THEN now() - i * interval '50 seconds' END,
    CASE WHEN i % 4 = 0 THEN now() - i * interval '40 seconds' END,
    CASE WHEN i % 9 = 0 THEN now() - i * interval '40 seconds' END,
    CASE WHEN i % 5 = 3 THEN E'failed:\tline one\nline two \\ end' END,
    CASE WHEN i % 19 = 0 THEN -1 ELSE i % 4 END, CASE WHEN i % 23 = 0 THEN NULL ELSE 3 END,
    CASE WHEN i % 29 = 0 THEN 0 ELSE 300 END, CASE WHEN i % 2 = 0 THEN NULL ELSE '{"source": "old"}'::jsonb END
FROM generate_series(1, {n}) AS i;
UPDATE tasks SET parent_task_id = CAST(md5('task' || (1 + (substr(task_id, 6)::int * 7) % {n})) AS uuid)
WHERE substr(task_id, 6)::int % 4 = 1;
INSERT INTO task_results (task_id, result_type, content, created_at, metadata)
SELECT CASE WHEN i % 10 = 0 THEN NULL ELSE CAST(md5('task' || i) AS uuid) END, 'text', to_jsonb('result ' || i), CASE WHEN i % 5 = 0 THEN NULL ELSE now() END, NULL
FROM generate_series(1, {n}) AS i;
INSERT INTO processed_messages (message_id, processed_at, expires_at)
SELECT 'message\' || i || E'\t' || chr(200 + i % 50), CASE WHEN i % 5 = 0 THEN NULL ELSE now() END, CASE WHEN i % 7 = 0 THEN NULL ELSE now() + interval '1 day' END
FROM generate_series(1, {n}) AS i;
INSERT INTO agent_registry (name, type, version, status, endpoint_url, capabilities, configuration, last_heartbeat, registered_at, updated_at)
SELECT 'agent-' || i, 'llm', '1.' || i, (ARRAY['active', 'inactive', 'maintenance', NULL])[1 + i % 4], 'http://agent-' || i, CASE WHEN i % 3 = 0 THEN NULL ELSE '["chat"]'::jsonb END, NULL, CASE WHEN i % 2 = 0 THEN now() END, NULL, NULL
FROM generate_series(1, least({n}, 500)) AS i;
INSERT INTO auth.users (id, email, created_at, raw_user_meta_data)
SELECT CAST(md5('user' || i) AS uuid), 'user-' || i || '@example.com', CASE WHEN i % 2 = 0 THEN now() END, '{"name": "x"}'::jsonb
FROM generate_series(1, {n}) AS i;
INSERT INTO model_registry.models (id, name, display_name, provider, model_type, version, created_at)
SELECT i * 3, 'model-' || i, 'Model ' || i, 'openai', 'chat', NULL, CASE WHEN i % 2 = 0 THEN now() END FROM generate_series(1, least({n}, 500)) AS i;
SELECT setval('model_registry.models_id_seq', 100000);
INSERT INTO model_registry.model_endpoints (model_id, endpoint_type, endpoint_url, headers)
SELECT CASE WHEN i % 5 = 0 THEN NULL ELSE i * 3 END, 'rest', 'https://api/' || i, '{"x": [1, null]}'::jsonb FROM generate_series(1, least({n}, 500)) AS i;
INSERT INTO model_registry.model_capabilities (model_id, capability, capability_score)
SELECT i * 3, 'chat', i / 7.0 FROM generate_series(1, least({n}, 500)) AS i;
INSERT INTO documents (id, title, content, embedding, metadata, created_at, updated_at)
SELECT i * 2, CASE WHEN i % 5 = 0 THEN NULL ELSE 'Title ' || i END, CASE WHEN i % 50 = 0 THEN NULL ELSE repeat('text ' || i || ' ', 20) END,
    CASE WHEN i % 10 = 0 THEN NULL ELSE (SELECT array_agg(random() + (g - i) * 0)::vector FROM generate_series(1, 384) AS g) END,
    (ARRAY['{"lang": "en"}', '[1, 2]', 'null', NULL]::jsonb[])[1 + i % 4], timestamp '2025-08-20 12:00' - i * interval '1 hour', CASE WHEN i % 3 = 0 THEN NULL ELSE timestamp '2025-08-20 12:00' END
FROM generate_series(1, {n}) AS i;
INSERT INTO memory_banks (name, description) SELECT 'bank-' || i % 5, NULL FROM generate_series(1, 20) AS i;
INSERT INTO memories (memory_bank_id, content, embedding, metadata, importance, access_count, last_accessed, created_at)
SELECT CASE WHEN i % 9 = 0 THEN NULL ELSE 1 + i % 20 END, 'memory ' || i % 90, CASE WHEN i % 4 = 0 THEN NULL ELSE (SELECT array_agg(random() + (g - i) * 0)::vector FROM generate_series(1, 384) AS g) END,
    NULL, CASE WHEN i % 8 = 0 THEN NULL ELSE i % 10 END, CASE WHEN i % 8 = 1 THEN NULL ELSE i % 3 END, CASE WHEN i % 2 = 0 THEN timestamp '2025-08-20 12:00' END, CASE WHEN i % 6 = 0 THEN NULL ELSE timestamp '2025-01-01' END
FROM generate_series(1, {n}) AS i;
INSERT INTO conversations (session_id, role, content, metadata, created_at)
SELECT 'session-' || i % 40, (ARRAY['user', 'assistant', 'System', 'human', 'ai', 'moderator', 'function'])[1 + i % 7], 'message ' || i, CASE WHEN i % 2 = 0 THEN '{"k": 1}'::jsonb END,
    CASE WHEN i % 100 = 0 THEN NULL ELSE timestamp '2025-08-20 12:00' + i * interval '1 second' END
FROM generate_series(1, {n}) AS i;
INSERT INTO rag_sessions (session_id, context) SELECT 'rag-' || i, NULL FROM generate_series(1, least({n}, 500)) AS i;
INSERT INTO rag_queries (session_id, query_text, context_used, response, metadata)
SELECT CASE WHEN i % 6 = 0 THEN NULL ELSE 1 + i % least({n}, 500) END, 'question ' || i, NULL, CASE WHEN i % 2 = 0 THEN 'answer' END, NULL FROM generate_series(1, {n}) AS i;
INSERT INTO test_suites (name) SELECT 'suite' FROM generate_series(1, 20) AS i;
INSERT INTO test_cases (test_suite_id, name, status, result, execution_time, executed_at)
SELECT CASE WHEN i % 6 = 0 THEN NULL ELSE 1 + i % 20 END, 'case ' || i, (ARRAY['pending', 'running', 'passed', 'failed', 'error', 'PASSED', NULL, 'flaky'])[1 + i % 8], NULL, i, CASE WHEN i % 2 = 0 THEN timestamp 'infinity' ELSE timestamp '2025-01-01' END FROM generate_series(1, {n}) AS i;
INSERT INTO test_results (test_case_id, metric_name, metric_value, threshold, status)
SELECT 1 + i % {n}, 'latency', i % 1000 + 0.1234, NULL, (ARRAY['unknown', 'pass', 'fail', 'warning', 'passed', NULL])[1 + i % 6] FROM generate_series(1, {n}) AS i;
INSERT INTO scheduler_tasks (name, command, schedule, is_active, max_retries, retry_delay, timeout)
SELECT 'job', 'run ' || i, (ARRAY['*/5 * * * *', 'not cron', NULL])[1 + i % 3], (ARRAY[true, false, NULL])[1 + i % 3], CASE WHEN i % 4 = 0 THEN -1 ELSE 3 END, NULL, CASE WHEN i % 5 = 0 THEN 0 ELSE 300 END FROM generate_series(1, 50) AS i;
INSERT INTO scheduler_executions (task_id, status, start_time, end_time, exit_code, output, created_at)
SELECT CASE WHEN i % 12 = 0 THEN NULL ELSE 1 + i % 50 END, (ARRAY['pending', 'running', 'completed', 'failed', 'timeout', 'success', NULL])[1 + i % 7], CASE WHEN i % 2 = 0 THEN timestamp '2025-08-20 12:00' END,
    CASE WHEN i % 3 = 0 THEN timestamp '2025-08-20 13:00' END, i % 2, 'output ' || i, timestamp '2025-08-20 12:00' + (i % 3) * interval '1 microsecond' FROM generate_series(1, {n}) AS i;
INSERT INTO workflows (name, definition, status, created_by) SELECT 'flow-' || i % 10, '{"steps": []}'::jsonb, (ARRAY['draft', 'active', 'completed', 'failed', 'paused'])[1 + i % 5], NULL FROM generate_series(1, 30) AS i;
INSERT INTO workflow_executions (workflow_id, status, current_step, input_data, started_at, completed_at)
SELECT CASE WHEN i % 7 = 0 THEN NULL ELSE 1 + i % 30 END, (ARRAY['pending', 'running', 'completed', 'failed', 'cancelled', 'weird'])[1 + i % 6], CASE WHEN i % 5 = 0 THEN NULL ELSE i % 4 END, '{"a": 1}'::jsonb, CASE WHEN i % 2 = 0 THEN timestamp '2025-08-20 12:00' END, CASE WHEN i % 4 = 0 THEN timestamp '2025-08-20 13:00' END FROM generate_series(1, {n}) AS i;
INSERT INTO memory_entries (app_name, user_id, session_id, event_id, author, content, content_text, embedding, timestamp)
SELECT 'app', 'user-' || i % 7, 'session-' || i % 30, 'event-' || i, CASE WHEN i % 2 = 0 THEN 'user' END, jsonb_build_object('parts', jsonb_build_array('text ' || i)), 'text ' || i, CASE WHEN i % 5 = 0 THEN (SELECT array_agg(random() + (g - i) * 0)::vector FROM generate_series(1, 768) AS g) END, now() - i * interval '1 hour' FROM generate_series(1, {n}) AS i;
INSERT INTO entity.node (id, name, type, status, data, updated_at) SELECT CAST(md5('node' || i) AS uuid), CASE WHEN i % 10 = 0 THEN NULL ELSE 'node ' || i % 50 END, 'Thing', 'active', CASE WHEN i % 3 = 0 THEN NULL ELSE '{"x": 1}'::jsonb END, NULL FROM generate_series(1, {n}) AS i;
INSERT INTO entity.edge (from_id, to_id, type, data) SELECT CAST(md5('node' || i) AS uuid), CAST(md5('node' || (1 + i % 3)) AS uuid), 'knows', NULL FROM generate_series(1, {n}) AS i;
INSERT INTO entity.edge (from_id, to_id, type, data) SELECT from_id, to_id, type, data FROM entity.edge LIMIT 10;
INSERT INTO wm.working_memory (entity_node_id, name, description, memory_type, provider, blob_key, status, reasoning, lookup_info, action_log, memory_content, content_type, embedding)
SELECT CASE WHEN i % 2 = 0 THEN CAST(md5('node' || i) AS uuid) END, 'record ' || i, 'what', 'file', CASE WHEN i % 3 = 0 THEN 's3' END, CASE WHEN i % 3 = 0 THEN 'blob-' || i END, (ARRAY['active', 'archived', NULL, 'READY', 'odd'])[1 + i % 5], 'because', '{"by": "name"}'::jsonb, '[1, 2]'::jsonb, '{"a": {"b": null}}'::jsonb, 'application/json',
    CASE WHEN i % 10 = 0 THEN (SELECT array_agg((random() + (g - i) * 0)::real) FROM generate_series(1, CASE WHEN i % 20 = 0 THEN 1536 ELSE 10 END) AS g) END FROM generate_series(1, {n}) AS i;
INSERT INTO brk_registry.hosting_provider (code, name) VALUES ('azure', 'Azure'), ('bedrock', 'Bedrock'), (NULL, 'Other'), ('azure', 'Azure again');
INSERT INTO brk_registry.model_maker (name) VALUES ('Anthropic'), ('OpenAI');
INSERT INTO brk_registry.model_family (name, maker_id) VALUES ('Claude', 1), ('GPT', 2), ('Llama', NULL), ('Lost', 77);
INSERT INTO brk_registry.model (name, family_id, capabilities) SELECT 'model ' || i % 20, CASE WHEN i % 5 = 0 THEN NULL ELSE 1 + i % 4 END, NULL FROM generate_series(1, 40) AS i;
INSERT INTO brk_registry.model_snapshot (name, model_id) SELECT 'snapshot', 1 + i % 40 FROM generate_series(1, 40) AS i;
INSERT INTO brk_registry.hosted_model (model_id, provider_id, name) SELECT 1 + i % 40, CASE WHEN i % 8 = 0 THEN NULL ELSE 1 + i % 4 END, 'deployment' FROM generate_series(1, 60) AS i;
INSERT INTO brk_tracking.broker_request (request_id, status, model, prompt_tokens, created_at)
SELECT CASE WHEN i % 9 = 0 THEN NULL ELSE 'request-' || i END, (ARRAY['pending', 'completed', 'failed', 'success', NULL, 'streaming'])[1 + i % 6], 'gpt', CASE WHEN i % 5 = 0 THEN -1 ELSE i END, CASE WHEN i % 50 = 0 THEN NULL ELSE now() - i * interval '1 hour' END FROM generate_series(1, {n}) AS i;
