"""Model Context Protocol: groups of tools over the repositories, served over stdio or HTTP.

Needs the extra `mcp`. Importing this package imports nothing of the SDK.
"""

from __future__ import annotations

__all__ = ["GROUPS"]

GROUPS = ("vector-store", "agent-memory", "rag", "testing", "scheduler", "postgres")
"""The groups of tools, in the order in which they are listed."""
