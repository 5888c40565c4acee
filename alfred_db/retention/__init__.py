"""Retention: what is deleted after which time, by a policy, in batches with short transactions.

policy = RetentionPolicy(tasks="30d", workflows="90d", events="180d")
purge(db, policy, dry_run=True)                 # counts
purge(db, policy)                               # deletes just these
Worker(db, handlers, retention=policy)          # does it from time to time
"""

from __future__ import annotations

from .policy import Age, RetentionPolicy
from .purging import BATCH, KINDS, PurgeResult, purge

__all__ = ["BATCH", "KINDS", "Age", "PurgeResult", "RetentionPolicy", "purge"]
