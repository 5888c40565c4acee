from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from plans import Explain
from sqlalchemy import func, select, text, update

from alfred_db import AsyncDatabase, Conversation, ConversationSession, MessageRole
from alfred_db.errors import ConflictError, InvalidInputError
from alfred_db.queries import conversations as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.conversations import AsyncConversationRepository

HOSTILE = (
    """'); DROP TABLE conversations; -- " \\' $$ $1 %s %(x)s :name ::text {0}""",
    "żółć 日本語 🦉 \u202e\u200b ﷽ \U0010ffff",
    "word " * 200_000,
)


@pytest.fixture
def conversations(uow: AsyncUnitOfWork) -> AsyncConversationRepository:
    return AsyncConversationRepository(uow.session)


async def count(conversations: AsyncConversationRepository) -> int:
    found = await conversations._session.scalar(select(func.count()).select_from(Conversation))
    assert found is not None
    return found


async def plan(conversations: AsyncConversationRepository, statement: Any) -> str:
    return "\n".join(await conversations._session.scalars(Explain(statement)))


async def fill(conversations: AsyncConversationRepository) -> None:
    """20 sessions of 500 messages each, all mixed, and what the planner should know of them."""
    for start in range(0, 500, 100):
        for session in range(20):
            messages: Any = [{"role": "user", "content": f"word{start + n} said"} for n in range(100)]
            await conversations.append_many(f"s{session}", messages)
    await conversations._session.execute(text("ANALYZE"))


async def test_a_session_is_read_in_the_order_it_was_added(
    conversations: AsyncConversationRepository,
) -> None:
    first = await conversations.append("s", "user", "How hot is it?")
    second = await conversations.append("s", MessageRole.TOOL, "31 °C", metadata={"name": "thermometer"})
    await conversations.append("other", "user", "Hello")
    third = await conversations.append("s", "assistant", "")
    page = await conversations.history("s")
    assert [message.id for message in page] == [first.id, second.id, third.id]
    assert [message.role for message in page] == [MessageRole.USER, MessageRole.TOOL, MessageRole.ASSISTANT]
    assert (second.content, second.metadata_, first.metadata_) == (
        "31 °C",
        {"name": "thermometer"},
        None,
    )
    assert page.next is None
    assert list(await conversations.history("unknown")) == []


@pytest.mark.parametrize("number", [0, 1, 250, 1001])
async def test_many_are_stored_in_order(conversations: AsyncConversationRepository, number: int) -> None:
    messages: Any = [{"role": "user", "content": f"{n}", "metadata": {"n": n}} for n in range(number)]
    if messages:
        messages[-1] = {"role": MessageRole.ASSISTANT, "content": f"{number - 1}"}
    ids = await conversations.append_many("s", messages)
    assert ids == sorted(ids)
    stored = (await conversations._session.scalars(select(Conversation).order_by(Conversation.id))).all()
    assert [message.id for message in stored] == ids
    assert [message.content for message in stored] == [f"{n}" for n in range(number)]
    assert [message.metadata_ for message in stored[:-1]] == [{"n": n} for n in range(number - 1)]
    assert all(message.metadata_ is None for message in stored[-1:])


async def test_pages_cover_everything_once(conversations: AsyncConversationRepository) -> None:
    ids = await conversations.append_many("s", [{"role": "user", "content": "x"}] * 7)
    await conversations.append("other", "user", "x")
    seen: list[int] = []
    after: str | None = None
    while True:
        page = await conversations.history("s", after=after, limit=3)
        seen += [message.id for message in page]
        after = page.next
        if after is None:
            break
    assert seen == ids


async def test_the_last_messages_are_in_order(conversations: AsyncConversationRepository) -> None:
    ids = await conversations.append_many("s", [{"role": "user", "content": "x"}] * 9)
    await conversations.append("other", "user", "x")
    assert [message.id for message in await conversations.last("s", 4)] == ids[-4:]
    assert [message.id for message in await conversations.last("s")] == ids
    assert list(await conversations.last("unknown")) == []
    for n in (0, 1001):
        with pytest.raises(InvalidInputError, match="n: expected 1 to 1,000"):
            await conversations.last("s", n)


async def test_sessions_come_with_their_last_activity(conversations: AsyncConversationRepository) -> None:
    for name in ("a", "b", "c", "d", "e", "b", "a"):
        message = await conversations.append(name, "user", "x")
    page = await conversations.sessions(limit=3)
    assert [(found.session_id, found.messages) for found in page] == [("a", 2), ("b", 2), ("e", 1)]
    assert (page.items[0].id, page.items[0].last_at) == (message.id, message.created_at)
    await conversations.append("c", "user", "moves to the front")
    rest = await conversations.sessions(after=page.next, limit=3)
    assert [found.session_id for found in rest] == ["d"]
    assert rest.next is None
    assert [found.session_id for found in await conversations.sessions(limit=1)] == ["c"]


