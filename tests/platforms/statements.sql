-- Statements of the platforms, in the order in which their applications send them, each after its name.
-- They come from the platforms' documents: verbatim where the document has the statement, else from the operations that
-- it names and the columns of its tables. Parameters are written out.

-- alfred: a task is filed
INSERT INTO tasks (task_id, intent, content, priority, created_by) VALUES ('doc-17', 'SUMMARISE', '{"url": "https://example.com"}', 5, 'agent-core');

-- alfred: a task of a task
INSERT INTO tasks (task_id, intent, parent_task_id) SELECT 'doc-17-a', 'EMBED', id FROM tasks WHERE task_id = 'doc-17';

-- alfred: the next task is taken
UPDATE tasks SET status = 'processing', assigned_to = 'financial-agent' WHERE id = (SELECT id FROM tasks WHERE status = 'pending' AND task_id LIKE 'doc-17%' ORDER BY priority DESC, created_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, task_id, intent, content;

-- alfred: a task is completed
UPDATE tasks SET status = 'completed' WHERE task_id = 'doc-17';

-- alfred: a task fails
UPDATE tasks SET status = 'failed', error_message = 'no such page', retry_count = retry_count + 1 WHERE task_id = 'doc-17-a';

-- alfred: a failed task is tried again
UPDATE tasks SET status = 'pending' WHERE task_id = 'doc-17-a';

-- alfred: a task is cancelled
UPDATE tasks SET status = 'cancelled', updated_at = NOW() WHERE task_id = 'doc-17-a';

-- alfred: a finished task is recorded
INSERT INTO tasks (id, task_id, intent, status) VALUES (extensions.uuid_generate_v4(), 'doc-18', 'SUMMARISE', 'completed');

-- alfred: a result is stored
INSERT INTO task_results (task_id, result_type, content) SELECT id, 'summary', '{"text": "short"}' FROM tasks WHERE task_id = 'doc-17';

-- alfred: tasks with their results
SELECT t.task_id, t.status, t.completed_at, r.content FROM tasks t LEFT JOIN task_results r ON r.task_id = t.id WHERE t.task_id LIKE 'doc-%' ORDER BY t.created_at DESC LIMIT 20;

-- alfred: a message is handled once
INSERT INTO processed_messages (message_id) VALUES ('message-1') ON CONFLICT (message_id) DO NOTHING RETURNING message_id;

-- alfred: old messages are forgotten
DELETE FROM processed_messages WHERE expires_at < NOW();

-- alfred: an agent registers
INSERT INTO agent_registry (name, type, version, status, endpoint_url, capabilities) VALUES ('agent-rag', 'rag', '2.0.0', 'active', 'http://agent-rag:8501', '["search"]') ON CONFLICT (name) DO UPDATE SET version = EXCLUDED.version, status = EXCLUDED.status, updated_at = NOW();

-- alfred: an agent lives
UPDATE agent_registry SET last_heartbeat = NOW() WHERE name = 'agent-rag';

-- alfred: a model is registered
INSERT INTO model_registry.models (name, display_name, provider, model_type) VALUES ('gpt-4', 'GPT-4', 'openai', 'chat') RETURNING id;

-- alfred: a capability is scored
INSERT INTO model_registry.model_capabilities (model_id, capability, capability_score) SELECT id, 'code', 0.9 FROM model_registry.models WHERE name = 'gpt-4' ON CONFLICT (model_id, capability) DO UPDATE SET capability_score = EXCLUDED.capability_score;

-- alfred: the size of the tables
SELECT tablename, pg_size_pretty(pg_total_relation_size(schemaname || '.' || tablename)) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY pg_total_relation_size(schemaname || '.' || tablename) DESC LIMIT 10;

-- paddle: a document is added
INSERT INTO documents (title, content, embedding, metadata) VALUES ('A page', 'its text', '{vector384}', '{"lang": "en"}') RETURNING id;

-- paddle: documents are searched
SELECT id, title, content, metadata, 1 - (embedding <=> '{vector384}') AS similarity FROM documents ORDER BY embedding <=> '{vector384}' LIMIT 10;

-- paddle: documents by their metadata
SELECT id FROM documents WHERE metadata @> '{"lang": "en"}' ORDER BY created_at DESC;

-- paddle: a document is updated
UPDATE documents SET content = 'its other text', updated_at = CURRENT_TIMESTAMP WHERE title = 'A page';

-- paddle: a document is deleted
DELETE FROM documents WHERE title = 'A page';

-- paddle: a memory is stored
INSERT INTO memory_banks (name, description) VALUES ('paddle', 'of the agent');
INSERT INTO memories (memory_bank_id, content, embedding, importance) SELECT id, 'the user likes tea', '{vector384}', 5 FROM memory_banks WHERE name = 'paddle';

-- paddle: memories are retrieved
SELECT * FROM memories WHERE memory_bank_id = (SELECT max(id) FROM memory_banks WHERE name = 'paddle');

-- paddle: memories are searched
SELECT * FROM memories ORDER BY embedding <=> '{vector384}' LIMIT 10;

-- paddle: an access is counted
UPDATE memories SET access_count = access_count + 1, last_accessed = NOW() WHERE content = 'the user likes tea';

-- paddle: a message is appended
INSERT INTO conversations (session_id, role, content) VALUES ('paddle-1', 'user', 'hello'), ('paddle-1', 'assistant', 'hello, too');

-- paddle: the history of a session
SELECT role, content FROM conversations WHERE session_id = 'paddle-1' ORDER BY created_at, id;

-- paddle: a question and its answer
INSERT INTO rag_sessions (session_id, context) VALUES ('paddle-1', 'tea') ON CONFLICT (session_id) DO UPDATE SET context = EXCLUDED.context, updated_at = CURRENT_TIMESTAMP;
INSERT INTO rag_queries (session_id, query_text, context_used, response) SELECT id, 'which tea?', 'memories', 'green' FROM rag_sessions WHERE session_id = 'paddle-1';

-- paddle: a test is run
INSERT INTO test_suites (name) VALUES ('smoke');
INSERT INTO test_cases (test_suite_id, name) SELECT max(id), 'search' FROM test_suites WHERE name = 'smoke';
UPDATE test_cases SET status = 'passed', result = 'ok', execution_time = 12, executed_at = CURRENT_TIMESTAMP WHERE name = 'search';
INSERT INTO test_results (test_case_id, metric_name, metric_value, threshold, status) SELECT max(id), 'latency', 12.5, 100, 'pass' FROM test_cases WHERE name = 'search';

-- paddle: the results of a suite
SELECT s.name, c.name, c.status, r.metric_value FROM test_suites s JOIN test_cases c ON c.test_suite_id = s.id LEFT JOIN test_results r ON r.test_case_id = c.id WHERE s.name = 'smoke';

-- paddle: a command is scheduled
INSERT INTO scheduler_tasks (name, command, schedule) VALUES ('backup', 'pg_dump', '0 3 * * *') RETURNING id;

-- paddle: an execution begins
INSERT INTO scheduler_executions (task_id, status) SELECT max(id), 'running' FROM scheduler_tasks WHERE name = 'backup' RETURNING id;

-- paddle: an execution ends
UPDATE scheduler_executions SET status = 'completed', exit_code = 0, output = 'done' WHERE task_id = (SELECT max(id) FROM scheduler_tasks WHERE name = 'backup');

-- paddle: an execution that has ended is recorded
INSERT INTO scheduler_executions (task_id, status, start_time, end_time, exit_code, error_output) SELECT max(id), 'failed', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 1, 'disk full' FROM scheduler_tasks WHERE name = 'backup';

-- paddle: a workflow is defined and run
INSERT INTO workflows (name, definition, status, created_by) VALUES ('review', '{"steps": ["read", "write"]}', 'active', 'ag2');
INSERT INTO workflow_executions (workflow_id, status, input_data) SELECT max(id), 'running', '{"page": 1}' FROM workflows WHERE name = 'review';
UPDATE workflow_executions SET current_step = current_step + 1 WHERE status = 'running' AND input_data = '{"page": 1}';

-- paddle: a run ends
UPDATE workflow_executions SET status = 'completed', output_data = '{"ok": true}' WHERE input_data = '{"page": 1}';

-- paddle: a run fails
UPDATE workflow_executions SET status = 'failed', error_message = 'no page' WHERE input_data = '{"page": 1}';

-- firefoundry: a record is stored
INSERT INTO wm.working_memory (entity_node_id, name, description, memory_type, reasoning, lookup_info, action_log, memory_content) VALUES (gen_random_uuid(), 'plan', 'the plan', 'json', 'it is asked for', '{"by": "name"}', '["stored"]', '{"steps": [1, 2]}');

-- firefoundry: records of working memory
SELECT id, name, memory_type, provider, status FROM wm.working_memory ORDER BY created_at DESC LIMIT 10;

-- firefoundry: references to blobs
SELECT id, name, blob_key, provider FROM wm.working_memory WHERE blob_key IS NOT NULL;

-- firefoundry: the providers
SELECT name, code FROM brk_registry.hosting_provider;

-- firefoundry: the models by provider
SELECT m.name as model, hp.name as provider FROM brk_registry.model m JOIN brk_registry.hosted_model hm ON m.id = hm.model_id JOIN brk_registry.hosting_provider hp ON hm.provider_id = hp.id ORDER BY hp.name, m.name;

-- firefoundry: a request is logged
INSERT INTO brk_tracking.broker_request (request_id, status) VALUES ('request-1', 'pending'), ('request-2', 'completed');
UPDATE brk_tracking.broker_request SET status = 'completed' WHERE request_id = 'request-1';

-- firefoundry: recent requests
SELECT id, request_id, status, created_at FROM brk_tracking.broker_request ORDER BY created_at DESC LIMIT 10;

-- knowledge agent: an entry is stored
INSERT INTO memory_entries (app_name, user_id, event_id, author, content, embedding) VALUES ('agent', 'u-1', 'e-1', 'user', 'a fact', '{vector768}');

-- knowledge agent: entries are searched
SELECT content, author, embedding <=> '{vector768}' AS distance FROM memory_entries WHERE app_name = 'agent' AND user_id = 'u-1' ORDER BY embedding <=> '{vector768}' LIMIT 5;

-- knowledge agent: the size of the table and of its index
SELECT pg_size_pretty(pg_total_relation_size('memory_entries')), pg_size_pretty(pg_relation_size('idx_memory_entries_embedding'));

-- knowledge agent: the extension
SELECT * FROM pg_extension WHERE extname = 'vector';
SELECT '[1,2,3]'::vector <-> '[4,5,6]'::vector AS distance;
