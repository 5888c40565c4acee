"""Wake workers early: NOTIFY after a commit, in batches.

Workers poll. A notification only makes them poll sooner, so a lost one costs time and nothing else. A
transaction that notifies holds a lock of the whole server while it commits, so the library's transactions
never do. A `Notifier` collects the commits and notifies on a separate connection.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import URL, event
from sqlalchemy.dialects.postgresql import psycopg as dialect
from sqlalchemy.orm import Session, sessionmaker

from .pool import connect_args
from .session import Kind, state_of

__all__ = [
    "Notifier",
    "announce",
    "cancelled_in",
    "cancelled_payload",
    "channel_of",
    "channel_of_cancelled",
    "channel_of_ends",
    "connect",
    "payload_of",
    "wakes",
]

GATHER, MOST_GATHERED = 0.001, 0.01
"""Seconds until the next notification, for each commit that the last one served, and at most.

A lone commit is announced at once. The more of them come, the more share one notification.
"""

MAX_PAYLOAD = 7000
"""Bytes of a payload, of which the server accepts less than 8000; with more kinds of tasks, every worker is woken."""

LAST_MOMENT = 5.0
"""Seconds that `close` waits for the last notification."""

_log = logging.getLogger(__name__)


def channel_of(schema: str | None) -> str:
    """Return the name of the tenant's channel; at most 63 bytes, the server's limit."""
    if schema is None:
        return "alfred_db_tasks"
    if len(schema.encode()) > 40:
        schema = hashlib.sha256(schema.encode()).hexdigest()[:40]
    return f"alfred_db_tasks_{schema}"


def payload_of(kinds: Iterable[Kind | UUID | None]) -> str:
    """Return the payload of a notification, or nothing, which wakes everybody who listens.

    Args:
        kinds: The queue and the intent of each task, None for any: they become JSON. Or the tasks that have ended: their
            ids, separated by commas.
    """
    named = list(kinds)
    if None in named:
        return ""
    ended = [one.hex for one in named if isinstance(one, UUID)]
    payload = ",".join(ended) if ended else json.dumps(named, separators=(",", ":"))
    return payload if len(payload) <= MAX_PAYLOAD else ""


def wakes(payload: str, queues: Collection[str] | None, intents: Collection[str] | None) -> bool:
    """Return whether a worker of these queues and intents has to look for tasks; None is all of them."""
    if not payload:
        return True
    try:
        return any(
            (queues is None or queue in queues) and (intents is None or intent in intents)
            for queue, intent in json.loads(payload)
        )
    except (ValueError, TypeError):  # somebody else notifies the channel
        return True


def channel_of_ends(schema: str | None) -> str:
    """Return the name of the tenant's channel for the ends of tasks that somebody waits for."""
    return channel_of(schema).replace("alfred_db_tasks", "alfred_db_ended", 1)


def channel_of_cancelled(schema: str | None) -> str:
    """Return the name of the tenant's channel for what runs and is to be cancelled."""
    return channel_of(schema).replace("alfred_db_tasks", "alfred_db_cancelled", 1)


def cancelled_payload(noun: str, ids: Collection[UUID | int]) -> str:
    """Return the payload that names what runs and is to be cancelled; nothing, which names all, if they are many."""
    payload = f"{noun}:{','.join([one.hex if isinstance(one, UUID) else str(one) for one in ids])}"
    return payload if len(payload) <= MAX_PAYLOAD else ""


def cancelled_in(payload: str) -> set[tuple[str, str]] | None:
    """Return what a payload of `cancelled_payload` names, each by its noun and its id as text; None is all."""
    noun, separator, ids = payload.partition(":")
    return {(noun, id) for id in ids.split(",")} if separator else None


class Notifier:
    """Notifies channels shortly after each request, in a separate thread and on a separate connection.

    Both are created when they are first needed, and all tenants share them. A notification that cannot be sent is
    dropped.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._asked: deque[tuple[str, Collection[Kind | UUID | None]]] = deque()
        self._stopped = False
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def notify(self, channel: str, kinds: Iterable[Kind | UUID | None] = (None,)) -> None:
        """Request a notification about tasks of these kinds, None for any, or about the end of tasks.

        Returns at once and never fails.
        """
        self._asked.append((channel, frozenset(kinds)))
        self._wake.set()
        if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
            self._start()

    def after_commits(self, sessions: type[Session] | sessionmaker[Session], channel: str, ends: str) -> None:
        """Notify a channel whenever one of these sessions has committed tasks that it enqueued, `ends` of those ended."""

        def committed(session: Session) -> None:
            # Releasing a savepoint commits nothing: the tasks are announced when the transaction itself commits.
            state = state_of(session)
            if state.enqueued and session.get_nested_transaction() is None:
                kinds, state.enqueued = state.enqueued, set()
                self.notify(channel, kinds)
            if state.ended and session.get_nested_transaction() is None:
                ids, state.ended = state.ended, set()
                self.notify(ends, ids)

        event.listen(sessions, "after_commit", committed)

    def close(self) -> None:
        """Send the pending notification and end the thread and the connection; a later `notify` starts them again."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=LAST_MOMENT)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._stopped = False
                self._thread = threading.Thread(target=self._run, name="alfred-db notifier", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        connection: psycopg.Connection | None = None
        free_at = 0.0  # when the next notification may be sent
        while self._asked or not self._stopped:
            self._wake.wait()
            self._wake.clear()
            if not self._stopped:
                time.sleep(max(0.0, free_at - time.monotonic()))
            asked: dict[str, set[Kind | UUID | None]] = {}
            commits = 0
            with suppress(IndexError):
                while True:
                    channel, kinds = self._asked.popleft()
                    asked.setdefault(channel, set()).update(kinds)
                    commits += 1
            for channel, found in asked.items():
                connection = self._send(connection, channel, payload_of(found))
            if asked:
                free_at = time.monotonic() + min(commits * GATHER, MOST_GATHERED)
        if connection is not None:
            connection.close()

    def _send(
        self, connection: psycopg.Connection | None, channel: str, payload: str
    ) -> psycopg.Connection | None:
        """Notify a channel; return the connection to use next time."""
        try:
            connection = connection or connect(self._url, "alfred-db notifier")
            connection.execute("SELECT pg_catalog.pg_notify(%s, %s)", [channel, payload])
        except psycopg.Error as error:
            with suppress(Exception):  # of a filter or a handler of the application's log
                _log.debug("could not notify %s: %s", channel, error)
            if connection is not None:
                connection.close()
            return None
        return connection


def announce(notifier: Notifier | None, schema: str | None, *sessions: sessionmaker[Any]) -> None:
    """Have commits of these sessions wake the workers of the tenant, through the one notifier of the pool."""
    if notifier is not None:
        for each in sessions:
            notifier.after_commits(each, channel_of(schema), channel_of_ends(schema))


def connect(url: URL, application_name: str) -> psycopg.Connection:
    """Return an autocommit connection outside of any pool."""
    options: dict[str, Any] = dialect.dialect().create_connect_args(url)[1]  # type: ignore[no-untyped-call]
    return psycopg.connect(
        **options, **connect_args(url, application_name), autocommit=True, prepare_threshold=None
    )
