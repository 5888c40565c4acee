"""Example calls of the statements about the model registry."""

from __future__ import annotations

from datetime import UTC, datetime

from unit.examples import Call, call

TIME = datetime(2047, 11, 4, 7, 1, 1, tzinfo=UTC)
VALUES = {"name": "model-4711", "display_name": "display-4711", "provider": "provider-4711", "version": None}

EXAMPLES: dict[str, list[Call]] = {
    "register": [call(VALUES)],
    "change": [call("model-4711", {"description": "description-4711", "deprecated_at": None})],
    "deprecate": [call("model-4711", None), call("model-4711", TIME)],
    "get": [call("model-4711")],
    "by_capability": [
        call("capability-4711", min_score=None, provider=None, model_type=None, limit=471),
        call("capability-4711", min_score=471.1, provider="provider-4711", model_type="type-4711", limit=471),
    ],
    "list_": [
        call(provider=None, model_type=None, deprecated=True, after=None, limit=471),
        call(
            provider="provider-4711",
            model_type="type-4711",
            deprecated=False,
            after="WyJtb2RlbC00NzExIl0=",
            limit=471,
        ),
    ],
    "endpoints": [call(4711)],
    "endpoints_of": [
        call("model-4711", endpoint_type=None, auth_type=None),
        call("model-4711", endpoint_type="type-4711", auth_type="auth-4711"),
    ],
    "add_endpoint": [call()],
    "remove_endpoints": [call(4711)],
    "capabilities": [call(4711)],
    "set_capability": [call()],
    "keep_capabilities": [call(4711, ["capability-4711", "capability-4712"]), call(4711, [])],
    "everything": [call()],
}
