"""What the words of a search select: a negated word never brings rows in."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any, get_type_hints

import pytest
from sqlalchemy import Text, column, func, select, values

from alfred_db import Hit
from alfred_db.queries.shapes.text_terms import asked, float8, given_terms, matches, rated
from alfred_db.queries.shapes.words import Match, bound_language, parameters
from alfred_db.repositories import AsyncUnitOfWork

WORDS = ("cat", "dog", "owl", "the")
TEXTS = [
    " ".join(words) for count in range(5) for words in itertools.permutations(WORDS, count)
]  # every order of every choice


async def selected(uow: AsyncUnitOfWork, text: str, match: Match, language: str = "english") -> set[str]:
    rows = values(column("content", Text), name="rows").data([(one,) for one in TEXTS])
    given = given_terms(bound_language())
    counted = select(given.c.query, float8(1.0).label("n")).cte("counted")
    found = asked(rated(counted, float8(1.0)), bound_language(), match, some=False).c.found
    condition = matches(func.to_tsvector(bound_language(), rows.c.content), select(found).scalar_subquery())
    statement = select(rows.c.content).where(condition).params(language=language, **parameters(text, match))
    return set(await uow.session.scalars(statement))


def having(*words: str, without: tuple[str, ...] = ()) -> set[str]:
    """The texts with one of the words or phrases, and with none of the others."""
    return {
        text
        for text in TEXTS
        if any(word in text for word in words) and not any(word in text for word in without)
    }


@pytest.mark.parametrize("match", ["any", "all"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", having("cat")),
        ("the", set()),
        ("", set()),
        ("- ' \" or -", set()),
        ("-dog", set()),
        ("the -dog", set()),
        ("-dog -the", set()),
        ("cat -dog", having("cat", without=("dog",))),
        ("-dog cat", having("cat", without=("dog",))),
        ("cat (-dog)", having("cat", without=("dog",))),
        ("cat\n-dog", having("cat", without=("dog",))),
        ("what does cat -dog do", having("cat", without=("dog",))),
        ("cat -the", having("cat")),
        ("cat --dog", None),
        ("cat - the", having("cat")),
        ("cat -", having("cat")),
        ("cat or dog", having("cat", "dog")),
        ("OR cat or or dog OR", having("cat", "dog")),
        ("cat or -dog", having("cat", without=("dog",))),
        ("-dog or cat", having("cat", without=("dog",))),
        ("the -dog or cat", having("cat", without=("dog",))),
        ("-dog or -owl", set()),
        ('"cat dog"', having("cat dog")),
        ('"cat dog', having("cat dog")),
        ('-"cat dog" owl', having("owl", without=("cat dog",))),
        ('"cat dog" or "owl cat" -"dog owl"', None),
        ('"-dog" "cat"', None),
        ("cat!-dog", having("cat", without=("dog",))),
    ],
)
async def test_a_negated_word_is_a_condition(
    uow: AsyncUnitOfWork, text: str, expected: set[str] | None, match: Match
) -> None:
    found = await selected(uow, text, match)
    if expected is not None:
        assert found == expected
    assert all(any(word in one for word in WORDS[:3]) for one in found)


async def test_all_words_and_any_word(uow: AsyncUnitOfWork) -> None:
    assert await selected(uow, "cat dog", "any") == having("cat", "dog")
    assert await selected(uow, "cat dog", "all") == having("cat") & having("dog")
    assert await selected(uow, "cat dog -owl", "any") == having("cat", "dog", without=("owl",))
    assert await selected(uow, "cat - dog", "all") == having("cat") & having("dog")
    assert await selected(uow, "cat -dog or owl", "all") == having("cat", without=("dog",)) | having("owl")
    assert await selected(uow, "cat --dog", "any") == having("cat", "dog")
    assert await selected(uow, "a/b?c=cat&d='| cat", "any", "simple") == having("cat")


async def test_no_text_brings_in_rows_without_its_words(uow: AsyncUnitOfWork) -> None:
    source = random.Random(7)
    units = (
        "cat",
        "dog",
        "the",
        "or",
        "-",
        "-cat",
        "-dog",
        "--owl",
        '"cat dog"',
        '-"cat dog"',
        "(",
        ")",
        "!",
        '"',
    )
    for _ in range(50):
        text = " ".join(source.choice(units) for _ in range(source.randrange(1, 6)))
        for match in ("any", "all"):
            for language in ("english", "simple"):
                found = await selected(uow, text, match, language)
                assert "" not in found, text
                assert not found & ({"the"} if language == "english" else set()), text


Find = Callable[[AsyncUnitOfWork, str], Awaitable[Any]]


CONTENTS = ("ls lists files", "cats sleep", "ls -la lists everything", "dogs bark")


async def searches(uow: AsyncUnitOfWork) -> dict[str, Find]:
    """Every search by words, over the same four texts without vectors."""
    bank = await uow.memory_banks.get_or_create("bank")
    for content in CONTENTS:
        await uow.documents.add(content)
        await uow.memories.remember(bank, content)
        await uow.memory_entries.remember("project", content)
        await uow.conversations.append("session", "user", content)
    unit, long_unit = [1.0] + [0.0] * 383, [1.0] + [0.0] * 767
    longest = [1.0] + [0.0] * 1535
    await uow.knowledge.upsert(
        "legal-knowledge",
        [{"id": str(number), "payload": {"text": content}} for number, content in enumerate(CONTENTS)],
    )
    found: dict[str, Find] = {"conversations": lambda uow, text: uow.conversations.search(text)}
    for match in ("all", "any"):
        found[f"documents, {match}"] = lambda uow, text, match=match: uow.documents.hybrid_search(
            text, unit, match=match
        )
        found[f"memories, {match}"] = lambda uow, text, match=match: uow.memories.hybrid_search(
            bank, text, unit, match=match
        )
        found[f"entries, {match}"] = lambda uow, text, match=match: uow.memory_entries.hybrid_search(
            "project", text, long_unit, match=match
        )
        found[f"knowledge, {match}"] = lambda uow, text, match=match: uow.knowledge.hybrid_search(
            "legal-knowledge", text, longest, match=match
        )
    return found


def text_of(hit: Hit) -> str:
    text: str = hit.row.payload["text"] if hasattr(hit.row, "payload") else hit.row.content
    return text


async def test_every_search_by_words_takes_it_so(uow: AsyncUnitOfWork) -> None:
    for name, search in (await searches(uow)).items():
        found: list[Hit] = list(await search(uow, "what does ls -la do"))
        assert [text_of(hit) for hit in found] == ["ls lists files"], name
        assert list(await search(uow, "-la")) == [], name
        assert list(await search(uow, "the or -la")) == [], name


def test_every_search_by_words_is_among_them() -> None:
    taking = {
        noun
        for noun, repository in AsyncUnitOfWork.__dict__.items()
        if isinstance(repository, cached_property)
        and hasattr(get_type_hints(repository.func)["return"], "hybrid_search")
    }
    assert taking == {"documents", "knowledge", "memories", "memory_entries"}


async def test_a_context_is_of_documents_with_the_words(uow: AsyncUnitOfWork) -> None:
    for content in ("ls lists files", "cats sleep", "dogs bark"):
        await uow.documents.add(content)
    context = await uow.rag.build_context([1.0] + [0.0] * 383, "what does ls -la do")
    assert context.text == "[1] ls lists files"
