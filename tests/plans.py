"""How the server would run a statement."""

from __future__ import annotations

from alfred_db.queries.shapes.explain import Explain

__all__ = ["Explain"]
