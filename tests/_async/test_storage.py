from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from plans import Explain
from sqlalchemy import URL, NullPool, create_engine, func, select, text

from alfred_db import AsyncDatabase, Bucket, StorageObject, WorkingMemory, migrate
from alfred_db.errors import ConfigurationError, ConflictError, InvalidInputError, NotFoundError
from alfred_db.queries import storage as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.auth import AsyncUserRepository
from alfred_db.repositories._async.storage import AsyncStorageRepository

APP, THEIRS = f"alfred_app_beside_{os.getpid()}", f"supabase_like_admin_{os.getpid()}"


@pytest.fixture
def storage(uow: AsyncUnitOfWork) -> AsyncStorageRepository:
    return AsyncStorageRepository(uow.session)


async def names_of(
    storage: AsyncStorageRepository, bucket: str, prefix: str = "", limit: int = 2
) -> list[str]:
    """The names under a prefix, from all pages."""
    names: list[str] = []
    after: str | None = None
    while True:
        page = await storage.list(bucket, prefix=prefix, after=after, limit=limit)
        names += [found.name or "" for found in page]
        after = page.next
        if after is None:
            return names


async def test_buckets_are_made_listed_and_removed(storage: AsyncStorageRepository) -> None:
    owner = uuid.uuid4()
    made = await storage.create_bucket(
        "b", name="B", owner=owner, public=True, file_size_limit=9, allowed_mime_types=["image/*"]
    )
    assert (made.name, made.owner, made.public, made.file_size_limit) == ("B", owner, True, 9)
    assert made.allowed_mime_types == ["image/*"]
    assert (await storage.create_bucket("a")).name == "a"
    first = await storage.list_buckets(limit=1)
    rest = await storage.list_buckets(after=first.next, limit=1)
    assert [bucket.id for bucket in [*first, *rest]] == ["a", "b"]
    await storage.delete_bucket("a")
    assert await storage.get_bucket("a") is None
    assert await storage.get_bucket("b") is made
    with pytest.raises(NotFoundError, match="bucket 'a': not found"):
        await storage.delete_bucket("a")


async def test_a_bucket_is_made_once(storage: AsyncStorageRepository) -> None:
    await storage.create_bucket("b")
    with pytest.raises(ConflictError, match="bucket 'b': its id or name is taken"):
        await storage.create_bucket("b", name="other")
    with pytest.raises(ConflictError, match="bucket 'c': its id or name is taken"):
        await storage.create_bucket("c", name="b")
    with pytest.raises(InvalidInputError, match="file_size_limit: expected 0 or more bytes"):
        await storage.create_bucket("d", file_size_limit=-1)


async def test_a_bucket_with_objects_stays(storage: AsyncStorageRepository) -> None:
    await storage.create_bucket("b")
    await storage.put("b", "x")
    with pytest.raises(ConflictError, match="nothing refers to a row you delete"):
        await storage.delete_bucket("b")


async def test_putting_twice_replaces_what_is_known(storage: AsyncStorageRepository) -> None:
    await storage.create_bucket("b")
    first = await storage.put("b", "a/x.png", metadata={"size": 3}, owner=uuid.uuid4(), version="1")
    known = first.id
    second = await storage.put("b", "a/x.png", metadata={"mimetype": "image/png"}, version="2")
    assert (second.id, second.version, second.owner) == (known, "2", None)
    assert second.metadata_ == {"mimetype": "image/png"}
    assert second.path_tokens == ["a", "x.png"]
    assert await storage.get("b", "a/x.png") is second
    assert (await storage.put("b", "a/x.png")).metadata_ is None
    with pytest.raises(NotFoundError, match="bucket 'c': not found"):
        await storage.put("c", "x")


