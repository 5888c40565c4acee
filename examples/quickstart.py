"""A small agent platform on alfred-db: an agent, its tasks, its documents, and what it remembers.

    alembic upgrade head
    python examples/quickstart.py

Works on ALFRED_DB_URL or DATABASE_URL, else on the embedded server. Running it again stores nothing twice:
each row has a key of its own, by which it is found again.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from sqlalchemy import Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from alfred_db import AlfredDBError, Database, Document, Embedding, Memory, MemoryBank, Task, TaskResult

DATA = Path(__file__).parent / "data"
QUESTIONS = (206, 227, 233, 240, 271)  # lines of the queries that the agent is asked

COMMAND = os.path.relpath(Path(sys.executable).parent / "alfred-db")
NEXT = f"""
Next        embedded psql   {COMMAND} server psql -c 'SELECT title FROM documents LIMIT 5'
            what is there   {COMMAND} doctor
            step by step    docs/quickstart.md
            run this again  nothing is stored twice"""


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def store(session: Session, entries: list[dict[str, Any]], vectors: Embedding) -> int:
    """Store the documents whose `external_id` is not known yet; gives their number."""
    rows = [
        {
            "external_id": f"wordnet:{entry['synset']}",
            "title": ", ".join(entry["words"]),
            "content": entry["text"],
            "metadata_": {"lexname": entry["lexname"]},
            "embedding": vector,
            "embedding_model": "MiniLM",
        }
        for entry, vector in zip(entries, vectors, strict=True)
    ]
    statement = insert(Document).on_conflict_do_nothing(index_elements=[Document.external_id])
    return len(session.scalars(statement.returning(Document.id), rows).all())


def nearest(session: Session, vector: Embedding, limit: int) -> Sequence[Row[str | None, str | None, float]]:
    """The documents nearest in meaning: ORDER BY distance LIMIT n is what the HNSW index serves."""
    distance = Document.embedding.cosine_distance(vector)
    found = select(Document.external_id, Document.content, distance).order_by(distance).limit(limit)
    return session.execute(found).all()


def finish(session: Session, task_id: str, question: str, answer: list[str | None]) -> str:
    """File the task unless it is known, and complete it with its result unless an earlier run did."""
    filed = insert(Task).values(task_id=task_id, intent="ANSWER", content={"question": question}, priority=3)
    session.execute(filed.on_conflict_do_nothing(index_elements=[Task.task_id]))
    completed = update(Task).where(Task.task_id == task_id, Task.status == "pending").returning(Task.id)
    key = session.scalar(completed.values(status="completed", completed_at=func.now()))
    if key is None:
        return "finished by an earlier run"
    session.add(TaskResult(task_id=key, result_type="answer", content={"documents": answer}))
    return "filed and finished"


def remember(session: Session, bank: MemoryBank, content: str, vector: Embedding) -> int:
    """Keep a memory, once in its bank; gives how often it was told."""
    digest, key = sha256(content.encode()).digest(), [Memory.memory_bank_id, Memory.content_hash]
    told = insert(Memory).values(
        memory_bank_id=bank.id, content=content, content_hash=digest, embedding=vector
    )
    again = told.on_conflict_do_update(index_elements=key, set_={"seen_count": Memory.seen_count + 1})
    return session.scalars(again.returning(Memory.seen_count)).one()


def plan(session: Session, vector: Embedding) -> str:
    """How the server runs the search, in its own words."""
    search = "SELECT id FROM documents ORDER BY embedding <=> CAST(:vector AS vector) LIMIT 10"
    lines = session.scalars(text(f"EXPLAIN (COSTS OFF) {search}"), {"vector": str(vector.tolist())})
    return next(str(line).strip(" ->") for line in lines if "Scan" in line)


def main() -> None:
    entries, queries = read("wordnet_documents.jsonl"), read("wordnet_queries.jsonl")
    with np.load(DATA / "wordnet_minilm_384.npz") as arrays:
        vectors, query_vectors = arrays["documents"].astype(np.float32), arrays["queries"].astype(np.float32)
    golds = [f"wordnet:{entries[query['gold']]['synset']}" for query in queries]

    with Database() as db:
        db.verify()
        with db.begin() as uow:
            known = uow.agents.get_by_name("librarian") is not None
            agent = uow.agents.register("librarian", type="search", version="1.0", capabilities=["answer"])
            bank = uow.session.scalars(select(MemoryBank).where(MemoryBank.name == agent.name)).first()
            bank = bank or MemoryBank(name=agent.name, description="Questions and their answers")
            uow.session.add(bank)
        print(f"\nAgent       {agent.name} registered{' again' if known else ''}: id {agent.id}")

        with db.begin() as uow:
            start, new = perf_counter(), store(uow.session, entries, vectors)
        seconds = perf_counter() - start
        print(
            f"Documents   {new:,} stored with their vectors, {len(entries) - new:,} known ({seconds:.1f} s)"
        )

        print("\nQuestions   answered by cosine distance, remembered and finished in one transaction each")
        for line in QUESTIONS:
            question, vector = queries[line]["text"], query_vectors[line]
            with db.begin() as uow:
                hits = nearest(uow.session, vector, limit=3)
                state = finish(uow.session, f"quickstart-{line}", question, [hit[0] for hit in hits])
                told = remember(uow.session, bank, f"{question}: {hits[0].content}", vector)
            print(f"\n  {question}\n  task quickstart-{line} {state}; memory told {told} x")
            for key, content, distance in hits:
                print(f"    {distance:.2f} {'*' if key == golds[line] else ' '} {str(content)[:86]}")
        print("\n  * is the right one: the entry that WordNet illustrates with these words.")

        with db.session() as session:
            start = perf_counter()
            found = [[hit[0] for hit in nearest(session, vector, limit=10)] for vector in query_vectors]
            each = (perf_counter() - start) / len(queries) * 1000
            right = sum(gold in keys for gold, keys in zip(golds, found, strict=True))
            print(
                f"\nSearch      {right} of {len(found)} queries find theirs in the top 10, {each:.1f} ms each"
            )
            print(f"            {plan(session, query_vectors[0])}")
    print(NEXT)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("alfred_db").setLevel(logging.INFO)
    try:
        main()
    except AlfredDBError as error:
        sys.exit(f"quickstart: {error}")
