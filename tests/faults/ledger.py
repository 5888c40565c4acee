"""What happened in a run: the tables that workers of these tests write, and what must hold of them afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

TABLES = (
    """CREATE TABLE attempts (task_id uuid, claim_seq bigint, worker text, PRIMARY KEY (task_id, claim_seq))""",
    """CREATE TABLE effects (task_id uuid, claim_seq bigint, worker text)""",
)
"""`attempts` counts what happens at least once, in a transaction of its own; `effects` what happens exactly once,
in that of the completion. Nothing but the library keeps a task from having two effects."""

ATTEMPT = text("INSERT INTO attempts VALUES (:id, :claim_seq, :worker) ON CONFLICT DO NOTHING")
EFFECT = text("INSERT INTO effects VALUES (:id, :claim_seq, :worker)")


@dataclass(frozen=True)
class Figures:
    """The end of a run."""

    tasks: int
    lost: int
    unfinished: int
    completed: int
    failed: int
    cancelled: int
    effects: int
    doubled: int
    """Tasks with more than one effect."""
    without_effect: int
    """Completed tasks that have none."""
    stray: int
    """Effects of tasks that are not completed."""
    attempts: int
    retried: int
    """Tasks that more than one attempt was made for."""
    crashes: int
    """Attempts that a reaper ended."""
    failures: int
    """Attempts that the handler ended by an error, and that were followed by another."""
    wrong_budgets: int
    """Tasks whose counters do not add up, or exceed what they are allowed."""
    stray_leases: int
    """Tasks that nobody holds, and that have a lease."""

    def assert_sound(self) -> None:
        """Everything that was enqueued has ended, and each task that was completed has had its effect once."""
        broken = {
            name: getattr(self, name)
            for name in (
                "lost",
                "unfinished",
                "doubled",
                "without_effect",
                "stray",
                "wrong_budgets",
                "stray_leases",
            )
            if getattr(self, name)
        }
        assert not broken, (broken, self)
        assert self.effects == self.completed


_FIGURES = text(
    """
    WITH done AS (
        SELECT t.*, (SELECT count(*) FROM effects e WHERE e.task_id = t.id) AS effects,
            (SELECT count(*) FROM attempts a WHERE a.task_id = t.id) AS attempts
        FROM tasks t
    )
    SELECT count(*) AS tasks,
        (SELECT count(*) FROM unnest(CAST(:known AS text[])) AS known
            WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = known)) AS lost,
        count(*) FILTER (WHERE status IN ('pending', 'processing')) AS unfinished,
        count(*) FILTER (WHERE status = 'completed') AS completed,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
        (SELECT count(*) FROM effects) AS effects,
        count(*) FILTER (WHERE effects > 1) AS doubled,
        count(*) FILTER (WHERE status = 'completed' AND effects = 0) AS without_effect,
        count(*) FILTER (WHERE status <> 'completed' AND effects > 0) AS stray,
        coalesce(sum(attempts), 0) AS attempts,
        count(*) FILTER (WHERE attempts > 1) AS retried,
        coalesce(sum(crash_count), 0) AS crashes,
        coalesce(sum(retry_count), 0) AS failures,
        count(*) FILTER (WHERE
            -- Every claim but the one that ended the task was ended by a crash or a failure.
            claim_seq - retry_count - crash_count NOT BETWEEN 0 AND 1
            OR status = 'completed' AND claim_seq <> retry_count + crash_count + 1
            OR attempts > claim_seq
            OR retry_count + crash_count > max_retries + 1
            OR status = 'failed' AND retry_count + crash_count < max_retries
            OR status <> 'failed' AND retry_count + crash_count > max_retries) AS wrong_budgets,
        count(*) FILTER (WHERE status <> 'processing'
            AND (lease_expires_at IS NOT NULL OR attempt_deadline_at IS NOT NULL)) AS stray_leases
    FROM done
    """
)


def figures(session: Session, known: Iterable[str]) -> Figures:
    """What became of the tasks with these `task_id`s, which were enqueued for certain, and of all others."""
    row = session.execute(_FIGURES, {"known": list(known)}).one()
    return Figures(**{name: int(value) for name, value in row._mapping.items()})
