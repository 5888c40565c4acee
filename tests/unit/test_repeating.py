"""Calls that are repeated beside a block."""

from __future__ import annotations

import threading

import pytest

from alfred_db.engine.repeating import repeating


def test_a_call_is_repeated_until_the_block_ends() -> None:
    calls = threading.Semaphore(0)
    threads: set[int] = set()

    def call() -> None:
        threads.add(threading.get_ident())
        calls.release()

    with repeating(call, 0.001):
        assert all(calls.acquire(timeout=30) for _ in range(3))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_what_it_raises_is_raised_at_the_end_and_not_instead_of_what_the_block_raises() -> None:
    called = threading.Event()

    def call() -> None:
        called.set()
        raise ValueError("of the call")

    def block(error: Exception | None) -> None:
        with repeating(call, 0.001):
            assert called.wait(30)
            if error is not None:
                raise error

    with pytest.raises(ValueError, match="of the call"):
        block(None)
    with pytest.raises(KeyError, match="of the block"):
        block(KeyError("of the block"))
