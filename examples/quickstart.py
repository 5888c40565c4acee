"""A small agent platform on alfred-db: an agent, its tasks, its documents, and what it remembers.

    alembic upgrade head
    python examples/quickstart.py

Works on ALFRED_DB_URL or DATABASE_URL, else on the embedded server. Running it again changes nothing twice:
each row has a key of its own, by which it is found again.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from sqlalchemy import Row, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from alfred_db import (
    AlfredDBError,
    Database,
    Document,
    Embedding,
    Memory,
    MemoryBank,
    Task,
    TaskResult,
    TaskStatus,
    Vector,
)

DATA = Path(__file__).parent / "data"
QUESTIONS = (206, 227, 233, 240, 271)
"""Lines of the queries that the agent is asked; the other queries measure the search."""


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def store_documents(session: Session, entries: list[dict[str, Any]], vectors: Embedding) -> int:
    """Store what is not stored yet, found by `external_id`; gives the number of new rows."""
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


def nearest(session: Session, vector: Embedding, limit: int) -> Sequence[Row[tuple[str, str, float]]]:
    """The documents nearest in meaning: ORDER BY distance LIMIT n is what the HNSW index serves."""
    distance = Document.embedding.cosine_distance(vector)
    return session.execute(
        select(Document.external_id, Document.content, distance).order_by(distance).limit(limit)
    ).all()


def file_task(session: Session, task_id: str, question: str) -> Task:
    """The task of that `task_id`: a new one, or the one that an earlier run has filed."""
    values = {"task_id": task_id, "intent": "ANSWER", "content": {"question": question}, "priority": 3}
    session.execute(insert(Task).values(values).on_conflict_do_nothing(index_elements=[Task.task_id]))
    return session.scalars(select(Task).where(Task.task_id == task_id)).one()


def finish_task(task: Task, hits: Sequence[Row[tuple[str, str, float]]]) -> str:
    """Complete the task together with its result, both in the caller's transaction."""
    if task.status is TaskStatus.COMPLETED:
        return "finished by an earlier run"
    task.status, task.completed_at = TaskStatus.COMPLETED, func.now()  # type: ignore[assignment]
    task.results.append(TaskResult(result_type="answer", content={"documents": [hit[0] for hit in hits]}))
    return "filed and finished"


def remember(session: Session, bank: MemoryBank, content: str, vector: Embedding) -> int:
    """Keep a memory, once in its bank; gives how often it was told."""
    statement = insert(Memory).values(
        memory_bank_id=bank.id,
        content=content,
        content_hash=sha256(content.encode()).digest(),
        embedding=vector,
        embedding_model="MiniLM",
    )
    told_again = statement.on_conflict_do_update(
        index_elements=[Memory.memory_bank_id, Memory.content_hash],
        set_={"seen_count": Memory.seen_count + 1},
    )
    return session.scalars(told_again.returning(Memory.seen_count)).one()


def plan(session: Session, vector: Embedding) -> str:
    """The server's own word on how it runs the search."""
    statement = text("EXPLAIN SELECT id FROM documents ORDER BY embedding <=> CAST(:vector AS vector(384)) LIMIT 10")
    lines = session.scalars(statement.bindparams(bindparam("vector", vector, Vector(384)))).all()
    return next(line for line in lines if "Scan" in line).strip(" ->").partition("  ")[0]


def main() -> None:
    documents, queries = read("wordnet_documents.jsonl"), read("wordnet_queries.jsonl")
    with np.load(DATA / "wordnet_minilm_384.npz") as arrays:
        document_vectors, query_vectors = (arrays[name].astype(np.float32) for name in ("documents", "queries"))

    with Database() as db:
        db.verify()

        with db.begin() as uow:
            agent = uow.agents.register("librarian", type="retrieval", version="1.0", capabilities=["answer"])
            bank = uow.session.scalars(select(MemoryBank).where(MemoryBank.name == "librarian")).first()
            if bank is None:
                bank = MemoryBank(name="librarian", description="Questions and what answered them")
                uow.session.add(bank)
            known = "new" if agent.registered_at == agent.updated_at else f"known since {agent.registered_at:%F %T}"
            print(f"\nAgent       {agent.name} registered ({known}), incarnation {agent.incarnation}")

        with db.begin() as uow:
            start = perf_counter()
            new = store_documents(uow.session, documents, document_vectors)
            print(f"Documents   {new:,} stored, {len(documents) - new:,} known already ({perf_counter() - start:.1f} s)")

        print("\nQuestions   each answered, remembered and finished in one transaction")
        for line in QUESTIONS:
            question, vector = queries[line]["text"], query_vectors[line]
            with db.begin() as uow:
                task = file_task(uow.session, f"quickstart-{line}", question)
                hits = nearest(uow.session, vector, limit=3)
                state = finish_task(task, hits)
                told = remember(uow.session, bank, f"{question} -> {hits[0].content}", vector)
            print(f"\n  {question}\n  task {task.task_id} {state}; told {told} x")
            gold = f"wordnet:{documents[queries[line]['gold']]['synset']}"
            for external_id, content, distance in hits:
                print(f"    {distance:.2f} {'*' if external_id == gold else ' '} {content[:88]}")
        print("\n  Cosine distance; * is the entry whose usage example the question is.")

        with db.session() as session:
            start = perf_counter()
            found = [[hit[0] for hit in nearest(session, vector, limit=10)] for vector in query_vectors]
            each = (perf_counter() - start) / len(queries) * 1000
            golds = [f"wordnet:{documents[query['gold']]['synset']}" for query in queries]
            recall = sum(gold in ids for gold, ids in zip(golds, found, strict=True)) / len(queries)
            print(f"\nSearch      {recall:.0%} of {len(queries)} queries have their entry in the top 10; {each:.1f} ms a query")
            print(f"            the server's plan: {plan(session, query_vectors[0])}")

    print("""
Next        alfred-db doctor          what the server has, and what is missing
            alfred-db server psql     look around: SELECT title FROM documents LIMIT 5;
            docs/quickstart.md        the same, step by step
            run this again            nothing is stored twice""")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("alfred_db").setLevel(logging.INFO)
    try:
        main()
    except AlfredDBError as error:
        sys.exit(f"quickstart: {error}")