async def test_a_bucket_has_limits(storage: AsyncStorageRepository) -> None:
    await storage.create_bucket("b", file_size_limit=10, allowed_mime_types=["image/*", "text/plain"])
    await storage.put("b", "x", metadata={"size": 10, "mimetype": "image/png"})
    await storage.put("b", "y", metadata={"mimetype": "text/plain"})
    with pytest.raises(InvalidInputError, match="at most 10 bytes, got 11"):
        await storage.put("b", "x", metadata={"size": 11})
    with pytest.raises(InvalidInputError, match="expected one of 'image/"):
        await storage.put("b", "x", metadata={"mimetype": "text/html"})


async def test_objects_are_listed_by_prefix(storage: AsyncStorageRepository) -> None:
    await storage.create_bucket("b")
    await storage.create_bucket("other")
    names = [
        "a",
        "a/",
        "a/1",
        "a/2",
        "a%",
        "a_b",
        "ab",
        "b/1",
        "B/1",
        "é/1",
        "\uffff",
        "\U0010ffff",
        "\U0010ffffz",
    ]
    for name in reversed(names):
        await storage.put("b", name)
    await storage.put("other", "a/3")
    by_bytes = sorted(names, key=str.encode)
    assert await names_of(storage, "b") == by_bytes
    for prefix in ["a", "a/", "a%", "a_", "b/", "é", "\uffff", "\U0010ffff", "zz", "a/1", "\ud7ff"]:
        expected = [name for name in by_bytes if name.startswith(prefix)]
        assert await names_of(storage, "b", prefix) == expected
        assert await names_of(storage, "b", prefix, limit=100) == expected
    with pytest.raises(InvalidInputError, match="limit: expected 1 to"):
        await storage.list("b", limit=1001)
    with pytest.raises(InvalidInputError, match="is not a cursor"):
        await storage.list("b", after="x")


async def test_the_index_serves_a_prefix_with_any_parameter(
    storage: AsyncStorageRepository, uow: AsyncUnitOfWork
) -> None:
    await storage.create_bucket("b")
    session = uow.session
    await session.execute(
        text(
            "INSERT INTO storage.objects (bucket_id, name) SELECT 'b', 'p' || n FROM generate_series(1, 5000) n"
        )
    )
    await session.execute(text("ANALYZE storage.objects"))
    await session.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
    cursor = (await storage.list("b", limit=1)).next
    for after in (None, cursor):
        plan = "\n".join(await session.scalars(Explain(queries.list_("b", "p12", after=after, limit=10))))
        assert "Index Scan using idx_objects_bucket_id_name" in plan
        assert "~>=~" in plan.partition("Index Cond")[2]
        assert "Sort" not in plan


async def test_an_object_is_moved(storage: AsyncStorageRepository) -> None:
    await storage.create_bucket("b")
    await storage.create_bucket("c")
    known = (await storage.put("b", "x", metadata={"size": 1})).id
    moved = await storage.move("b", "x", to_name="y/z")
    assert (moved.id, moved.name, moved.path_tokens) == (known, "y/z", ["y", "z"])
    assert (await storage.move("b", "y/z", to_name="x", to_bucket="c")).bucket_id == "c"
    with pytest.raises(NotFoundError, match="object 'x': not in bucket 'b'"):
        await storage.move("b", "x", to_name="y")
    with pytest.raises(NotFoundError, match="bucket 'd': not found"):
        await storage.move("c", "x", to_name="x", to_bucket="d")
    await storage.put("c", "taken")
    with pytest.raises(ConflictError, match="a row with this key exists"):
        await storage.move("c", "x", to_name="taken")


async def test_an_object_is_forgotten(storage: AsyncStorageRepository) -> None:
    await storage.create_bucket("b")
    await storage.put("b", "x")
    await storage.delete("b", "x")
    assert await storage.get("b", "x") is None
    with pytest.raises(NotFoundError, match="object 'x': not in bucket 'b'"):
        await storage.delete("b", "x")