async def counts(conversations: AsyncConversationRepository) -> dict[str, int]:
    return {found.session_id: found.messages for found in await conversations.sessions()}


async def test_a_session_counts_what_it_holds(conversations: AsyncConversationRepository) -> None:
    session = conversations._session
    for size in (1, 2, 1001):
        await conversations.append_many("a", [{"role": "user", "content": "x"}] * size)
    await conversations.append("b", "user", "x")
    first = await conversations.history("a", limit=1)
    assert await counts(conversations) == {"b": 1, "a": 1004}
    (_, a) = await conversations.sessions()
    assert a.started_at == first.items[0].created_at
    old = update(Conversation).where(Conversation.id == first.items[0].id)
    await session.execute(old.values(created_at=func.now() - timedelta(days=2)))
    assert await conversations.purge(older_than=86_400) == 1
    assert await counts(conversations) == {"b": 1, "a": 1003}
    assert await conversations.delete_session("a") == 1003
    assert await counts(conversations) == {"b": 1}
    await session.execute(update(Conversation).values(created_at=func.now() - timedelta(days=2)))
    assert await conversations.purge(older_than=86_400) == 1
    assert await counts(conversations) == {}
    assert await session.scalar(select(func.count()).select_from(ConversationSession)) == 0


async def test_appends_to_one_session_wait_for_nobody(committed: AsyncDatabase) -> None:
    """Open transactions append to the same sessions in opposite orders, while others delete from them."""
    async with committed.begin() as setup:
        for name in ("a", "b", "c"):
            await setup.conversations.append(name, "user", "x")
        await setup.session.execute(update(Conversation).values(created_at=func.now() - timedelta(days=2)))
    async with committed.session() as one, committed.session() as other, committed.session() as third:
        first, second = AsyncConversationRepository(one), AsyncConversationRepository(other)
        purging = AsyncConversationRepository(third)
        for session in (one, other, third):
            await session.execute(text("SET LOCAL lock_timeout = '2s'"))
        for name, opposite in (("a", "b"), ("b", "a"), ("new", "new")):
            await first.append(name, "user", "x")
            await second.append(opposite, "user", "x")
            await second.append_many(name, [{"role": "user", "content": "x"}] * 2)
        assert await purging.purge(older_than=86_400) == 3
        await third.commit()
        assert await counts(purging) == {}
        await third.commit()
        await one.commit()
        await other.rollback()
        assert await counts(purging) == {"new": 1, "b": 1, "a": 1}
        assert [await purging.delete_session(name) for name in ("a", "b", "new")] == [1, 1, 1]
        await third.commit()
        assert await counts(purging) == {}


async def test_a_search_reports_whether_all_were_ranked(
    conversations: AsyncConversationRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "CANDIDATES", 3)
    best = await conversations.append("a", "user", "Owls")
    found = await conversations.search("owl")
    assert (found.ranked, found.exact, [hit.row.id for hit in found]) == (1, True, [best.id])
    others = [(await conversations.append("b", "user", f"The owl and the tree {n}")).id for n in range(3)]
    found = await conversations.search("owl", limit=2)
    assert (found.ranked, found.exact, len(found)) == (3, False, 2)
    assert [hit.row.id for hit in found] == others[:0:-1]  # the best one is older than the newest three
    within = await conversations.search("owl", session_id="a")
    assert (within.ranked, within.exact, within[0].row.id) == (1, True, best.id)
    nothing = await conversations.search("zebra")
    assert (nothing.ranked, nothing.exact, list(nothing)) == (0, True, [])


