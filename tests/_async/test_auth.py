from __future__ import annotations

import uuid

import pytest
from sqlalchemy import event, insert, text

from alfred_db import AsyncDatabase, User
from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.auth import AsyncUserRepository

SECRETS = ("encrypted_password", "confirmation_token", "recovery_token", "email_change_token")


@pytest.fixture
def users(uow: AsyncUnitOfWork) -> AsyncUserRepository:
    return AsyncUserRepository(uow.session)


async def stored(uow: AsyncUnitOfWork, email: str, *, deleted: bool = False) -> uuid.UUID:
    user_id = uuid.uuid4()
    await uow.session.execute(
        insert(User).values(id=user_id, email=email, encrypted_password="hash", recovery_token="secret")
    )
    if deleted:
        await uow.session.execute(
            text("UPDATE auth.users SET deleted_at = now() WHERE id = :id"), {"id": user_id}
        )
    return user_id


async def test_users_are_found_by_id_and_address(users: AsyncUserRepository, uow: AsyncUnitOfWork) -> None:
    ada = await stored(uow, "ada@example.org")
    found = await users.get(ada)
    assert found is not None
    assert found.email == "ada@example.org"
    assert await users.get_by_email("ada@example.org") is found
    assert await users.get_by_email("Ada@example.org") is None
    assert await users.get(uuid.uuid4()) is None


async def test_the_deleted_are_found_by_id_only(users: AsyncUserRepository, uow: AsyncUnitOfWork) -> None:
    gone, here = await stored(uow, "a@example.org", deleted=True), await stored(uow, "b@example.org")
    assert await users.get(gone) is not None
    assert await users.get_by_email("a@example.org") is None
    assert [user.id for user in await users.list()] == [here]
    assert {user.id for user in await users.list(include_deleted=True)} == {gone, here}


async def test_users_come_in_pages(users: AsyncUserRepository, uow: AsyncUnitOfWork) -> None:
    made = {await stored(uow, f"user-{number}@example.org") for number in range(5)}
    first = await users.list(limit=3)
    rest = await users.list(after=first.next, limit=3)
    assert [user.id for user in [*first, *rest]] == sorted(made)
    assert rest.next is None
    with pytest.raises(InvalidInputError, match="limit: expected 1 to"):
        await users.list(limit=0)
    with pytest.raises(InvalidInputError, match="is not a cursor"):
        await users.list(after="x")


async def test_secrets_are_never_selected(users: AsyncUserRepository, uow: AsyncUnitOfWork) -> None:
    ada = await stored(uow, "ada@example.org")
    statements: list[str] = []
    bind = uow.session.get_bind()

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        statements.append(statement)

    event.listen(bind, "before_cursor_execute", note)
    try:
        found = await users.get(ada)
        await users.get_by_email("ada@example.org")
        await users.list()
    finally:
        event.remove(bind, "before_cursor_execute", note)
    assert len(statements) == 3
    assert [name for name in SECRETS for statement in statements if name in statement] == []
    assert found is not None
    assert [name for name in SECRETS if name in vars(found)] == []
    assert "ada@" not in repr(found)


def test_there_is_nothing_that_writes() -> None:
    public = {name for name in vars(AsyncUserRepository) if not name.startswith("_")}
    assert public == {"get", "get_by_email", "list"}


async def test_two_sessions_read_the_same_user(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        ada = await stored(uow, "ada@example.org")
    async with committed.session() as one, committed.session() as other:
        first, second = await AsyncUserRepository(one).get(ada), await AsyncUserRepository(other).get(ada)
        assert first is not None
        assert second is not None
        assert (first.id, first.email) == (second.id, second.email)