async def test_blobs_of_working_memory(storage: AsyncStorageRepository, uow: AsyncUnitOfWork) -> None:
    await storage.create_bucket("b")
    for name in ("w/1", "w/2", "w/3", "v/1"):
        await storage.put("b", name)
    for name, key, provider in [
        ("one", "w/1", "s3"),
        ("two", "w/1", "s3"),
        ("lost", "w/9", "s3"),
        ("elsewhere", "w/8", "gcs"),
        ("none", None, None),
    ]:
        uow.session.add(WorkingMemory(name=name, memory_type="note", blob_key=key, provider=provider))
    await uow.session.flush()
    first = await storage.list_references("w/1", limit=1)
    rest = await storage.list_references("w/1", after=first.next, limit=1)
    assert sorted(record.name for record in [*first, *rest]) == ["one", "two"]
    assert len(await storage.list_references("w/2")) == 0
    assert sorted(record.name for record in await storage.list_dangling("b")) == ["elsewhere", "lost"]
    assert [record.name for record in await storage.list_dangling("b", provider="s3")] == ["lost"]
    assert [found.name for found in await storage.list_unreferenced("b")] == ["v/1", "w/2", "w/3"]
    page = await storage.list_unreferenced("b", prefix="w/", limit=1)
    more = await storage.list_unreferenced("b", prefix="w/", after=page.next, limit=1)
    assert [found.name for found in [*page, *more]] == ["w/2", "w/3"]
    assert more.next is None


async def test_the_index_serves_blob_references(uow: AsyncUnitOfWork) -> None:
    await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
    plan = "\n".join(await uow.session.scalars(Explain(queries.references("k", after=None, limit=5))))
    assert "idx_working_memory_blob_key" in plan


async def test_two_callers_put_one_object(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await AsyncStorageRepository(uow.session).create_bucket("b")
    async with committed.session() as one, committed.session() as other:
        first = await AsyncStorageRepository(one).put("b", "x", version="1")
        await other.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError, match="holds the lock"):
            await AsyncStorageRepository(other).put("b", "x", version="2")
        await other.rollback()
        await one.commit()
        second = await AsyncStorageRepository(other).put("b", "x", version="2")
        await other.commit()
        assert (second.id, second.version) == (first.id, "2")
        await AsyncStorageRepository(one).delete("b", "x")
        await one.commit()
        with pytest.raises(NotFoundError, match="object 'x'"):
            await AsyncStorageRepository(other).delete("b", "x")


# Beside another service


@pytest.fixture
def beside_supabase(new_database: Callable[..., URL]) -> Iterator[tuple[URL, URL]]:
    """A migrated database whose `auth` and `storage` are another role's: as our role, and as a superuser."""
    url = new_database()
    engine = create_engine(url, poolclass=NullPool)
    migrated = url.set(username=APP, password=None)
    try:
        with engine.begin() as connection:
            for statement in _THEIRS.format(app=APP, theirs=THEIRS, database=url.database).split(";"):
                connection.execute(text(statement))
        migrate.upgrade(migrated)
        yield migrated, url
    finally:
        with engine.begin() as connection:
            for role in (APP, THEIRS):
                connection.execute(text(f"DROP OWNED BY {role} CASCADE"))
                connection.execute(text(f"DROP ROLE {role}"))
        engine.dispose()


