"""The sets: WordNet's glosses, made dialogues, and a folder of the caller's."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import peer_environment

from .dialogues import Conversation, Question, Turn, dialogues
from .minilm import REQUIREMENTS

__all__ = ["SAMPLE", "Set", "conversations", "made", "wordnet"]

SAMPLE = Path(__file__).parents[2] / "examples" / "data"
CACHE = Path(__file__).parents[2] / ".venv" / "peers" / "minilm"


@dataclass(frozen=True)
class Set:
    """Conversations, with a vector for each turn and each question, in their order; None where they have none."""

    name: str
    conversations: list[Conversation]
    turns: Any
    questions: Any


def wordnet(folder: Path) -> Set:
    """Glosses with the words that they explain; the questions are examples of their use, or parts of other glosses."""
    documents, questions = (_lines(folder / f"wordnet_{name}.jsonl") for name in ("documents", "queries"))
    with np.load(folder / "wordnet_minilm_384.npz") as arrays:
        vectors, asked = (arrays[name].astype(np.float32) for name in ("documents", "queries"))
    turns = [Turn(str(place), one["text"]) for place, one in enumerate(documents)]
    known = [Question(one["text"], frozenset({str(one["gold"])})) for one in questions]
    return Set(f"{len(turns):,} WordNet glosses", [Conversation("wordnet", turns, known)], vectors, asked)


def made() -> Set:
    """Made dialogues, with vectors of a real model from an environment of its own; they are kept in .venv/peers."""
    talks = dialogues()
    texts = [turn.text for talk in talks for turn in talk.turns]
    asked = [question.text for talk in talks for question in talk.questions]
    vectors = _embedded(texts + asked)
    return Set(f"{len(talks)} made dialogues", talks, vectors[: len(texts)], vectors[len(texts) :])


def conversations(file: Path) -> Set:
    """The caller's set: a line of JSON for each conversation, as docs/benchmarks/retrieval.md describes it."""
    found: list[Conversation] = []
    turns: list[Any] = []
    questions: list[Any] = []
    for line in _lines(file):
        talk = Conversation(str(line["conversation"]))
        for turn in line["turns"]:
            talk.turns.append(Turn(str(turn["id"]), turn["text"]))
            turns.append(turn.get("embedding"))
        for question in line["questions"]:
            talk.questions.append(Question(question["text"], frozenset(map(str, question["gold"]))))
            questions.append(question.get("embedding"))
        found.append(talk)
    whole = all(one is not None for one in (*turns, *questions))
    vectors = [np.array(some, np.float32) if whole else None for some in (turns, questions)]
    return Set(f"{len(found)} conversations of {file.name}", found, *vectors)


def _embedded(texts: list[str]) -> Any:
    given, vectors = CACHE / "texts.json", CACHE / "vectors.npy"
    python = peer_environment("minilm", REQUIREMENTS)
    text = json.dumps(texts)
    if not vectors.exists() or given.read_text() != text:
        vectors.unlink(missing_ok=True)
        given.write_text(text)
        script = Path(__file__).with_name("minilm.py")
        subprocess.run(
            [str(python), str(script), str(given), str(vectors)], check=True, stdout=subprocess.DEVNULL
        )
    return np.load(vectors).astype(np.float32)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
