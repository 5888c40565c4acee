"""Rows in and out: the database of another platform adopted, and tables exported to files and imported."""

from __future__ import annotations
