"""Alembic's entry, whichever door it was opened by; `alfred_db.migrate.env` does the work."""

from __future__ import annotations

from alfred_db.migrate import env

env.run()
