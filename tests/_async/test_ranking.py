"""How searches by words rank: by the rarity of words among the searched rows, whichever noun is searched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text as sql

from alfred_db import Filter, Hit, SearchPath, SearchWeights
from alfred_db.errors import InvalidInputError
from alfred_db.queries.shapes import hybrid_search
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.search import eq

UNIT, OTHER = [1.0] + [0.0] * 383, [0.0, 1.0] + [0.0] * 382
NAMES = [f"Anna told Anna about Anna, said Anna of day {number}" for number in range(40)]
RARE = "Somebody saw the sunrise on a long walk in the hills with a good old friend of the family"
ASKED = "what did Anna say about the sunrise"

Find = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
async def new_tables(uow: AsyncUnitOfWork, schema: str | None) -> None:
    """Empty the tables of the tenant, which plain SQL names: the size that earlier tests have left counts in the rarity of words."""
    await uow.session.execute(sql(f"SET LOCAL search_path = {schema or 'public'}, public, extensions"))
    await uow.session.execute(
        sql("TRUNCATE documents, memories, memory_entries, knowledge_points, conversations CASCADE")
    )


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


async def test_a_statement_is_built_once(uow: AsyncUnitOfWork) -> None:
    """Building and compiling it takes many times as long as running it."""
    for name, find in (await nouns(uow, *NAMES[:3], RARE)).items():
        await find(ASKED)
        cache: Any = hybrid_search.hybrid
        built = cache.cache_info().misses
        await find(ASKED)
        assert cache.cache_info().misses == built, name


async def test_messages_are_ranked_by_the_rarity_of_their_words(uow: AsyncUnitOfWork) -> None:
    for number in range(40):
        await uow.conversations.append("a", "user", f"the tide table of day {number} says tide and tide")
    rare = await uow.conversations.append(
        "a", "user", "a lighthouse, and what the other one says of the tide of a day"
    )
    await uow.conversations.append("b", "user", "lighthouse")
    for session in (None, "a"):
        found = await uow.conversations.search("lighthouse or tide", session_id=session, limit=3)
        best = [hit.row.id for hit in found]
        assert rare.id in best[: 2 if session is None else 1], session
        assert (found.exact, found.ranked) == (True, 42 if session is None else 41)


async def test_texts_are_parsed_once(uow: AsyncUnitOfWork) -> None:
    """A search reads the words that are stored; where they are those of another text, it parses that."""
    bank = await uow.memory_banks.get_or_create("bank")
    first = await uow.memories.remember(bank, "a kettle of tea")
    await uow.memories.remember_many(bank, [{"content": "kettles and kettles"}, {"content": "a cup"}])
    entry = await uow.memory_entries.remember("project", "a kettle of tea")

    async def stored(table: str) -> list[tuple[str, str | None, bool]]:
        found = await uow.session.execute(
            sql(
                f"SELECT content, search::text, search_hash = hashtextextended(content, 0) FROM {table} ORDER BY content"
            )
        )
        return [tuple(row) for row in found]

    kettle = ("a kettle of tea", "'kettl':2 'tea':4", True)
    assert await stored("memories") == [
        ("a cup", "'cup':2", True),
        kettle,
        ("kettles and kettles", "'kettl':1,3", True),
    ]
    assert await stored("memory_entries") == [kettle]
    # Said again in other letters, and changed.
    await uow.memories.remember(bank, "A CUP")
    await uow.memories.update(first.id, {"content": "a pot"})
    await uow.memory_entries.remember("project", "A  Kettle of tea")
    assert {row[:2] for row in await stored("memories")} >= {("A CUP", "'cup':2"), ("a pot", "'pot':2")}
    assert all(row[2] for row in await stored("memories"))
    assert await stored("memory_entries") == [("A  Kettle of tea", *kettle[1:])]
    # Plain SQL changes the text, or stores one: its own words are found, and not those of before.
    await uow.session.execute(
        sql("UPDATE memories SET content = 'a samovar' WHERE id = :id"), {"id": first.id}
    )
    await uow.session.execute(
        sql("UPDATE memory_entries SET content = 'a samovar' WHERE id = :id"), {"id": entry.id}
    )
    await uow.session.execute(
        sql("INSERT INTO memories (memory_bank_id, content) VALUES (:bank, 'two samovars')"),
        {"bank": bank.id},
    )
    for match in ("any", "all"):
        said = [
            (await uow.memories.hybrid_search(bank, "samovar", None, match=match)),  # type: ignore[arg-type]
            (await uow.memory_entries.hybrid_search("project", "samovar", None, match=match)),  # type: ignore[arg-type]
        ]
        assert [sorted(text_of(hit) for hit in found) for found in said] == [
            ["a samovar", "two samovars"],
            ["a samovar"],
        ]
        assert all(hit.score > 0 for found in said for hit in found)
        assert not len(await uow.memories.hybrid_search(bank, "pot", None, match=match))  # type: ignore[arg-type]
    row = (await uow.memories.hybrid_search(bank, "cup", None)).hits[0].row
    assert not {"search", "search_hash"} & row._mapping.keys()


async def test_a_merged_memory_has_its_own_words(uow: AsyncUnitOfWork) -> None:
    bank = await uow.memory_banks.get_or_create("bank")
    for content in ("a red kettle", "a blue kettle"):
        await uow.memories.remember(bank, content, embedding=UNIT)
    await uow.memories.consolidate(bank, merge=lambda group: "kettles of two colours")
    found = await uow.session.execute(
        sql("SELECT content, search::text, search_hash = hashtextextended(content, 0) FROM memories")
    )
    assert [tuple(row) for row in found] == [("kettles of two colours", "'colour':4 'kettl':1 'two':3", True)]
