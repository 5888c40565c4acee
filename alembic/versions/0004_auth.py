"""Users: read from Supabase's table where that exists, else a table of the same shape.

Lock impact: none on tables that exist; only new ones are made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import create_unless_exists, drop_if_made_here, shared, trigger_of

revision = "alfred_0004_auth"
down_revision = "alfred_0003_tenant_schemas"
branch_labels = None
depends_on = None


@shared
def upgrade() -> None:
    create_unless_exists(
        "auth.users",
        """
        CREATE TABLE auth.users (
            id UUID NOT NULL,
            email TEXT,
            phone TEXT,
            encrypted_password TEXT,
            email_confirmed_at TIMESTAMP WITH TIME ZONE,
            phone_confirmed_at TIMESTAMP WITH TIME ZONE,
            confirmation_token TEXT,
            confirmation_sent_at TIMESTAMP WITH TIME ZONE,
            recovery_token TEXT,
            recovery_sent_at TIMESTAMP WITH TIME ZONE,
            email_change_token TEXT,
            email_change TEXT,
            email_change_sent_at TIMESTAMP WITH TIME ZONE,
            last_sign_in_at TIMESTAMP WITH TIME ZONE,
            raw_app_meta_data JSONB,
            raw_user_meta_data JSONB,
            created_at TIMESTAMP WITH TIME ZONE,
            updated_at TIMESTAMP WITH TIME ZONE,
            deleted_at TIMESTAMP WITH TIME ZONE,
            CONSTRAINT pk_users PRIMARY KEY (id),
            CONSTRAINT uq_users_email UNIQUE (email),
            CONSTRAINT uq_users_phone UNIQUE (phone)
        )
    """,
        trigger_of("auth.users"),
    )


@shared
def downgrade() -> None:
    drop_if_made_here("auth.users")
