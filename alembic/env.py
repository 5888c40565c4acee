"""Alembic's entry, whichever door it was opened by; `alfred_db.runner` does the work."""

from __future__ import annotations

from alfred_db import runner

runner.run()
