"""Conversations: appended message by message, read in order, found by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import check_text, one_of, within
from ...errors import InvalidInputError, shown, translated
from ...execution._async.base import AsyncRepository
from ...execution._async.bulk import add_many
from ...models import Conversation, MessageRole
from ...queries import conversations as queries
from ...queries import memory_banks
from ...queries.shapes.paging import as_page
from ...search.results import Hit
from ...values import Page
from ...values.conversations import ConversationSummary, NewMessage
from .memory_banks import lock_key

FEW = 1_000
"""Up to so many messages are sent in one INSERT; more by COPY."""

MAX_TEXT = 10_000
"""Characters to search for: with 100,000 words the server runs out of stack."""

_CENTURY = 100 * 366 * 86_400.0


class AsyncConversationRepository(AsyncRepository):
    """What was said in each session. The order of a session is that of the messages' ids.

    A message gets its id when it is appended and is seen by others when its transaction commits. Of two
    transactions that append to one session at once, the one with the lower ids may commit last: who pages
    through `history` meanwhile passes its messages over. Transactions that `lock` the session before they
    append take turns: then ids are in the order of commits, and none of theirs is passed over.
    """

    async def lock(self, session_id: str) -> None:
        """Wait until no other transaction has locked this session; the lock ends with the transaction."""
        check_text("session_id", session_id)
        await self._rows(memory_banks.lock(lock_key(self._session, f"conversation {session_id}")))

    async def append(
        self,
        session_id: str,
        role: MessageRole | str,
        content: str,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """Store what was said; the session begins with its first message."""
        check_text("session_id", session_id)
        message = await self._write(queries.append(session_id, one_of(MessageRole, role), content, metadata))
        assert message is not None
        return message

    async def append_many(self, session_id: str, messages: Sequence[NewMessage]) -> list[int]:
        """Store several messages of a session; gives their ids, which rise in the order of the messages."""
        check_text("session_id", session_id)
        rows = [_row(session_id, place, message) for place, message in enumerate(messages)]
        if len(rows) > FEW:
            return await add_many(self._session, Conversation, rows)
        with translated():
            return list(await self._session.scalars(queries.append_many(), rows)) if rows else []

    async def history(
        self, session_id: str, *, after: str | None = None, limit: int = 100
    ) -> Page[Conversation]:
        """The messages of a session, the oldest first, a page at a time."""
        rows = await self._all(queries.history(session_id, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def last(self, session_id: str, n: int = 20) -> Sequence[Conversation]:
        """The newest `n` messages of a session, at most 1,000, in the order that they were said."""
        within("n", n, 1, 1000)
        return (await self._all(queries.last(session_id, n)))[::-1]

    async def sessions(self, *, after: str | None = None, limit: int = 100) -> Page[ConversationSummary]:
        """The sessions, the one with the newest message first, a page at a time.

        A session that goes on while you page moves to the front, where the pages to come no longer look.
        """
        rows = await self._rows(queries.sessions(after=after, limit=limit))
        found = [ConversationSummary(row.id, row.session_id, row.messages, row.created_at) for row in rows]
        return as_page(found, queries.LIST_KEY, limit)

    async def search(self, text: str, *, session_id: str | None = None, limit: int = 10) -> Sequence[Hit]:
        """The messages with these English words, of one session or of all, the best first.

        `text` may hold "a phrase", `or` and `-not`, as in a search engine, and 10,000 characters. A hit's `score`
        is the rank by frequency of the words and length of the message.
        """
        within("characters of text", len(text), 0, MAX_TEXT)
        rows = await self._rows(queries.search(text, session_id=session_id, limit=limit))
        return [Hit(row, None, row.score) for row in rows]

    async def delete_session(self, session_id: str) -> int:
        """Remove all messages of a session; gives their number, which is 0 for one that does not exist."""
        return len(await self._rows(queries.delete_session(session_id)))

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        """Remove at most `limit` messages stored more than `older_than` seconds ago; gives their number.

        Sessions lose their beginnings, and end with their last message. Repeat it, in transactions of their
        own, until it gives less than `limit`; those that run at once pass over what the others hold.
        """
        within("older_than", older_than, 0, _CENTURY)
        within("limit", limit, 1, 100_000)
        return len(await self._rows(queries.purge(older_than, limit=limit)))


def _row(session_id: str, place: int, message: NewMessage) -> dict[str, Any]:
    unknown = sorted(set(message) - set(NewMessage.__annotations__))
    if unknown or not {"role", "content"} <= set(message):
        raise InvalidInputError(
            f"message {place}: expected `role`, `content` and at most `metadata`, got"
            f" {', '.join(map(shown, list(message)[:5])) or 'nothing'}"
        )
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
