"""Example calls of the statements about agents."""

from __future__ import annotations

import uuid

from unit.examples import Call, call

from alfred_db import AgentStatus

AGENT, INCARNATION = uuid.uuid4(), uuid.uuid4()

EXAMPLES: dict[str, list[Call]] = {
    "register": [
        call(
            "agent-4711",
            type="kind-4711",
            version="version-4711",
            incarnation=INCARNATION,
            status=AgentStatus.ACTIVE,
            capabilities=["capability-4711"],
            endpoint_url="https://endpoint-4711",
            health_check_url=None,
            configuration={"key-4711": 4711},
        )
    ],
    "get": [call(AGENT)],
    "get_by_name": [call("agent-4711")],
    "heartbeat": [call(AGENT, INCARNATION)],
    "set_status": [call(AGENT, AgentStatus.MAINTENANCE)],
    "deregister": [call(AGENT, INCARNATION)],
    "alive": [
        call(within=4711.5, type=None, after=None, limit=471),
        call(within=4711.5, type="kind-4711", after="WyJhZ2VudC00NzExIl0=", limit=471),
    ],
    "with_capabilities": [
        call(["capability-4711", "capability-4712"], alive_within=None, after=None, limit=471),
        call(["capability-4711"], alive_within=4711.5, after=None, limit=471),
    ],
    "list_": [call(after=None, limit=471), call(after="WyJhZ2VudC00NzExIl0=", limit=471)],
}
