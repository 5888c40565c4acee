"""Connections: the pool, sessions, units of work, notifications."""
