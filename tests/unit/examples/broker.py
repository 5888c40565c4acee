"""Example calls of the statements about the broker's catalog."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import func, null
from unit.examples import Call, call

from alfred_db import (
    BrokerModel,
    HostedModel,
    HostedModelPrice,
    HostingProvider,
    ModelFamily,
    ModelMaker,
    ModelSnapshot,
)

TIME = datetime(2047, 11, 4, 7, 1, 1, tzinfo=UTC)
MODEL = {"code": "code-4711", "name": "name-4711", "family_id": 4711, "capabilities": {"key-4711": True}}
PRICE = {
    "hosted_model_id": 4711,
    "valid_from": TIME,
    "input_price": Decimal("4.711"),
    "output_price": Decimal("4712"),
}
CURSOR = "WyJjb2RlLTQ3MTEiXQ=="
ALL = {
    "model": "model-4711",
    "family": "family-4711",
    "maker": "maker-4711",
    "capability": "capability-4711",
    "provider": "provider-4711",
    "inactive": False,
    "at": TIME,
    "limit": 471,
}

EXAMPLES: dict[str, list[Call]] = {
    "put": [
        call(HostingProvider, {"code": "code-4711", "name": "name-4711", "is_active": False}),
        call(ModelMaker, {"code": "code-4711", "name": "name-4711", "metadata_": {"key-4711": 4711}}),
        call(ModelFamily, {"code": "code-4711", "maker_id": 4711, "name": "name-4711"}),
        call(BrokerModel, MODEL),
        call(ModelSnapshot, {"model_id": 4711, "code": "code-4711", "name": "n-4711", "released_at": TIME}),
        call(
            HostedModel, {"provider_id": 4711, "code": "code-4711", "model_id": 4712, "snapshot_id": null()}
        ),
        call(HostedModelPrice, PRICE),
        call(HostedModelPrice, PRICE | {"valid_from": func.now()}),
    ],
    "same": [
        call(BrokerModel, MODEL),
        call(HostedModelPrice, PRICE),
        call(HostedModelPrice, PRICE | {"valid_from": func.now()}),
    ],
    "by_code": [call(kind, "code-4711") for kind in (HostingProvider, ModelMaker, ModelFamily, BrokerModel)],
    "snapshot": [call("model-4711", "code-4711")],
    "snapshots": [call("model-4711")],
    "hosted_model": [call("provider-4711", "code-4711")],
    "providers": [call(after=None, limit=471), call(after=CURSOR, limit=471)],
    "makers": [call(after=None, limit=471), call(after=CURSOR, limit=471)],
    "families": [
        call(maker=None, after=None, limit=471),
        call(maker="maker-4711", after=CURSOR, limit=471),
    ],
    "models": [
        call(family=None, capability=None, after=None, limit=471),
        call(family="family-4711", capability="capability-4711", after=CURSOR, limit=471),
    ],
    "offers": [
        call(**ALL),
        call(**dict.fromkeys(ALL) | {"inactive": True, "limit": 471}),
    ],
    "price": [call("provider-4711", "code-4711", None), call("provider-4711", "code-4711", TIME)],
    "prices": [call("provider-4711", "code-4711")],
    "everything": [call()],
}
