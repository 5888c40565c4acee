from __future__ import annotations

import pytest
from agent import ChatAgent

from alfred_db import Database
from alfred_db.testing import assert_query_count, toy_embedder


def agent(database: Database) -> ChatAgent:
    return ChatAgent(database, toy_embedder, lambda prompt: prompt)


def test_it_remembers_across_sessions(alfred_db: Database) -> None:
    ann = agent(alfred_db)
    ann.reply("ann", "monday", "Remember my cat is called Mitzi")
    assert "my cat is called Mitzi" in ann.reply("ann", "friday", "What is the name of my cat?")
    assert "Mitzi" not in ann.reply("bob", "friday-bob", "What is the name of my cat?")


def test_it_knows_what_was_said(alfred_db: Database) -> None:
    ann = agent(alfred_db)
    ann.reply("ann", "s", "Good morning")
    assert "user: Good morning" in ann.reply("ann", "s", "And now?")
    with alfred_db.begin() as uow:
        assert [message.role for message in uow.conversations.last("s")] == ["user", "assistant"] * 2


def test_a_model_that_fails_leaves_nothing(alfred_db: Database) -> None:
    def fail(prompt: str) -> str:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        ChatAgent(alfred_db, toy_embedder, fail).reply("ann", "s", "Remember this")
    with alfred_db.begin() as uow:
        assert not uow.conversations.last("s")


def test_an_answer_takes_few_statements(alfred_db: Database) -> None:
    ann = agent(alfred_db)
    ann.reply("ann", "s", "Good morning")
    with assert_query_count(6) as seen:
        ann.reply("ann", "s", "And now?")
    assert any("memories" in statement for statement in seen)
