"""Kinds of the steps of workflows, so that a resumed run notices that its code does something else.

Lock impact: ACCESS EXCLUSIVE on workflow_steps while its rows are read once.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, refuse_values

revision = "alfred_0040_workflow_step_kinds"
down_revision = "alfred_0039_task_waits"
branch_labels = None
depends_on = None

KINDS = "'step', 'sleep', 'event', 'child', 'result', 'value', 'state', 'patch'"


def upgrade() -> None:
    ddl("ALTER TABLE workflow_steps ADD COLUMN kind TEXT DEFAULT 'step' NOT NULL")
    ddl(f"ALTER TABLE workflow_steps ADD CONSTRAINT ck_workflow_steps_kind CHECK (kind IN ({KINDS}))")


def downgrade() -> None:
    ddl("LOCK TABLE workflow_steps IN ACCESS EXCLUSIVE MODE")
    refuse_values("workflow_steps", "kind <> 'step'", "of another kind")
    ddl("ALTER TABLE workflow_steps DROP COLUMN kind")
