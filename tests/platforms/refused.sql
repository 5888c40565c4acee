-- Statements of the platforms' documents that cannot run here; docs/howto/adopt.md has the reason of each.

-- 42P01 alfred: the platform's migrations
SELECT * FROM migrations ORDER BY id DESC LIMIT 5;

-- 42703 alfred: slow statements
SELECT query, calls, total_time, mean_time, rows FROM pg_stat_statements ORDER BY total_time DESC LIMIT 10;

-- 42703 knowledge agent: how often its indexes are used
SELECT schemaname, tablename, indexname, idx_scan, idx_tup_read, idx_tup_fetch FROM pg_stat_user_indexes WHERE indexname LIKE '%embedding%';

-- 42701 firefoundry: the vectors are added
ALTER TABLE wm.working_memory ADD COLUMN embedding vector(1536);

-- 42P07 firefoundry: the index of the vectors is made
CREATE INDEX embedding_idx ON wm.working_memory USING hnsw (embedding vector_cosine_ops);

-- 23514 paddle: a message of a role that the documents do not have
INSERT INTO conversations (session_id, role, content) VALUES ('paddle-1', 'moderator', 'quiet, please');

-- 23502 alfred: NULL where a column has a default
INSERT INTO tasks (task_id, intent, priority) VALUES ('doc-19', 'EMBED', NULL);
