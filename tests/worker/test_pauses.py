"""The pauses of a worker after failures: each is twice as long as the last, up to a limit, and shortened at random."""

from __future__ import annotations

import random

import pytest

from alfred_db.worker._loop import _growing


def test_a_pause_doubles_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    assert [_growing(0.5, times, 6.0) for times in range(6)] == [0.5, 1.0, 2.0, 4.0, 6.0, 6.0]
    assert _growing(0.5, 10_000, 6.0) == 6.0


def test_a_pause_is_shortened_by_a_quarter_at_most() -> None:
    pauses = [_growing(1.0, 2, 60.0) for _ in range(1_000)]
    assert 3.0 <= min(pauses) < 3.2
    assert 3.8 < max(pauses) <= 4.0
