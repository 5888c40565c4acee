"""The group agent-memory: memories in banks, and the messages of conversations."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from ..models import Memory, MemoryBank
from ..repositories import AsyncUnitOfWork
from ..values.memories import MemoryRow
from .embedding import Mode, embed, vector_of
from .results import Cursor, Cut, Done, Key, Limit, Metadata, Noted, PageOf, When
from .tools import Tools
from .vector_store import Query

__all__ = ["register"]

Bank = Annotated[
    str,
    Field(
        description="The name of the memory bank: one agent, person or project.",
        min_length=1,
        max_length=1_000,
    ),
]
Session = Annotated[str, Field(description="The key of the conversation.", min_length=1, max_length=1_000)]
Text = Annotated[str, Field(min_length=1, max_length=1_000_000)]
Role = Literal["user", "assistant", "system", "tool"]

WHOLE = "retrieve_memory returns a whole memory."


class MemoryItem(BaseModel):
    """A memory."""

    id: int
    content: str
    importance: int
    access_count: int
    seen_count: int = Field(description="How often the same text was stored.")
    metadata: dict[str, Any] | None
    created_at: When
    last_accessed: When | None
    expires_at: When | None


class FoundMemory(MemoryItem):
    """A memory that a search found."""

    score: float = Field(description="Higher is better; comparable within one result only.")


class FoundMemories(Noted):
    """The memories that a search found, best first."""

    memories: list[FoundMemory]
    mode: str = Field(description="What was compared: words, meaning, or both.")


class MemoryPage(PageOf):
    """A page of memories."""

    memories: list[MemoryItem]


class StoredMemory(BaseModel):
    """How a memory was stored."""

    id: int
    outcome: str = Field(description="`stored`, or `seen` if the bank had the same text already.")
    embedded: bool = Field(description="Whether it has a vector; without one only words find it.")


class BankItem(BaseModel):
    """A memory bank."""

    id: int
    name: str
    description: str | None
    memories: int


class BankPage(PageOf):
    """A page of memory banks."""

    banks: list[BankItem]


class Message(BaseModel):
    """A message of a conversation."""

    id: int
    session_id: str
    role: str
    content: str
    metadata: dict[str, Any] | None
    created_at: When


class MessagePage(PageOf):
    """Messages, the oldest first."""

    messages: list[Message]


class FoundMessages(Noted):
    """Messages that a search found, best first."""

    messages: list[Message]


class Touched(BaseModel):
    """How many memories were counted as used."""

    touched: int


def item(row: Memory | MemoryRow, cut: Cut) -> dict[str, Any]:
    """Return the fields of a memory."""
    return {
        "id": row.id,
        "content": cut.required(row.content),
        "importance": row.importance,
        "access_count": row.access_count,
        "seen_count": row.seen_count,
        "metadata": cut.metadata(row.metadata_),
        "created_at": row.created_at,
        "last_accessed": row.last_accessed,
        "expires_at": row.expires_at,
    }


async def _bank(uow: AsyncUnitOfWork, name: str) -> MemoryBank:
    found = await uow.memory_banks.get_by_name(name)
    if found is None:
        raise ToolError(
            f"memory bank {name[:100]!r}: not found; list_banks returns the names, and store_memory creates a bank"
        )
    return found


def register(tools: Tools) -> None:
    """Register the tools of the group."""
    _register_memories(tools)
    _register_conversations(tools)


def _register_memories(tools: Tools) -> None:
    @tools.writes("Store a memory", destructive=True)
    async def store_memory(
        content: Text,
        bank: Bank = "default",
        importance: Annotated[int, Field(description="1 (trivial) to 10 (vital).", ge=1, le=10)] = 1,
        metadata: Metadata = None,
        ttl_seconds: Annotated[
            int | None, Field(description="Forget it after this time; null keeps it.", ge=1, le=3_153_600_000)
        ] = None,
    ) -> StoredMemory:
        """Remember one fact for later conversations; creates the bank if needed.

        Store one fact in one call, in a full sentence that is clear without this conversation. A text that the
        bank has already is counted, not stored again. For the messages of a conversation use append_message.
        """
        vector = await embed(tools.embedder, content)
        async with tools.writing() as uow:
            stored = await uow.memories.remember(
                await uow.memory_banks.get_or_create(bank),
                content,
                embedding=vector,
                importance=importance,
                metadata=metadata,
                ttl=None if ttl_seconds is None else timedelta(seconds=ttl_seconds),
            )
            return StoredMemory(id=stored.id, outcome=stored.outcome.value, embedded=vector is not None)

    @tools.reads("Search memories")
    async def search_memories(
        query: Query, bank: Bank = "default", limit: Limit = 10, mode: Mode = "auto"
    ) -> FoundMemories:
        """Find what is remembered about something, best first. Call it before you answer about the past.

        mode='meaning' also ranks by importance and recency. Call touch_memory with the ids that you used.
        """
        vector = await vector_of(tools.embedder, query, mode)
        async with tools.reading() as uow:
            where = await _bank(uow, bank)
            if mode == "meaning":
                hits = (await uow.memories.recall(where, vector, limit=limit)).hits
            else:
                hits = (await uow.memories.hybrid_search(where, query, vector, limit=limit)).hits
        cut = Cut(len(hits), WHOLE)
        memories = [FoundMemory(**item(hit.row, cut), score=hit.score) for hit in hits]
        used = mode if mode != "auto" else "words" if vector is None else "both"
        return FoundMemories(memories=memories, mode=used, note=cut.note)

    @tools.reads("Retrieve a memory")
    async def retrieve_memory(memory_id: Key) -> MemoryItem:
        """Read one memory by its id."""
        async with tools.reading() as uow:
            found = await uow.memories.get(memory_id)
        if found is None:
            raise ToolError(f"memory {memory_id}: not found, or expired; search_memories returns the ids")
        return MemoryItem(**item(found, Cut(1, "")))

    @tools.reads("List memories")
    async def list_memories(bank: Bank = "default", after: Cursor = None, limit: Limit = 50) -> MemoryPage:
        """List all memories of a bank, the oldest first, page by page."""
        async with tools.reading() as uow:
            page = await uow.memories.list(await _bank(uow, bank), after=after, limit=limit)
        cut = Cut(len(page), WHOLE)
        memories = [MemoryItem(**item(row, cut)) for row in page]
        return MemoryPage(memories=memories, next=page.next, note=cut.note)

    @tools.reads("List memory banks")
    async def list_banks(after: Cursor = None, limit: Limit = 50) -> BankPage:
        """List the memory banks with the number of their memories."""
        async with tools.reading() as uow:
            page = await uow.memory_banks.list(up_to=None, after=after, limit=limit)
        cut = Cut(len(page), "no tool returns the whole text.")
        banks = [
            BankItem(
                id=bank.id,
                name=cut.required(bank.name),
                description=cut.text(bank.description),
                memories=bank.memories,
            )
            for bank in page
        ]
        return BankPage(banks=banks, next=page.next, note=cut.note)

    @tools.writes("Count memories as used")
    async def touch_memory(
        memory_ids: Annotated[list[Key], Field(min_length=1, max_length=1_000)],
    ) -> Touched:
        """Record that memories helped to answer, which keeps them from fading."""
        async with tools.writing() as uow:
            return Touched(touched=await uow.memories.touch(memory_ids))

    @tools.writes("Forget a memory", destructive=True, idempotent=True)
    async def forget_memory(memory_id: Key) -> Done:
        """Delete one memory for ever."""
        async with tools.writing() as uow:
            await uow.memories.forget(memory_id)
        return Done(message=f"memory {memory_id} is forgotten")


def _register_conversations(tools: Tools) -> None:
    @tools.writes("Append a message")
    async def append_message(
        session_id: Session, role: Role, content: Text, metadata: Metadata = None
    ) -> Message:
        """Append one message to a conversation; the first message creates it."""
        async with tools.writing() as uow:
            added = await uow.conversations.append(session_id, role, content, metadata=metadata)
            return _message(added, Cut(1, ""))

    @tools.reads("Read a conversation")
    async def history(session_id: Session, after: Cursor = None, limit: Limit = 50) -> MessagePage:
        """Read the messages of a conversation, the oldest first, page by page."""
        async with tools.reading() as uow:
            page = await uow.conversations.history(session_id, after=after, limit=limit)
        cut = Cut(len(page), "ask for fewer messages with `limit`.")
        messages = [_message(row, cut) for row in page]
        return MessagePage(messages=messages, next=page.next, note=cut.note)

    @tools.reads("Search messages")
    async def search_messages(
        query: Query, session_id: Annotated[str | None, Field(max_length=1_000)] = None, limit: Limit = 10
    ) -> FoundMessages:
        """Find messages of one conversation, or of all, that contain these words."""
        async with tools.reading() as uow:
            hits = await uow.conversations.search(query, session_id=session_id, limit=limit)
        cut = Cut(len(hits), "history returns the conversation.")
        return FoundMessages(messages=[_message(hit.row, cut) for hit in hits], note=cut.note)


def _message(row: Any, cut: Cut) -> Message:
    return Message(
        id=row.id,
        session_id=row.session_id,
        role=str(row.role),
        content=cut.required(row.content),
        metadata=cut.metadata(row.metadata_),
        created_at=row.created_at,
    )
