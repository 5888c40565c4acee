-- The tables of the platforms, as their documents have them, and below what the documents only name.

-- Task management tables
CREATE TABLE tasks (
    id UUID PRIMARY KEY DEFAULT extensions.uuid_generate_v4(),
    task_id TEXT UNIQUE NOT NULL,
    intent TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    content JSONB DEFAULT '{}',
    priority INTEGER DEFAULT 1 CHECK (priority BETWEEN 1 AND 5),
    created_by TEXT,
    assigned_to TEXT,
    parent_task_id UUID REFERENCES tasks(id),
    created_at TIMESTAMPTZ DEFAULT NOW(),
    updated_at TIMESTAMPTZ DEFAULT NOW(),
    started_at TIMESTAMPTZ,
    completed_at TIMESTAMPTZ,
    failed_at TIMESTAMPTZ,
    error_message TEXT,
    retry_count INTEGER DEFAULT 0,
    max_retries INTEGER DEFAULT 3,
    timeout_seconds INTEGER DEFAULT 300,
    metadata JSONB DEFAULT '{}'
);

-- Task results table
CREATE TABLE task_results (
    id UUID PRIMARY KEY DEFAULT extensions.uuid_generate_v4(),
    task_id UUID REFERENCES tasks(id) ON DELETE CASCADE,
    result_type TEXT NOT NULL,
    content JSONB NOT NULL,
    created_at TIMESTAMPTZ DEFAULT NOW(),
    metadata JSONB DEFAULT '{}'
);

-- Message deduplication table
CREATE TABLE processed_messages (
    message_id TEXT PRIMARY KEY,
    processed_at TIMESTAMPTZ DEFAULT NOW(),
    expires_at TIMESTAMPTZ DEFAULT NOW() + INTERVAL '48 hours'
);

-- Agent registry table
CREATE TABLE agent_registry (
    id UUID PRIMARY KEY DEFAULT extensions.uuid_generate_v4(),
    name TEXT UNIQUE NOT NULL,
    type TEXT NOT NULL,
    version TEXT NOT NULL,
    status TEXT DEFAULT 'inactive' CHECK (status IN ('active', 'inactive', 'maintenance')),
    endpoint_url TEXT,
    health_check_url TEXT,
    capabilities JSONB DEFAULT '[]',
    configuration JSONB DEFAULT '{}',
    last_heartbeat TIMESTAMPTZ,
    registered_at TIMESTAMPTZ DEFAULT NOW(),
    updated_at TIMESTAMPTZ DEFAULT NOW()
);

-- Users table
CREATE TABLE auth.users (
    id UUID PRIMARY KEY,
    email TEXT UNIQUE,
    phone TEXT UNIQUE,
    encrypted_password TEXT,
    email_confirmed_at TIMESTAMPTZ,
    phone_confirmed_at TIMESTAMPTZ,
    confirmation_token TEXT,
    confirmation_sent_at TIMESTAMPTZ,
    recovery_token TEXT,
    recovery_sent_at TIMESTAMPTZ,
    email_change_token TEXT,
    email_change TEXT,
    email_change_sent_at TIMESTAMPTZ,
    last_sign_in_at TIMESTAMPTZ,
    raw_app_meta_data JSONB,
    raw_user_meta_data JSONB,
    created_at TIMESTAMPTZ,
    updated_at TIMESTAMPTZ,
    deleted_at TIMESTAMPTZ
);

-- Create model_registry schema if not exists
CREATE SCHEMA IF NOT EXISTS model_registry;

-- Create models table
CREATE TABLE IF NOT EXISTS model_registry.models (
    id SERIAL PRIMARY KEY,
    name VARCHAR(100) UNIQUE NOT NULL,
    display_name VARCHAR(200) NOT NULL,
    provider VARCHAR(50) NOT NULL,
    model_type VARCHAR(50) NOT NULL,
    version VARCHAR(50),
    description TEXT,
    created_at TIMESTAMPTZ DEFAULT NOW(),
    updated_at TIMESTAMPTZ DEFAULT NOW()
);

-- Create model_endpoints table
CREATE TABLE IF NOT EXISTS model_registry.model_endpoints (
    id SERIAL PRIMARY KEY,
    model_id INTEGER REFERENCES model_registry.models(id) ON DELETE CASCADE,
    endpoint_type VARCHAR(50) NOT NULL,
    endpoint_url VARCHAR(255),
    auth_type VARCHAR(50),
    headers JSONB,
    created_at TIMESTAMPTZ DEFAULT NOW(),
    updated_at TIMESTAMPTZ DEFAULT NOW()
);

