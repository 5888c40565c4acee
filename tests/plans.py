"""How the server would run a statement."""

from __future__ import annotations

from alfred_db.queries._explain import Explain

__all__ = ["Explain"]
