"""The broker's request log without a foreign key to the catalog: the log outlives it, and each may be on a server of its own.

Lock impact: ACCESS EXCLUSIVE on broker_request, its partitions and brk_registry.hosted_model for a moment; no row is read.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl

revision = "alfred_0036_log_without_key"
down_revision = "alfred_0035_spaces"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ddl("ALTER TABLE brk_tracking.broker_request DROP CONSTRAINT IF EXISTS fk_broker_request_hosted_model_id")


def downgrade() -> None:
    ddl("""
        UPDATE brk_tracking.broker_request SET hosted_model_id = NULL
        WHERE hosted_model_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM brk_registry.hosted_model WHERE hosted_model.id = hosted_model_id)
    """)
    ddl("""
        ALTER TABLE brk_tracking.broker_request ADD CONSTRAINT fk_broker_request_hosted_model_id
        FOREIGN KEY (hosted_model_id) REFERENCES brk_registry.hosted_model (id) ON DELETE SET NULL
    """)
