from __future__ import annotations

import hashlib

from plans import Explain
from sqlalchemy import select, text, update

from alfred_db import AsyncDatabase, WebSession
from alfred_db.queries import web_sessions as queries
from alfred_db.repositories import AsyncUnitOfWork


async def test_a_session_is_known_by_its_token_alone(uow: AsyncUnitOfWork) -> None:
    made = await uow.web_sessions.create("u", {"theme": "dark"})
    assert made.token not in repr(made)
    assert await uow.web_sessions.get(made.token) == made.session
    assert made.session.user_id == "u"
    assert made.session.data == {"theme": "dark"}
    (row,) = (await uow.session.execute(select(WebSession.__table__))).all()
    assert row.id == hashlib.sha256(made.token.encode()).digest()
    assert made.token not in repr(row)
    for wrong in ("", made.token[:-1], row.id.hex(), "x" * 10_000):
        assert await uow.web_sessions.get(wrong) is None
        assert await uow.web_sessions.touch(wrong) is None
        assert await uow.web_sessions.rotate(wrong) is None
        assert await uow.web_sessions.revoke(wrong) is False


async def test_the_old_token_is_refused_after_a_rotation(uow: AsyncUnitOfWork) -> None:
    before = await uow.web_sessions.create()
    after = await uow.web_sessions.rotate(before.token, user_id="u")
    assert after is not None
    assert after.session.user_id == "u"
    assert await uow.web_sessions.get(before.token) is None
    assert await uow.web_sessions.rotate(before.token) is None
    assert await uow.web_sessions.save(before.token, {}) is None
    kept = await uow.web_sessions.rotate(after.token)
    assert kept is not None
    assert kept.session.user_id == "u"


async def test_a_session_ends_when_idle_and_in_any_case(uow: AsyncUnitOfWork) -> None:
    idle = await uow.web_sessions.create(idle=100, lifetime=1000)
    short = await uow.web_sessions.create(idle=1000, lifetime=130)

    async def pass_by(seconds: int) -> None:
        times = (WebSession.created_us, WebSession.seen_us, WebSession.expires_us)
        earlier = {time.key: time - seconds * 1_000_000 for time in times}
        await uow.session.execute(update(WebSession).values(earlier))

    for _ in range(2):
        await pass_by(70)
        assert await uow.web_sessions.touch(idle.token) is not None
    assert await uow.web_sessions.touch(short.token) is None
    await pass_by(110)
    assert await uow.web_sessions.touch(idle.token) is None
    assert await uow.web_sessions.purge() == 2


async def test_a_touch_is_written_once_a_minute(uow: AsyncUnitOfWork) -> None:
    made = await uow.web_sessions.create()
    assert await uow.web_sessions.touch(made.token) == made.session
    await uow.session.execute(update(WebSession).values(seen_us=WebSession.seen_us - 61_000_000))
    touched = await uow.web_sessions.touch(made.token)
    assert touched is not None
    assert touched.seen_at >= made.session.seen_at


async def test_all_sessions_of_a_user_are_revoked(committed: AsyncDatabase) -> None:
    sessions = committed.web_sessions
    mine = [await sessions.create("me") for _ in range(3)]
    other = await sessions.create("other")
    assert len(await sessions.list_user("me")) == 3
    assert await sessions.revoke_user("me", keep=mine[0].token) == 2
    assert [await sessions.get(one.token) is not None for one in mine] == [True, False, False]
    assert await sessions.revoke_user("me") == 1
    assert await sessions.get(other.token) is not None
    saved = await sessions.save(other.token, {"k": [1]})
    assert saved is not None
    assert saved.data == {"k": [1]}
    assert await sessions.revoke(other.token) is True


async def test_one_user_of_a_hundred_thousand_sessions_is_found_by_the_index(
    uow: AsyncUnitOfWork, schema: str | None
) -> None:
    table = "web_sessions" if schema is None else f"{schema}.web_sessions"
    mine = await uow.web_sessions.create("user-7")
    await uow.session.execute(
        text(
            f"INSERT INTO {table} (id, user_id, created_us, seen_us, idle_us, expires_us)"
            " SELECT sha256(n::text::bytea), 'user-' || n % 10000, us, us, 1800000000, us + 86400000000"
            " FROM generate_series(1, 100000) AS n,"
            " (SELECT (extract(epoch FROM now()) * 1000000)::bigint AS us) AS clock"
        )
    )
    for analyzed in (False, True):
        if analyzed:
            await uow.session.execute(text(f"ANALYZE {table}"))
        for statement in (queries.revoke_user(limit=1_000), queries.of_user()):
            explain = Explain(statement.built)
            plan = "\n".join(map(str, await uow.session.scalars(explain, {"user_id": "user-7", "kept": b""})))
            assert "idx_web_sessions_user_id" in plan, plan
            assert "Seq Scan" not in plan, plan
    assert len(await uow.web_sessions.list_user("user-7")) == 11
    assert await uow.web_sessions.revoke_user("user-7", keep=mine.token) == 10
    assert await uow.web_sessions.get(mine.token) is not None
    assert await uow.web_sessions.revoke_user("user-7") == 1
    assert len(await uow.web_sessions.list_user("user-8")) == 10