_THEIRS = """
    CREATE ROLE {app} LOGIN; CREATE ROLE {theirs};
    GRANT CREATE ON DATABASE {database} TO {app}; GRANT USAGE, CREATE ON SCHEMA public TO {app};
    CREATE SCHEMA extensions AUTHORIZATION {app}; CREATE EXTENSION vector SCHEMA extensions;
    CREATE SCHEMA auth AUTHORIZATION {theirs}; CREATE SCHEMA storage AUTHORIZATION {theirs};
    CREATE TABLE auth.users (
        instance_id uuid, id uuid PRIMARY KEY, aud varchar(255), role varchar(255), email varchar(255),
        encrypted_password varchar(255), email_confirmed_at timestamptz, invited_at timestamptz,
        confirmation_token varchar(255), confirmation_sent_at timestamptz, recovery_token varchar(255),
        recovery_sent_at timestamptz, email_change_token_new varchar(255), email_change varchar(255),
        email_change_sent_at timestamptz, last_sign_in_at timestamptz, raw_app_meta_data jsonb,
        raw_user_meta_data jsonb, is_super_admin bool, created_at timestamptz, updated_at timestamptz,
        phone text DEFAULT NULL, phone_confirmed_at timestamptz, phone_change text DEFAULT '',
        email_change_token_current varchar(255) DEFAULT '', banned_until timestamptz, deleted_at timestamptz
    );
    CREATE TABLE storage.buckets (
        id text PRIMARY KEY, name text NOT NULL UNIQUE, owner uuid, created_at timestamptz DEFAULT now(),
        updated_at timestamptz DEFAULT now(), public bool DEFAULT false, avif_autodetection bool DEFAULT false,
        file_size_limit bigint, allowed_mime_types text[], owner_id text
    );
    CREATE TABLE storage.objects (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), bucket_id text REFERENCES storage.buckets (id), name text,
        owner uuid, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),
        last_accessed_at timestamptz DEFAULT now(), metadata jsonb,
        path_tokens text[] GENERATED ALWAYS AS (string_to_array(name, '/')) STORED, version text, owner_id text,
        user_metadata jsonb, UNIQUE (bucket_id, name)
    );
    INSERT INTO auth.users (id, email) VALUES ('00000000-0000-4000-8000-000000000001', 'ada@example.org');
    INSERT INTO storage.buckets (id, name) VALUES ('b', 'b');
    INSERT INTO storage.objects (bucket_id, name) VALUES ('b', 'x/1'), ('b', 'x/2'), ('b', 'y');
    ALTER TABLE auth.users OWNER TO {theirs}; ALTER TABLE storage.buckets OWNER TO {theirs};
    ALTER TABLE storage.objects OWNER TO {theirs};
    GRANT USAGE ON SCHEMA auth, storage TO {app};
    GRANT ALL ON ALL TABLES IN SCHEMA auth, storage TO {app}
"""


async def test_the_tables_of_another_service_are_only_read(beside_supabase: tuple[URL, URL]) -> None:
    """Though this role may write them: the other service would not know of it."""
    url, _ = beside_supabase
    async with AsyncDatabase(url) as database, database.begin() as uow:
        storage, users = AsyncStorageRepository(uow.session), AsyncUserRepository(uow.session)
        found = await users.get_by_email("ada@example.org")
        assert found is not None
        assert await users.get(found.id) is found
        assert len(await users.list()) == 1
        assert [bucket.id for bucket in await storage.list_buckets()] == ["b"]
        assert await names_of(storage, "b", "x/") == ["x/1", "x/2"]
        assert (await storage.get("b", "y")) is not None
        assert len(await storage.list_unreferenced("b")) == 3
        for write in (
            partial(storage.create_bucket, "c"),
            partial(storage.delete_bucket, "b"),
            partial(storage.put, "b", "y", version="2"),
            partial(storage.move, "b", "y", to_name="z"),
            partial(storage.delete, "b", "y"),
        ):
            with pytest.raises(
                ConfigurationError, match="belongs to another service, so that alfred-db only reads"
            ):
                await write()
        # The transaction is as good as before.
        assert await names_of(storage, "b") == ["x/1", "x/2", "y"]
        assert await uow.session.scalar(select(func.count()).select_from(Bucket)) == 1
        assert (
            await uow.session.scalar(select(StorageObject.version).where(StorageObject.name == "y")) is None
        )


async def test_a_right_that_is_missing_is_named(beside_supabase: tuple[URL, URL]) -> None:
    url, superuser = beside_supabase
    engine = create_engine(superuser, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"REVOKE ALL ON ALL TABLES IN SCHEMA auth, storage FROM {APP}"))
    async with AsyncDatabase(url) as database, database.session() as session:
        with pytest.raises(ConfigurationError, match=r"permission denied for table users: grant the role"):
            await AsyncUserRepository(session).list()
        await session.rollback()
        with pytest.raises(ConfigurationError, match=r"permission denied for table objects: grant the role"):
            await AsyncStorageRepository(session).list("b")
