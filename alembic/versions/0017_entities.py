"""The entity graph: nodes and edges.

Lock impact: none on tables that exist; only new ones are made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables, trigram_index, updated_by_trigger

revision = "alfred_0017_entities"
down_revision = "alfred_0016_working_memory"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ddl("""
        CREATE TABLE entity.entity_node (
            id UUID DEFAULT extensions.uuid_generate_v4() NOT NULL,
            node_type TEXT NOT NULL,
            key TEXT NOT NULL,
            name TEXT,
            description TEXT,
            properties JSONB DEFAULT '{}'::jsonb NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT pk_entity_node PRIMARY KEY (id),
            CONSTRAINT uq_entity_node_node_type_key UNIQUE (node_type, key)
        )
    """)
    ddl("""
        CREATE INDEX idx_entity_node_properties ON entity.entity_node
        USING gin (properties jsonb_path_ops)
    """)
    trigram_index("entity.entity_node", "name")
    trigram_index("entity.entity_node", "key")
    updated_by_trigger("entity.entity_node")
    ddl("""
        CREATE TABLE entity.entity_edge (
            id UUID DEFAULT extensions.uuid_generate_v4() NOT NULL,
            source_id UUID NOT NULL,
            target_id UUID NOT NULL,
            edge_type TEXT NOT NULL,
            weight DOUBLE PRECISION DEFAULT 1 NOT NULL,
            properties JSONB DEFAULT '{}'::jsonb NOT NULL,
            valid_from TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            valid_to TIMESTAMP WITH TIME ZONE,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            superseded_at TIMESTAMP WITH TIME ZONE,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT pk_entity_edge PRIMARY KEY (id),
            CONSTRAINT ck_entity_edge_valid CHECK (valid_to > valid_from),
            CONSTRAINT fk_entity_edge_source_id FOREIGN KEY (source_id) REFERENCES entity.entity_node (id) ON DELETE CASCADE,
            CONSTRAINT fk_entity_edge_target_id FOREIGN KEY (target_id) REFERENCES entity.entity_node (id) ON DELETE CASCADE
        )
    """)
    ddl("""
        CREATE INDEX idx_entity_edge_properties ON entity.entity_edge
        USING gin (properties jsonb_path_ops)
    """)
    ddl("""
        CREATE INDEX idx_entity_edge_source_id_weight_id_edge_type ON entity.entity_edge
        (source_id, weight, id, edge_type)
    """)
    ddl("""
        CREATE INDEX idx_entity_edge_target_id_weight_id_edge_type ON entity.entity_edge
        (target_id, weight, id, edge_type)
    """)
    ddl("""
        CREATE UNIQUE INDEX uq_entity_edge_holding ON entity.entity_edge (source_id, target_id, edge_type)
        WHERE superseded_at IS NULL AND valid_to IS NULL
    """)
    ddl("""
        CREATE UNIQUE INDEX uq_entity_edge_source_id_target_id_edge_type_valid_from ON entity.entity_edge (source_id, target_id, edge_type, valid_from)
        WHERE superseded_at IS NULL
    """)
    updated_by_trigger("entity.entity_edge")


def downgrade() -> None:
    drop_tables("entity.entity_edge", "entity.entity_node")