async def test_words_are_found_best_first(conversations: AsyncConversationRepository) -> None:
    long = await conversations.append("a", "user", "The owl and many other birds of the wood, and trees")
    short = await conversations.append("a", "assistant", "Owls!", metadata={"x": 1})
    other = await conversations.append("b", "user", "An owl in the barn")
    await conversations.append("b", "user", "A barn")
    found = await conversations.search("owl")
    assert [hit.row.id for hit in found] == [short.id, other.id, long.id]
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    assert (found[0].row.role, found[0].row.metadata_, found[0].distance) == (
        MessageRole.ASSISTANT,
        {"x": 1},
        None,
    )
    assert not hasattr(found[0].row, "search")
    assert [hit.row.id for hit in await conversations.search("owl", session_id="a")] == [short.id, long.id]
    assert [hit.row.id for hit in await conversations.search("owl", limit=1)] == [short.id]
    assert [hit.row.id for hit in await conversations.search("barn owl -tree")] == [other.id]
    assert [hit.row.id for hit in await conversations.search('"other birds" or zebra')] == [long.id]
    again = await conversations.append("c", "assistant", "Owls!")
    assert [hit.row.id for hit in await conversations.search("owl", limit=2)] == [again.id, short.id]
    for nothing in ("", "the", "zebra", '"', "& | ! <-> :* (", "a:b'c\\", *HOSTILE[:2], "owl " * 2500):
        assert not await conversations.search(nothing, session_id="unknown")
        await conversations.search(nothing)
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
        await conversations.search("owl", limit=0)
    with pytest.raises(InvalidInputError, match="characters of text: expected 0 to 10,000"):
        await conversations.search(HOSTILE[2])
    with pytest.raises(InvalidInputError, match="NUL"):
        await conversations.search("a\0b")


async def test_a_session_is_deleted_alone(conversations: AsyncConversationRepository) -> None:
    await conversations.append_many("a", [{"role": "user", "content": "x"}] * 3)
    await conversations.append("ab", "user", "x")
    assert [await conversations.delete_session("a"), await conversations.delete_session("a")] == [3, 0]
    assert [found.session_id for found in await conversations.sessions()] == ["ab"]


async def test_old_messages_are_purged_in_batches(conversations: AsyncConversationRepository) -> None:
    ids = await conversations.append_many("a", [{"role": "user", "content": "x"}] * 7)
    old = update(Conversation).where(Conversation.id.in_(ids[:5]))
    await conversations._session.execute(old.values(created_at=func.now() - timedelta(days=2)))
    batches = [await conversations.purge(older_than=86_400, limit=3) for _ in range(3)]
    assert batches == [3, 2, 0]
    assert [message.id for message in await conversations.history("a")] == ids[5:]
    for wrong in (-1.0, float("nan"), 1e12):
        with pytest.raises(InvalidInputError, match="older_than: expected 0 to"):
            await conversations.purge(older_than=wrong)
    with pytest.raises(InvalidInputError, match="limit: expected 1 to"):
        await conversations.purge(older_than=0, limit=0)


async def test_wrong_input_is_one_clear_error(conversations: AsyncConversationRepository) -> None:
    roles = "MessageRole: expected one of user, assistant, system, tool, got 'human'"
    with pytest.raises(InvalidInputError, match=roles):
        await conversations.append("s", "human", "x")
    wrong: Any
    for wrong, message in (
        ({"role": "human", "content": "x"}, f"message 1: {roles}"),
        ({"role": "user"}, "message 1: expected `role`, `content` and at most `metadata`, got 'role'"),
        ({"role": "user", "content": "x", "at": 1}, "message 1: expected `role`, `content`"),
        ({}, "message 1: .* got nothing"),
        ({"role": "user", "content": "a\0b"}, "NUL"),
        ({"role": "user", "content": "a\ud800b"}, "surrogate"),
        ({"role": "user", "content": None}, "null value"),
        ({"role": "user", "content": "x", "metadata": {"a": "\0"}}, "unsupported Unicode"),
    ):
        savepoint = await conversations._session.begin_nested()
        with pytest.raises(InvalidInputError, match=message):
            await conversations.append_many("s", [{"role": "user", "content": "x"}, wrong])
        await savepoint.rollback()
    for session_id, message in (("", "session_id: expected 1 to"), ("a\0b", "session_id: holds a NUL")):
        with pytest.raises(InvalidInputError, match=message):
            await conversations.append(session_id, "user", "x")
        with pytest.raises(InvalidInputError, match=message):
            await conversations.append_many(session_id, [])
        with pytest.raises(InvalidInputError, match=message):
            await conversations.lock(session_id)
    with pytest.raises(InvalidInputError, match="NUL"):
        await conversations.append("s", "user", "a\0b")
    assert await count(conversations) == 0