-- Create model_capabilities table
CREATE TABLE IF NOT EXISTS model_registry.model_capabilities (
    id SERIAL PRIMARY KEY,
    model_id INTEGER REFERENCES model_registry.models(id) ON DELETE CASCADE,
    capability VARCHAR(50) NOT NULL,
    capability_score FLOAT NOT NULL,
    UNIQUE(model_id, capability)
);

-- Vector System Schema
CREATE TABLE documents (
  id SERIAL PRIMARY KEY,
  title TEXT,
  content TEXT,
  embedding vector(384),  -- Matches Xenova embedding dimensions
  metadata JSONB,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

-- Vector Index for similarity search
CREATE INDEX idx_documents_embedding ON documents 
USING ivfflat (embedding vector_cosine_ops) 
WITH (lists = 100);

-- Additional indexes for performance
CREATE INDEX idx_documents_created_at ON documents (created_at);
CREATE INDEX idx_documents_metadata ON documents USING GIN (metadata);

-- Memory System Schema
CREATE TABLE memory_banks (
  id SERIAL PRIMARY KEY,
  name VARCHAR(255) NOT NULL,
  description TEXT,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE memories (
  id SERIAL PRIMARY KEY,
  memory_bank_id INTEGER REFERENCES memory_banks(id),
  content TEXT NOT NULL,
  embedding vector(384),  -- For semantic search
  metadata JSONB,
  importance INTEGER DEFAULT 1,
  access_count INTEGER DEFAULT 0,
  last_accessed TIMESTAMP,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE conversations (
  id SERIAL PRIMARY KEY,
  session_id VARCHAR(255) NOT NULL,
  role VARCHAR(50) NOT NULL,  -- 'user' or 'assistant'
  content TEXT NOT NULL,
  metadata JSONB,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

-- Indexes for performance
CREATE INDEX idx_memories_memory_bank_id ON memories (memory_bank_id);
CREATE INDEX idx_memories_importance ON memories (importance DESC);
CREATE INDEX idx_conversations_session_id ON conversations (session_id);
CREATE INDEX idx_conversations_created_at ON conversations (created_at);

-- RAG-specific extensions
CREATE TABLE rag_sessions (
  id SERIAL PRIMARY KEY,
  session_id VARCHAR(255) UNIQUE NOT NULL,
  context TEXT,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE rag_queries (
  id SERIAL PRIMARY KEY,
  session_id INTEGER REFERENCES rag_sessions(id),
  query_text TEXT NOT NULL,
  context_used TEXT,
  response TEXT,
  metadata JSONB,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

-- Indexes
CREATE INDEX idx_rag_sessions_session_id ON rag_sessions (session_id);
CREATE INDEX idx_rag_queries_session_id ON rag_queries (session_id);
CREATE INDEX idx_rag_queries_created_at ON rag_queries (created_at);

-- Testing System Schema
CREATE TABLE test_suites (
  id SERIAL PRIMARY KEY,
  name VARCHAR(255) NOT NULL,
  description TEXT,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE test_cases (
  id SERIAL PRIMARY KEY,
  test_suite_id INTEGER REFERENCES test_suites(id),
  name VARCHAR(255) NOT NULL,
  description TEXT,
  status VARCHAR(50) DEFAULT 'pending',  -- pending, running, passed, failed
  result TEXT,
  execution_time INTEGER,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  executed_at TIMESTAMP
);

CREATE TABLE test_results (
  id SERIAL PRIMARY KEY,
  test_case_id INTEGER REFERENCES test_cases(id),
  metric_name VARCHAR(255) NOT NULL,
  metric_value DECIMAL(10,4),
  threshold DECIMAL(10,4),
  status VARCHAR(20) DEFAULT 'unknown',  -- unknown, pass, fail, warning
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

-- Indexes
CREATE INDEX idx_test_cases_test_suite_id ON test_cases (test_suite_id);
CREATE INDEX idx_test_cases_status ON test_cases (status);
CREATE INDEX idx_test_results_test_case_id ON test_results (test_case_id);

-- Scheduler Schema
CREATE TABLE scheduler_tasks (
  id SERIAL PRIMARY KEY,
  name VARCHAR(255) NOT NULL,
  command TEXT NOT NULL,
  schedule VARCHAR(255),  -- Cron expression
  is_active BOOLEAN DEFAULT true,
  max_retries INTEGER DEFAULT 3,
  retry_delay INTEGER DEFAULT 60,
  timeout INTEGER DEFAULT 300,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE scheduler_executions (
  id SERIAL PRIMARY KEY,
  task_id INTEGER REFERENCES scheduler_tasks(id),
  status VARCHAR(50) DEFAULT 'pending',  -- pending, running, completed, failed
  start_time TIMESTAMP,
  end_time TIMESTAMP,
  exit_code INTEGER,
  output TEXT,
  error_output TEXT,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

-- Indexes
CREATE INDEX idx_scheduler_tasks_is_active ON scheduler_tasks (is_active);
CREATE INDEX idx_scheduler_executions_task_id ON scheduler_executions (task_id);
CREATE INDEX idx_scheduler_executions_status ON scheduler_executions (status);

-- AG2 Orchestrator Schema
CREATE TABLE workflows (
  id SERIAL PRIMARY KEY,
  name VARCHAR(255) NOT NULL,
  definition JSONB NOT NULL,
  status VARCHAR(50) DEFAULT 'draft',  -- draft, active, completed, failed
  created_by VARCHAR(255),
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE workflow_executions (
  id SERIAL PRIMARY KEY,
  workflow_id INTEGER REFERENCES workflows(id),
  status VARCHAR(50) DEFAULT 'pending',  -- pending, running, completed, failed
  current_step INTEGER DEFAULT 0,
  input_data JSONB,
  output_data JSONB,
  error_message TEXT,
  started_at TIMESTAMP,
  completed_at TIMESTAMP,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

-- Indexes
CREATE INDEX idx_workflows_status ON workflows (status);
CREATE INDEX idx_workflow_executions_workflow_id ON workflow_executions (workflow_id);
CREATE INDEX idx_workflow_executions_status ON workflow_executions (status);

-- Knowledge Agent
CREATE TABLE memory_entries (
    id SERIAL PRIMARY KEY,
    app_name VARCHAR(255) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    session_id VARCHAR(255) NOT NULL,
    event_id VARCHAR(255) NOT NULL,
    author VARCHAR(255),
    content JSONB NOT NULL,
    content_text TEXT NOT NULL,
    embedding vector(768),
    timestamp TIMESTAMPTZ NOT NULL,
    created_at TIMESTAMPTZ DEFAULT NOW()
);
CREATE INDEX idx_memory_entries_embedding ON memory_entries
USING hnsw (embedding vector_cosine_ops)
WITH (m = 16, ef_construction = 64);

-- FireFoundry
CREATE TABLE wm.working_memory (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    entity_node_id UUID,
    name TEXT NOT NULL,
    description TEXT,
    memory_type TEXT NOT NULL,
    provider TEXT,
    blob_key TEXT,
    status TEXT,
    reasoning TEXT,
    lookup_info JSONB,
    action_log JSONB,
    memory_content JSONB,
    content_type TEXT,
    created_at TIMESTAMPTZ DEFAULT NOW(),
    embedding REAL[]
);
CREATE TABLE entity.node (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    name TEXT,
    type TEXT NOT NULL,
    status TEXT,
    data JSONB,
    created_at TIMESTAMPTZ DEFAULT NOW(),
    updated_at TIMESTAMPTZ
);
CREATE TABLE entity.edge (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    from_id UUID NOT NULL REFERENCES entity.node(id),
    to_id UUID NOT NULL REFERENCES entity.node(id),
    type TEXT NOT NULL,
    data JSONB,
    created_at TIMESTAMPTZ DEFAULT NOW()
);
CREATE TABLE brk_tracking.broker_request (
    id SERIAL PRIMARY KEY,
    request_id TEXT,
    status TEXT,
    model TEXT,
    prompt_tokens INTEGER,
    created_at TIMESTAMPTZ DEFAULT NOW()
);
CREATE TABLE brk_registry.hosting_provider (id SERIAL PRIMARY KEY, code TEXT, name TEXT);
CREATE TABLE brk_registry.model_maker (id SERIAL PRIMARY KEY, name TEXT);
CREATE TABLE brk_registry.model_family (id SERIAL PRIMARY KEY, name TEXT, maker_id INTEGER);
CREATE TABLE brk_registry.model (id SERIAL PRIMARY KEY, name TEXT, family_id INTEGER, capabilities JSONB);
CREATE TABLE brk_registry.model_snapshot (id SERIAL PRIMARY KEY, name TEXT, model_id INTEGER);
CREATE TABLE brk_registry.hosted_model (
    id SERIAL PRIMARY KEY,
    model_id INTEGER,
    provider_id INTEGER,
    name TEXT
);
