"""The cache as a backend of aiocache. Needs the extra `aiocache`.

from alfred_db.integrations.aiocache import AlfredDBCache

cache = AlfredDBCache(AsyncDatabase(), namespace="reports", ttl=300)
await cache.set("7", {"pages": 3})
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aiocache.base import BaseCache  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
from aiocache.serializers import (  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
    JsonSerializer,
)

from ..database import AsyncDatabase
from ..errors import ConflictError

__all__ = ["AlfredDBCache"]


class AlfredDBCache(BaseCache):  # type: ignore[misc]
    """A cache of aiocache that stores its values in the database.

    It behaves as `aiocache.RedisCache` does: values are JSON unless another serializer is passed, keys are
    `namespace:key`, `clear` without a namespace deletes everything, and the locks work between processes.

    Args:
        database: The database; closing it is left to the caller.
        serializer: A serializer of aiocache.
        **options: What `aiocache.base.BaseCache` takes: namespace, ttl, timeout, plugins, key_builder.
    """

    NAME = "alfred-db"

    def __init__(self, database: AsyncDatabase, serializer: Any = None, **options: Any) -> None:
        base: Any = super()
        base.__init__(serializer=serializer or JsonSerializer(), **options)
        self._cache = database.cache

    def _build_key(self, key: Any, namespace: str | None = None) -> str:
        own: Any = self
        prefix = own.namespace if namespace is None else namespace
        name = str(getattr(key, "value", key))  # of a member of an enum
        return f"{prefix}:{name}" if prefix else name

    async def _get(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return _decoded(await self._cache.get(key), encoding)

    async def _gets(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return await self._get(key, encoding)

    async def _multi_get(
        self, keys: Sequence[str], encoding: str | None = "utf-8", _conn: Any = None
    ) -> list[Any]:
        found = await self._cache.get_many(list(keys)) if keys else {}
        return [_decoded(found.get(key), encoding) for key in keys]

    async def _set(
        self, key: str, value: Any, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        if _cas_token is None:
            await self._cache.set(key, _encoded(value), ttl or None)
            return True
        return await self._cache.replace(key, _encoded(value), ttl or None, expected=_encoded(_cas_token))

    async def _multi_set(
        self, pairs: Iterable[tuple[str, Any]], ttl: float | None = None, _conn: Any = None
    ) -> bool:
        await self._cache.set_many({key: _encoded(value) for key, value in pairs}, ttl or None)
        return True

    async def _add(self, key: str, value: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        if not await self._cache.add(key, _encoded(value), ttl or None):
            raise ValueError(f"Key {key} already exists, use .set to update the value")
        return True

    async def _exists(self, key: str, _conn: Any = None) -> bool:
        return await self._cache.get(key) is not None

    async def _increment(self, key: str, delta: int, _conn: Any = None) -> int:
        try:
            return await self._cache.incr(key, delta)
        except ConflictError:
            raise TypeError("Value is not an integer") from None

    async def _expire(self, key: str, ttl: float, _conn: Any = None) -> bool:
        return await self._cache.touch(key, ttl or None)

    async def _delete(self, key: str, _conn: Any = None) -> int:
        return int(await self._cache.delete(key))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        await self._cache.clear(f"{namespace}:" if namespace else "")
        return True

    async def _raw(
        self, command: str, *args: Any, encoding: str | None = "utf-8", _conn: Any = None, **kwargs: Any
    ) -> Any:
        """Call a method of the repository by its name."""
        found = await getattr(self._cache, command)(*args, **kwargs)
        return _decoded(found, encoding) if isinstance(found, bytes) else found

    async def _redlock_release(self, key: str, value: Any) -> int:
        return int(await self._cache.delete(key, expected=_encoded(value)))


def _encoded(value: Any) -> bytes:
    """Return what Redis would store: bytes, or the text of a text or number."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value).encode()
    raise TypeError(
        f"value: expected bytes, text or a number, got {type(value).__name__}; pass a serializer to the cache"
    )


def _decoded(value: bytes | None, encoding: str | None) -> Any:
    return value if value is None or encoding is None else value.decode(encoding)