@pytest.mark.parametrize("value", HOSTILE, ids=["sql", "unicode", "megabyte"])
async def test_hostile_text_is_data(conversations: AsyncConversationRepository, value: str) -> None:
    one = await conversations.append("s", "user", value, metadata={value: [value]})
    await conversations.append_many("s", [{"role": "user", "content": value, "metadata": {"v": value}}])
    many: Any = [{"role": "user", "content": content} for content in (value, *["x"] * 1000)]
    await conversations.append_many("s", many)
    assert one.metadata_ == {value: [value]}
    page = await conversations.history("s", limit=3)
    assert [message.content for message in page] == [value] * 3
    assert page.items[1].metadata_ == {"v": value}
    named = await conversations.append(value[:500], "user", "x")
    assert [message.id for message in await conversations.last(value[:500])] == [named.id]
    assert await conversations.delete_session(value[:500]) == 1
    assert await count(conversations) == 1003


async def test_the_indexes_serve_the_questions(committed: AsyncDatabase) -> None:
    async with committed.session() as session:
        conversations = AsyncConversationRepository(session)
        await fill(conversations)
        for statement in (
            queries.history("s7", after="WzEwMF0=", limit=20),
            queries.last("s7", 20),
        ):
            found = await plan(conversations, statement)
            assert "idx_conversations_session_id" in found
            assert "Sort" not in found
            assert "Filter" not in found
        await session.execute(text("SET LOCAL enable_seqscan = off"))  # 20 sessions are one page
        sessions = await plan(conversations, queries.sessions(after=None, limit=10))
        assert "idx_conversation_sessions_last_id" in sessions
        assert sessions.count("idx_conversations_session_id") == 1  # whether there is a message at all
        assert "Seq Scan" not in sessions
        await session.execute(text("SET LOCAL enable_seqscan = on"))
        words = await plan(conversations, queries.search("word77", session_id=None, limit=10))
        assert "idx_conversations_search" in words
        purged = await plan(conversations, queries.purge(86_400, limit=10))
        assert "idx_conversations_created_at" in purged
        assert "Seq Scan" not in purged
        assert len(await conversations.sessions(limit=7)) == 7
        assert {found.messages for found in await conversations.sessions()} == {500}


async def test_without_the_lock_a_reader_may_pass_a_message_over(committed: AsyncDatabase) -> None:
    async with committed.begin() as reading:
        async with committed.session() as session:
            early = await AsyncConversationRepository(session).append("s", "user", "slow")
            async with committed.begin() as other:
                late = await AsyncConversationRepository(other.session).append("s", "user", "fast")
            repository = AsyncConversationRepository(reading.session)
            assert [message.id for message in await repository.history("s")] == [late.id]
            await session.commit()
        assert early.id < late.id
        assert [message.content for message in await repository.history("s")] == ["slow", "fast"]


async def test_those_who_lock_a_session_take_turns(committed: AsyncDatabase) -> None:
    async with committed.session() as one, committed.session() as other:
        first, second = AsyncConversationRepository(one), AsyncConversationRepository(other)
        await first.lock("s")
        ahead = await first.append("s", "user", "first")
        await second.lock("t")
        await other.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError, match="lock") as refused:
            await second.lock("s")
        assert refused.value.retryable
        await other.rollback()
        await one.commit()
        await second.lock("s")
        behind = await second.append("s", "user", "second")
        await other.commit()
        assert ahead.id < behind.id


async def test_writers_of_one_session_do_not_wait_for_each_other(committed: AsyncDatabase) -> None:
    async with committed.session() as one, committed.session() as other:
        for session in (one, other):
            await session.execute(text("SET LOCAL lock_timeout = '1s'"))
        first, second = AsyncConversationRepository(one), AsyncConversationRepository(other)
        for number in range(3):
            await first.append_many("s", [{"role": "user", "content": f"{number} one"}] * 2)
            await second.append("s", "user", f"{number} other")
        await other.commit()
        await one.commit()
    async with committed.begin() as uow:
        repository = AsyncConversationRepository(uow.session)
        assert len(await repository.history("s")) == 9


async def test_two_purges_at_once_share_the_work(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        repository = AsyncConversationRepository(uow.session)
        await repository.append_many("s", [{"role": "user", "content": "x"}] * 10)
    async with committed.session() as one, committed.session() as other:
        await other.execute(text("SET LOCAL lock_timeout = '1s'"))
        assert await AsyncConversationRepository(one).purge(older_than=0, limit=4) == 4
        assert await AsyncConversationRepository(other).purge(older_than=0) == 6
        await one.commit()
        await other.commit()
    async with committed.begin() as uow:
        assert await count(AsyncConversationRepository(uow.session)) == 0


async def test_what_is_rolled_back_was_never_added(committed: AsyncDatabase) -> None:
    async with committed.session() as session:
        await AsyncConversationRepository(session).append("s", "user", "x")
        await session.rollback()
    async with committed.begin() as uow:
        assert not await AsyncConversationRepository(uow.session).history("s")
