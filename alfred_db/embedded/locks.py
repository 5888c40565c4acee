"""Locks on files, between processes and threads; the system drops a lock when its last holder ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["create", "opened", "try_lock", "wait_for"]

_not_for_children: set[int] = set()


def create(path: Path) -> int:
    """Open a file, created if missing, never through a link. Files that root opens get their folder's owner."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    if sys.platform != "win32" and os.geteuid() == 0:
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
    return descriptor


@contextmanager
def opened(path: Path) -> Generator[int]:
    """Open a descriptor for a context; closing it drops the lock, unless another process inherited it."""
    descriptor = create(path)
    _not_for_children.add(descriptor)
    try:
        yield descriptor
    finally:
        _not_for_children.discard(descriptor)
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the lock; return False if another descriptor holds it, even one of this process."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def wait_for(descriptor: int, seconds: float) -> bool:
    """Take the lock as soon as it is free; return False if it was not free in time."""
    deadline = time.monotonic() + seconds
    while not try_lock(descriptor):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _close_in_child() -> None:
    # A thread may fork while another one holds a lock: the child must not hold it on.
    for descriptor in _not_for_children:
        os.close(descriptor)
    _not_for_children.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_in_child)
