"""How searches by words rank: by the rarity of words among the searched rows, whichever noun is searched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from alfred_db import Filter, Hit, SearchPath, SearchWeights
from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.search import eq

UNIT, OTHER = [1.0] + [0.0] * 383, [0.0, 1.0] + [0.0] * 382
NAMES = [f"Anna told Anna about Anna, said Anna of day {number}" for number in range(40)]
RARE = "Somebody saw the sunrise on a long walk in the hills with a good old friend of the family"
ASKED = "what did Anna say about the sunrise"

Find = Callable[..., Awaitable[Any]]


def text_of(hit: Hit) -> str:
    text: str = hit.row.payload["text"] if hasattr(hit.row, "payload") else hit.row.content
    return text


async def nouns(uow: AsyncUnitOfWork, *contents: str) -> dict[str, Find]:
    """A search by words alone of each noun, over these texts; documents also with a filter, which reads all that match."""
    bank = await uow.memory_banks.get_or_create("bank")
    await uow.documents.add_many([{"content": content, "metadata_": {"here": True}} for content in contents])
    await uow.memories.remember_many(bank, [{"content": content} for content in contents])
    for content in contents:
        await uow.memory_entries.remember("project", content)
    points = [{"id": str(number), "payload": {"text": content}} for number, content in enumerate(contents)]
    await uow.knowledge.upsert("legal-knowledge", points)  # type: ignore[arg-type]
    here = Filter(must=[eq("metadata.here", True)])
    return {
        "documents": lambda text, **options: uow.documents.hybrid_search(text, None, **options),
        "documents that match": lambda text, **options: uow.documents.hybrid_search(
            text, None, where=here, **options
        ),
        "memories": lambda text, **options: uow.memories.hybrid_search(bank, text, None, **options),
        "knowledge": lambda text, **options: uow.knowledge.hybrid_search(
            "legal-knowledge", text, None, **options
        ),
        "entries": lambda text, **options: uow.memory_entries.hybrid_search("project", text, None, **options),
    }


async def test_a_rare_word_counts_more_than_a_name_that_stands_everywhere(uow: AsyncUnitOfWork) -> None:
    for name, find in (await nouns(uow, *NAMES, RARE)).items():
        found = await find(ASKED)
        assert text_of(found.hits[0]) == RARE, name
        assert found.hits[0].score > 3 * found.hits[1].score, name


async def test_rarity_is_that_of_the_searched_rows(uow: AsyncUnitOfWork) -> None:
    for bank, common, rare in (("one", "tea", "rain"), ("other", "rain", "tea")):
        known = await uow.memory_banks.get_or_create(bank)
        contents = [f"{common} of day {number}" for number in range(30)] + [
            f"{rare} and {common}",
            f"some {rare}",
        ]
        await uow.memories.remember_many(known, [{"content": content} for content in contents])
        best = (await uow.memories.hybrid_search(known, "tea or rain", None)).hits
        assert {hit.row.content for hit in best[:2]} == {f"{rare} and {common}", f"some {rare}"}


async def test_a_repeated_word_and_a_short_text_count_more(uow: AsyncUnitOfWork) -> None:
    long = "kettle " + " ".join(f"word{number}" for number in range(30))
    for name, find in (await nouns(uow, long, "kettle", "kettle kettle", *NAMES)).items():
        found = [text_of(hit) for hit in await find("kettle")]
        assert found == ["kettle kettle", "kettle", long], name


async def test_words_of_any_characters_are_data(uow: AsyncUnitOfWork) -> None:
    odd = r"c:\temp\x it's a/b?c=d&e='f' user@example.org <-> !() :* "
    for name, find in (await nouns(uow, odd, *NAMES[:3])).items():
        for text in (
            odd,
            r"\temp",
            "it''s user@example.org",
            r"\\ ' \' example",
            "a/b?c=d&e='f'",
            '"user@example.org"',
        ):
            assert [text_of(hit) for hit in (await find(text)).hits[:1]] in ([odd], []), (name, text)
        assert text_of((await find("user@example.org")).hits[0]) == odd, name


async def test_an_excluded_word_also_excludes_what_the_vector_finds(uow: AsyncUnitOfWork) -> None:
    await uow.documents.add("an owl in the barn", embedding=UNIT)
    barn = await uow.documents.add("a barn", embedding=UNIT)
    for where in (None, Filter(must_not=[eq("metadata.x", 1)])):
        found = await uow.documents.hybrid_search("barn -owl", UNIT, where=where)
        assert [hit.row.id for hit in found] == [barn.id]


async def test_rows_of_one_leg_are_compared_by_the_other_too(uow: AsyncUnitOfWork) -> None:
    both = await uow.documents.add("a kettle", embedding=UNIT)
    await uow.documents.add("a dog", embedding=UNIT)
    await uow.documents.add("a kettle of another kind", embedding=OTHER)
    for weights in (SearchWeights(), SearchWeights(fusion="ranks")):
        found = await uow.documents.hybrid_search("kettle", UNIT, weights=weights)
        assert found.path is SearchPath.HNSW
        assert (found.hits[0].row.id, dict(found.hits[0].ranks)) == (both.id, {"text": 1, "vector": 1})
        assert len(found) == 3
        assert all(hit.distance is not None for hit in found)
    with pytest.raises(InvalidInputError, match="fusion"):
        await uow.documents.hybrid_search("kettle", UNIT, weights=SearchWeights(fusion="x"))  # type: ignore[arg-type]


async def test_words_are_read_in_the_language_of_the_call(uow: AsyncUnitOfWork) -> None:
    found = await nouns(uow, "the walks of cats", "der Gang der Katzen", "dogs bark")
    for name in ("memories", "entries"):
        find = found[name]
        assert not len(await find("the")), name
        assert [text_of(hit) for hit in await find("the", language="simple")] == ["the walks of cats"], name
        assert not len(await find("walk", language="simple")), name
        assert [text_of(hit) for hit in await find("Katze", language="german")] == ["der Gang der Katzen"], (
            name
        )
    for name in ("memories", "entries", "documents"):
        find = found[name]
        async with uow.session.begin_nested():
            with pytest.raises(
                InvalidInputError, match="language: the server has no such text search configuration"
            ):
                async with uow.session.begin_nested():
                    await find("cat", language="klingon")
