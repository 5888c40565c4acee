"""Conversations: messages appended to sessions, read in order, found by word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import MAX_SECONDS, check_keys, check_limit, check_text, one_of, within
from ...errors import ConfigurationError, InvalidInputError, translated
from ...execution._async.base import AsyncRepository
from ...execution._async.bulk import add_many
from ...execution._async.driver import commits_alone, in_transaction
from ...execution._async.hybrid_search import text_statistics
from ...models import Conversation, MessageRole
from ...models.base import table_of
from ...queries import conversations as queries
from ...queries import memory_banks
from ...queries.shapes.hybrid_search import Legs
from ...queries.shapes.paging import as_page
from ...search.results import Hit
from ...values import Page
from ...values.conversations import ConversationHits, ConversationSummary, NewMessage
from .memory_banks import lock_key

MAX_INSERTED = 1_000
"""At most this many messages are sent in one INSERT; more by COPY."""

MAX_TEXT = 10_000
"""Maximum length of a search text in characters: with 100,000 words the server's stack overflows."""

_LEGS = Legs(Conversation, table_of(Conversation).c.search, vector=False)
"""What a search compares."""


class AsyncConversationRepository(AsyncRepository):
    """The messages of each session, in the order of their ids.

    A message gets its id when it is appended, and becomes visible when its transaction commits. Of two
    transactions that append to one session at the same time, the one with the lower ids may commit last. A
    reader that pages through `history` meanwhile misses its messages. Transactions that `lock` the session
    before they append take turns, so that the ids are in the order of the commits and no message is missed.
    """

    async def lock(self, session_id: str) -> None:
        """Lock the session until the transaction ends; waits for another transaction that has locked it.

        Raises:
            ConfigurationError: There is no transaction: the connection is in AUTOCOMMIT.
        """
        check_text("session_id", session_id)
        with translated():
            if await commits_alone(self._session):
                raise ConfigurationError(
                    "lock: ends with its statement, as the connection is in AUTOCOMMIT; use a session without that isolation"
                    " level, such as that of `db.begin()`"
                )
        await self._rows(memory_banks.lock(lock_key(self._session, f"conversation {session_id}")))

    async def append(
        self,
        session_id: str,
        role: MessageRole | str,
        content: str,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """Append a message; the first message creates the session."""
        check_text("session_id", session_id)
        values = (
            session_id,
            one_of(MessageRole, role),
            content,
            None if metadata is None else dict(metadata),
        )
        given = {f"new_{name}": value for name, value in zip(queries.NEW, values, strict=True)}
        ((message,),) = await self._rows(queries.append(), given)
        return message

    async def append_many(self, session_id: str, messages: Sequence[NewMessage]) -> list[int]:
        """Append messages to a session.

        Returns:
            Their ids, which rise in the order of the messages.

        Raises:
            InvalidInputError: A message has wrong keys or an unknown role; the message names it.
            ConflictError: Other means have written a row with one of the new ids.
        """
        check_text("session_id", session_id)
        rows = [_row(session_id, place, message) for place, message in enumerate(messages)]
        if not rows:
            return []
        with translated():
            if len(rows) > MAX_INSERTED:
                ids: list[int] = await add_many(self._session, Conversation, rows)
            else:
                ids = list(await self._session.scalars(queries.append_many(), rows))
            await self._session.execute(queries.count_in(session_id, len(ids), ids[-1]))
        return ids

    async def history(
        self, session_id: str, *, after: str | None = None, limit: int = 100
    ) -> Page[Conversation]:
        """Return a page of the messages of a session, the oldest first."""
        rows = await self._all(queries.history(session_id, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def last(self, session_id: str, n: int = 20) -> Sequence[Conversation]:
        """Return the newest `n` messages of a session, 1 to 1,000, the oldest first."""
        within("n", n, 1, 1000)
        return (await self._all(queries.last(session_id, n)))[::-1]

    async def sessions(self, *, after: str | None = None, limit: int = 100) -> Page[ConversationSummary]:
        """Return a page of the sessions, the one with the newest message first.

        A session that gets a message between two pages moves to the front, and does not appear on later
        pages. A page reads the rows of its sessions only, which `append`, `append_many`, `delete_session` and
        `purge` keep; messages that plain SQL has inserted or deleted are not counted.
        """
        rows = await self._rows(queries.sessions(after=after, limit=limit))
        found = [
            ConversationSummary(row.id, row.session_id, row.messages, row.last_at, row.first_at)
            for row in rows
        ]
        return as_page(found, queries.LIST_KEY, limit)

    async def search(self, text: str, *, session_id: str | None = None, limit: int = 10) -> ConversationHits:
        """Return the messages that contain these English words, the best first.

        If 1,000 messages or more contain the words, the newest 1,000 of them are ranked, and `exact` of the result is
        False; more words, or a `session_id`, find fewer.

        Args:
            text: Words, `"a phrase"`, `or` and `-not`, as in a search engine; at most 10,000 characters.
            session_id: Only messages of this session.
            limit: The maximum number of hits.

        Returns:
            Hits whose `score` rises with the rarity of the words among the searched messages and how often a message has
            them, and falls with its length (BM25).
        """
        within("characters of text", len(text), 0, MAX_TEXT)
        check_limit(limit)
        with translated():
            known = await text_statistics(self._session, _LEGS)
        if session_id is not None:
            # What is common in all messages need not be so in those of a session, where words are counted.
            known = known._replace(rows=0.0, common={})
        statement = queries.search(text, session_id=session_id, limit=limit, **known.parameters(text))
        rows = await self._rows(statement)
        ranked = rows[0].ranked if rows else 0
        hits: list[Hit[Any]] = [Hit(row, None, row.score) for row in rows]
        return ConversationHits(hits, ranked, ranked < queries.CANDIDATES)

    @in_transaction
    async def delete_session(self, session_id: str, *, limit: int | None = None) -> int:
        """Delete all messages of a session; return their number, 0 for an unknown session.

        With a `limit`, call it and commit until it returns less.

        Args:
            session_id: The session.
            limit: The maximum number of messages, 1 to 10,000. None deletes all in this transaction; for many, use
                `Database.in_chunks`.
        """
        rows = await self._in_turns(limit, lambda left: queries.delete_session(session_id, limit=left))
        deleted = len(rows)
        await self._count_out({session_id: deleted})
        return deleted

    @in_transaction
    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        """Delete at most `limit` messages that were stored more than `older_than` seconds ago.

        The oldest messages go first, and a session ends with its last message. Call it in separate
        transactions until it returns less than `limit`. Concurrent calls skip the rows that others have
        locked.

        Returns:
            The number of messages deleted.
        """
        within("older_than", older_than, 0, MAX_SECONDS)
        within("limit", limit, 1, 100_000)
        deleted = [session_id for (session_id,) in await self._rows(queries.purge(older_than, limit=limit))]
        await self._count_out(Counter(deleted))
        return len(deleted)

    async def purgeable(self, *, older_than: float) -> int:
        """Return how many messages calls of `purge` delete in the end."""
        within("older_than", older_than, 0, MAX_SECONDS)
        return (await self._rows(queries.purgeable(older_than)))[0][0]

    async def _count_out(self, counts: Mapping[str, int]) -> None:
        """Take deleted messages out of their sessions, and remove the sessions that ended; waits for nobody."""
        if not sum(counts.values()):
            return
        free = await self._rows(queries.free_rows(sorted(counts)))
        row_of = {session_id: row_id for row_id, session_id in reversed(free)}
        owed = {name: counts[name] for name in sorted(counts.keys() - row_of.keys())}
        if owed:
            await self._rows(queries.owe(owed))
        if free:
            await self._rows(queries.count_out({row_of[name]: counts[name] for name in sorted(row_of)}))
            await self._rows(queries.remove_ended([row_id for row_id, _ in free]))


def _row(session_id: str, place: int, message: NewMessage) -> dict[str, Any]:
    check_keys(f"message {place}", message, NewMessage, "role", "content")
    try:
        role = one_of(MessageRole, message["role"])
    except InvalidInputError as error:
        raise InvalidInputError(f"message {place}: {error}") from None
    metadata = message.get("metadata")
    return {
        "session_id": session_id,
        "role": role,
        "content": message["content"],
        "metadata_": None if metadata is None else dict(metadata),
    }
