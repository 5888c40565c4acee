"""Processed messages: what has been seen, and until when that is remembered.

Lock impact: none on tables that exist; only new ones are made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables

revision = "alfred_0009_messages"
down_revision = "alfred_0008_tasks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ddl("""
        CREATE TABLE processed_messages (
            message_id TEXT NOT NULL,
            processed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            expires_at TIMESTAMP WITH TIME ZONE DEFAULT now() + interval '48 hours' NOT NULL,
            CONSTRAINT pk_processed_messages PRIMARY KEY (message_id)
        )
        WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)
    """)
    ddl("CREATE INDEX idx_processed_messages_expires_at ON processed_messages (expires_at)")


def downgrade() -> None:
    drop_tables("processed_messages")
