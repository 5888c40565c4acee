"""A chat agent: its messages are conversations, and what it is asked to remember are memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alfred_db import Database

Embedder = Callable[[Sequence[str]], Any]
Model = Callable[[str], str]

REMEMBER = "remember "


@dataclass(frozen=True)
class ChatAgent:
    database: Database
    embed: Embedder
    """Returns a vector of 384 numbers for each text."""
    model: Model
    """Returns the answer to a prompt."""

    def reply(self, user: str, session_id: str, text: str) -> str:
        """Answer a message. Message, answer and memory are stored together or not at all."""
        vector = self.embed([text])[0]
        with self.database.begin() as uow:
            bank = uow.memory_banks.get_or_create(f"user:{user}")
            history = uow.conversations.last(session_id, 10)
            known = [memory.row.content for memory in uow.memories.search(bank, vector, limit=3).hits]
        # No transaction is open while the model runs.
        answer = self.model(prompt(history, known, text))
        with self.database.begin() as uow:
            uow.conversations.append_many(
                session_id, [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
            )
            if text.lower().startswith(REMEMBER):
                fact = text[len(REMEMBER) :]
                uow.memories.remember(bank, fact, embedding=self.embed([fact])[0], importance=3)
        return answer


def prompt(history: Sequence[Any], known: Sequence[str], text: str) -> str:
    facts = "\n".join(f"- {fact}" for fact in known)
    said = "\n".join(f"{message.role}: {message.content}" for message in history)
    return f"You know:\n{facts}\n\n{said}\nuser: {text}"
