"""The model registry, the broker, entities, validation, users and storage."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from . import JSON, Specimens
from .ground import NOON

_ENDPOINT = {"endpoint_type": "chat", "endpoint_url": "u", "auth_type": "a", "headers": JSON}
_MODEL = {
    "name": "new",
    "display_name": "d",
    "provider": "p",
    "model_type": "t",
    "version": "1",
    "description": "d",
    "endpoints": [_ENDPOINT],
    "capabilities": {"c": 0.5},
}
_MADE = {"code": "new", "name": "n", "metadata": JSON}
_HOSTED = {"provider": "ground", "code": "ground"}
_CATALOG = {
    "providers": [_MADE],
    "makers": [_MADE],
    "families": [{**_MADE, "maker": "ground"}],
    "models": [{**_MADE, "family": "ground", "capabilities": JSON}],
    "snapshots": [{**_MADE, "model": "ground", "released_at": "2026-01-01T00:00:00Z"}],
    "hosted_models": [{**_MADE, "provider": "ground", "model": "ground", "snapshot": "ground"}],
    "prices": [
        {
            **_HOSTED,
            "valid_from": "2026-01-01T00:00:00Z",
            "input_price": "1",
            "output_price": 1,
            "currency": "EUR",
        }
    ],
}
_WHO = {"model": "m", "provider": "p", "agent_name": "a"}
_REQUEST = {
    "request_id": "r",
    **_WHO,
    "request": JSON,
    "session_id": "s",
    "trace_id": "t",
}

SPECIMENS: Specimens = {
    **{
        f"broker_catalog.import_catalog, {section}": lambda g, section=section: {
            "document": {section: _CATALOG[section]}
        }
        for section in _CATALOG
    },
    "model_registry.capabilities": lambda g: {"name": "ground"},
    "model_registry.deprecate": lambda g: {"name": "ground"},
    "model_registry.endpoints": lambda g: {"name": "ground", "endpoint_type": "chat", "auth_type": "a"},
    "model_registry.find_best": lambda g: {"capability": "c", "provider": "p", "model_type": "t"},
    "model_registry.get": lambda g: {"name": "ground"},
    "model_registry.import_catalog": lambda g: {"document": {"registry": [_MODEL]}},
    "model_registry.list": lambda g: {"provider": "p", "model_type": "t"},
    "model_registry.rank": lambda g: {"capability": "c", "provider": "p", "model_type": "t"},
    "model_registry.register": lambda g: _MODEL,
    "model_registry.select_endpoint": lambda g: {"name": "ground", "endpoint_type": "chat", "auth_type": "a"},
    "model_registry.update": lambda g: {
        "name": "ground",
        "values": {
            "name": "n",
            "display_name": "d",
            "provider": "p",
            "model_type": "t",
            "version": "1",
            "description": "d",
        },
    },
    "broker_catalog.find_offers": lambda g: {
        "model": "ground",
        "family": "ground",
        "maker": "ground",
        "capability": "c",
        "provider": "ground",
    },
    "broker_catalog.get_family": lambda g: {"code": "ground"},
    "broker_catalog.get_hosted_model": lambda g: _HOSTED,
    "broker_catalog.get_maker": lambda g: {"code": "ground"},
    "broker_catalog.get_model": lambda g: {"code": "ground"},
    "broker_catalog.get_price": lambda g: _HOSTED,
    "broker_catalog.get_provider": lambda g: {"code": "ground"},
    "broker_catalog.get_snapshot": lambda g: {"model": "ground", "code": "ground"},
    "broker_catalog.list_families": lambda g: {"maker": "ground"},
    "broker_catalog.list_makers": lambda g: {},
    "broker_catalog.list_models": lambda g: {"family": "ground", "capability": "c"},
    "broker_catalog.list_prices": lambda g: _HOSTED,
    "broker_catalog.list_providers": lambda g: {},
    "broker_catalog.list_snapshots": lambda g: {"model": "ground"},
    "broker_catalog.put_family": lambda g: {**_MADE, "maker": "ground"},
    "broker_catalog.put_hosted_model": lambda g: {
        **_MADE,
        "provider": "ground",
        "model": "ground",
        "snapshot": "ground",
    },
    "broker_catalog.put_maker": lambda g: _MADE,
    "broker_catalog.put_model": lambda g: {**_MADE, "family": "ground", "capabilities": JSON},
    "broker_catalog.put_price": lambda g: {
        **_HOSTED,
        "input_price": Decimal(2),
        "output_price": Decimal(2),
        "currency": "EUR",
    },
    "broker_catalog.put_provider": lambda g: _MADE,
    "broker_catalog.put_snapshot": lambda g: {**_MADE, "model": "ground"},
    "broker_requests.attempts": lambda g: {"request_id": "ground"},
    "broker_requests.detach_partition": lambda g: {"name": g.partition},
    "broker_requests.finish": lambda g: {
        "id": g.request,
        "created_at": g.requested,
        "response": JSON,
        "error_code": "c",
        "error_message": "m",
    },
    "broker_requests.log_many": lambda g: {
        "rows": [
            {
                **_REQUEST,
                "response": JSON,
                "status": "failed",
                "currency": "EUR",
                "error_code": "c",
                "error_message": "m",
                "metadata": JSON,
            }
        ]
    },
    "broker_requests.partition_readers": lambda g: {"name": g.partition},
    "broker_requests.recent": lambda g: {**_WHO, "session_id": "s"},
    "broker_requests.start": lambda g: {**_REQUEST, "metadata": JSON},
    "broker_requests.usage": lambda g: {
        "since": NOON,
        "until": NOON + timedelta(days=1),
        "by": ["model", "day"],
        "timezone": "UTC",
        **_WHO,
    },
    "entities.facts": lambda g: {"node_id": g.node, "edge_types": ["ground"]},
    "entities.find_node": lambda g: {"node_type": "t", "key": "ground"},
    "entities.history": lambda g: {"source_id": g.node, "target_id": g.other, "edge_type": "ground"},
    "entities.list_nodes": lambda g: {"node_type": "t", "properties": JSON},
    "entities.neighbours": lambda g: {"node_id": g.node, "edge_types": ["ground"]},
    "entities.shortest_path": lambda g: {
        "source_id": g.node,
        "target_id": g.other,
        "edge_types": ["ground"],
    },
    "entities.subgraph": lambda g: {"node_ids": [g.node], "edge_types": ["ground"]},
    "entities.upsert_edge": lambda g: {
        "source_id": g.node,
        "target_id": g.other,
        "edge_type": "new",
        "properties": JSON,
    },
    "entities.upsert_node": lambda g: {
        "node_type": "t",
        "key": "new",
        "name": "n",
        "description": "d",
        "properties": JSON,
    },
    "validation.add_case": lambda g: {"suite_id": g.suite, "name": "n", "description": "d"},
    "validation.create_suite": lambda g: {"name": "n", "description": "d"},
    "validation.finish_case": lambda g: {"case_id": g.case, "status": "passed", "result": "r"},
    "validation.list_cases": lambda g: {"suite_id": g.suite},
    "validation.list_results": lambda g: {"run_id": g.test_run},
    "validation.list_runs": lambda g: {"suite_id": g.suite},
    "validation.list_suites": lambda g: {},
    "validation.record": lambda g: {"case_id": g.case, "metric": "m", "value": 1},
    "validation.start_run": lambda g: {"suite_id": g.suite, "metadata": JSON},
    "validation.trend": lambda g: {"case_id": g.case, "metric": "ground"},
    "users.get_by_email": lambda g: {"email": "ground"},
    "users.list": lambda g: {},
    "storage.create_bucket": lambda g: {
        "bucket_id": "new",
        "name": "new",
        "allowed_mime_types": ["text/plain"],
    },
    "storage.delete": lambda g: {"bucket_id": "ground", "name": "ground"},
    "storage.delete_bucket": lambda g: {"bucket_id": "empty"},
    "storage.get": lambda g: {"bucket_id": "ground", "name": "ground"},
    "storage.get_bucket": lambda g: {"bucket_id": "ground"},
    "storage.list": lambda g: {"bucket_id": "ground", "prefix": "g"},
    "storage.list_buckets": lambda g: {},
    "storage.list_dangling": lambda g: {"bucket_id": "ground", "provider": "p"},
    "storage.list_references": lambda g: {"blob_key": "ground"},
    "storage.list_unreferenced": lambda g: {"bucket_id": "ground", "prefix": "g"},
    "storage.move": lambda g: {
        "bucket_id": "ground",
        "name": "ground",
        "to_name": "new",
        "to_bucket": "ground",
    },
    "storage.put": lambda g: {"bucket_id": "ground", "name": "new", "metadata": JSON, "version": "v"},
}
