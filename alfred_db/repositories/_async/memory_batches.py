"""Many memories at once: stored without duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import has_keys, within
from ...errors import InvalidInputError, shown, translated
from ...execution._async.driver import in_transaction
from ...execution._async.search import MAX_COMPARED, SMALL_PART, estimate, scan_settings, set_local
from ...execution._async.space_search import search_many
from ...execution._async.spaces import check_model, packed, replace_vectors, space_for_writing
from ...execution.missing import not_found
from ...models import Memory, MemoryBank
from ...models.base import table_of
from ...queries import memories as queries
from ...queries import memory_banks
from ...queries.shapes.memories import MAX_IMPORTANCE, content_hash, lasting
from ...queries.shapes.spaces import Space, stored_type
from ...search.params import SearchParams
from ...values.memories import MemoryOutcome, NewMemory, RememberedMemory
from ...vectors.formats import Embedding, MatrixLike, VectorLike
from ...vectors.types import Vector
from .memory_banks import id_of, lock_key
from .memory_base import AsyncMemoryBase
from .memory_recall import COMPARED

AT_ONCE = 500
"""Memories in one statement."""

EFFORT = SearchParams(ef_search=100)

_vector = cast("Vector", table_of(Memory).c.embedding.type)


@dataclass(slots=True)
class _Told:
    """The new data for one text."""

    values: dict[str, Any]
    vector: Embedding | None
    ttl: timedelta | None


class AsyncMemoryBatches(AsyncMemoryBase):
    """The part of the memory repository that stores many memories at once."""

    @in_transaction
    async def remember_many(
        self,
        bank: MemoryBank | int,
        memories: Sequence[NewMemory],
        *,
        embeddings: MatrixLike | None = None,
        near: float | None = None,
        space: str | None = None,
    ) -> Sequence[RememberedMemory]:
        """Store several memories.

        Args:
            bank: The bank or its id.
            memories: The memories; see `remember`.
            embeddings: Their vectors, in the same order.
            near: A cosine distance such as 0.08. A memory within this distance of one in the bank, or of an
                earlier one in the call, is merged into that one: it is counted there, and the text and vector
                there are kept.
            space: The embedding space; None is the default one.

        Returns:
            The outcome for each memory, in order.

        Raises:
            NotFoundError: The bank does not exist, or the space.
            ConflictError: The space is retired.
        """
        session, bank_id = self._session, id_of(bank)
        target = await space_for_writing(session, Memory, space, None)
        if near is not None:
            within("near", near, 0, 2)
        hashes, told = _by_text(memories, embeddings, target)
        if not told:
            return []
        with translated():
            if near is not None:
                # Concurrent calls with near duplicates do not see each other's rows, so they take turns. The advisory
                # lock ends with the transaction.
                await session.execute(memory_banks.lock(lock_key(session, f"near {bank_id}")))
            now = await session.scalar(memory_banks.hold(bank_id, for_removal=False))
            if now is None:
                raise not_found("memory bank", bank_id)
            merged: dict[bytes, int | bytes] = {}
            if near is not None:
                merged = await _merged_in_bank(session, bank_id, told, near, target)
                merged |= _merged_in_batch(told, set(merged), near)
                await _count_in(session, told, merged)
            new = sorted(text for text in told if text not in merged)
            stored = await _store(session, bank_id, [told[text] for text in new], now)
            if target is not None:
                await _store_vectors(session, target, told, stored)
        return _outcomes(hashes, told, merged, stored)


def _by_text(
    memories: Sequence[NewMemory], embeddings: MatrixLike | None, space: Space | None
) -> tuple[list[bytes], dict[bytes, _Told]]:
    """Return the hash of each memory, and the new data for each text.

    Of repeated texts the last one counts, with the highest importance.
    """
    if embeddings is not None and len(embeddings) != len(memories):
        raise InvalidInputError(f"embeddings: expected {len(memories)}, one a memory, got {len(embeddings)}")
    hashes: list[bytes] = []
    told: dict[bytes, _Told] = {}
    for place, memory in enumerate(memories):
        try:
            this = _told(memory, None if embeddings is None else embeddings[place], space)
        except InvalidInputError as error:
            raise type(error)(f"memory {place}: {error}") from None
        text = this.values["content_hash"]
        hashes.append(text)
        if (before := told.get(text)) is not None:
            _count(this, before)
            for name in ("embedding", "metadata", "embedding_model"):
                if this.values[name] is None:
                    this.values[name] = before.values[name]
            this.vector = before.vector if this.vector is None else this.vector
            this.ttl = None if this.ttl is None or before.ttl is None else max(this.ttl, before.ttl)
        told[text] = this
    return hashes, told


def _told(memory: NewMemory, embedding: VectorLike | None, space: Space | None) -> _Told:
    if "content" not in memory or not has_keys(memory, NewMemory):
        expected = ", ".join(NewMemory.__annotations__)
        raise InvalidInputError(
            f"expected `content` and some of {expected}, got {', '.join(map(shown, sorted(memory)[:5])) or 'nothing'}"
        )
    importance = memory.get("importance", 1)
    within("importance", importance, 1, MAX_IMPORTANCE)
    given = memory.get("embedding") if embedding is None else embedding
    type_, model = _vector if space is None else stored_type(space), memory.get("embedding_model")
    if space is not None:
        check_model(space, model)
    vector = None if given is None else type_.format.unpack(type_.pack(given))
    metadata = memory.get("metadata")
    values = {
        "content": memory["content"],
        "content_hash": content_hash(memory["content"]),
        "embedding": vector if space is None else None,
        "importance": importance,
        "metadata": None if metadata is None else dict(metadata),
        "embedding_model": model if space is None else None,
        "seen_count": 1,
    }
    return _Told(values, vector, lasting(memory.get("ttl")))


def _count(one: _Told, other: _Told) -> None:
    """Add the count and importance of `other` to `one`."""
    one.values["seen_count"] += other.values["seen_count"]
    one.values["importance"] = max(one.values["importance"], other.values["importance"])


async def _merged_in_bank(
    session: AsyncSession, bank_id: int, told: Mapping[bytes, _Told], near: float, space: Space | None
) -> dict[bytes, int | bytes]:
    """Return the memory of the bank that each new text is a near duplicate of."""
    known = set(await session.scalars(queries.known(bank_id, list(told))))
    new = [text for text, one in told.items() if one.vector is not None and text not in known]
    found: dict[bytes, int | bytes] = {}
    if space is not None:
        in_space = [cast("Any", told[text].vector) for text in new]
        condition = queries.in_bank(bank_id)
        nearest = await search_many(session, Memory, in_space, space=space.name, limit=1, where=condition)
        return {
            text: hit.row.id
            for text, hits in zip(new, nearest, strict=True)
            for hit in hits
            if (hit.distance or 0.0) <= near
        }
    matches, rows = await estimate(session, Memory, queries.in_bank(bank_id))
    exact = matches <= max(COMPARED, min(MAX_COMPARED, rows * SMALL_PART))
    await set_local(session, scan_settings(1, EFFORT, iterative=True))
    for start in range(0, len(new), AT_ONCE):
        some = new[start : start + AT_ONCE]
        vectors = [told[text].values["embedding"] for text in some]
        statement = queries.nearest_each(bank_id, vectors, limit=1, exact=exact)
        for row in await session.execute(statement):
            if row.distance <= near:
                found[some[row.place]] = row.id
    return found


def _merged_in_batch(told: Mapping[bytes, _Told], taken: set[bytes], near: float) -> dict[bytes, int | bytes]:
    """Return the earlier text of the batch that each text is a near duplicate of, unless that one is merged."""
    merged: dict[bytes, int | bytes] = {}
    kept: list[bytes] = []
    length = next((len(one.vector) for one in told.values() if one.vector is not None), 0)
    vectors = np.empty((len(told), length), dtype=np.float32)
    for text, one in told.items():
        if one.vector is None or text in taken:
            continue
        unit = one.vector / np.linalg.norm(one.vector)
        similarities = vectors[: len(kept)] @ unit
        best = int(similarities.argmax()) if kept else -1
        if kept and 1.0 - float(similarities[best]) <= near:
            merged[text] = kept[best]
        else:
            vectors[len(kept)] = unit
            kept.append(text)
    return merged


async def _count_in(
    session: AsyncSession, told: Mapping[bytes, _Told], merged: Mapping[bytes, int | bytes]
) -> None:
    """Count merged texts in their targets: in the batch, or in the bank."""
    into: dict[int, _Told] = {}
    for text, target in merged.items():
        if isinstance(target, bytes):
            _count(told[target], told[text])
        elif target in into:
            _count(into[target], told[text])
        else:
            into[target] = _Told({**told[text].values}, None, None)
    if into:
        await session.execute(queries.hold(list(into)))
        counts = [
            (target, one.values["seen_count"], one.values["importance"]) for target, one in into.items()
        ]
        await session.execute(queries.count_in(counts))


async def _store(
    session: AsyncSession, bank_id: int, told: Iterable[_Told], now: datetime
) -> dict[bytes, tuple[int, int]]:
    """Store the texts; return the id and the count of each.

    The caller sorts them by their hashes, so that concurrent calls lock rows in the same order and cannot
    deadlock.
    """
    common = {"memory_bank_id": bank_id, "updated_at": now}
    rows = [
        {
            **one.values,
            **common,
            "words": one.values["content"],
            "expires_at": None if one.ttl is None else now + one.ttl,
        }
        for one in told
    ]
    if not rows:
        return {}
    stored = await session.execute(queries.remember_many(), rows)
    return {row.content_hash: (row.id, row.seen_count) for row in stored}


async def _store_vectors(
    session: AsyncSession,
    space: Space,
    told: Mapping[bytes, _Told],
    stored: Mapping[bytes, tuple[int, int]],
) -> None:
    """Store the vectors of stored texts in a space."""
    vectors = {stored[text][0]: one.vector for text, one in told.items() if text in stored}
    ids = [key for key, vector in vectors.items() if vector is not None]
    await replace_vectors(session, space, ids, packed(space, [vectors[key] for key in ids]))


def _outcomes(
    hashes: Sequence[bytes],
    told: Mapping[bytes, _Told],
    merged: Mapping[bytes, int | bytes],
    stored: Mapping[bytes, tuple[int, int]],
) -> list[RememberedMemory]:
    outcomes: list[RememberedMemory] = []
    first: set[bytes] = set()
    for text in hashes:
        target = merged.get(text, text)
        memory_id, count = (target, 0) if isinstance(target, int) else stored[target]
        outcome = MemoryOutcome.SEEN
        if text in merged:
            outcome = MemoryOutcome.MERGED
        elif text not in first and count == told[text].values["seen_count"]:
            outcome = MemoryOutcome.STORED
        first.add(text)
        outcomes.append(RememberedMemory(memory_id, outcome))
    return outcomes
