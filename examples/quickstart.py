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
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from sqlalchemy import func, select

from alfred_db import AlfredDBError, Database, Document, Embedding, SearchResult, UnitOfWork

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


def store(uow: UnitOfWork, entries: list[dict[str, Any]], vectors: Embedding) -> int:
    """Store the documents whose `external_id` is not known yet; gives their number."""
    rows = [
        {
            "external_id": f"wordnet:{entry['synset']}",
            "title": ", ".join(entry["words"]),
            "content": entry["text"],
            "metadata": {"lexname": entry["lexname"]},
            "embedding_model": "MiniLM",
        }
        for entry in entries
    ]
    count = select(func.count(Document.id))
    known = uow.session.scalars(count).one()
    uow.documents.add_many(rows, embeddings=vectors, on_conflict="ignore")
    return uow.session.scalars(count).one() - known


def work(uow: UnitOfWork, worker: str, answer: list[str]) -> str:
    """Do the task that waits: claim it, and complete it with its result; unless an earlier run did."""
    claimed = uow.tasks.claim(worker=worker, intents=["ANSWER"])
    for task in claimed:
        uow.tasks.complete(task, [{"result_type": "answer", "content": {"documents": answer}}])
    return "enqueued and completed" if claimed else "completed by an earlier run"


def right(results: list[SearchResult], golds: list[str]) -> int:
    """How many of the results have the document that was meant."""
    return sum(
        gold in [hit.row.external_id for hit in result] for gold, result in zip(golds, results, strict=True)
    )


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
            bank = uow.memory_banks.get_or_create(agent.name)
        print(f"\nAgent       {agent.name} registered{' again' if known else ''}: id {agent.id}")

        with db.begin() as uow:
            start, new = perf_counter(), store(uow, entries, vectors)
        seconds = perf_counter() - start
        print(
            f"Documents   {new:,} stored with their vectors, {len(entries) - new:,} known ({seconds:.1f} s)"
        )

        print("\nQuestions   answered by cosine distance, remembered and finished in one transaction each")
        for line in QUESTIONS:
            question, vector = queries[line]["text"], query_vectors[line]
            with db.begin() as uow:
                uow.tasks.enqueue("ANSWER", {"question": question}, task_id=f"quickstart-{line}", priority=3)
            with db.begin() as uow:
                hits = uow.documents.search(vector, limit=3).hits
                state = work(uow, agent.name, [hit.row.external_id for hit in hits])
                remembered = uow.memories.remember(
                    bank, f"{question}: {hits[0].row.content}", embedding=vector
                )
                memory = uow.memories.get(remembered.id)
            print(f"\n  {question}\n  task quickstart-{line} {state}; memory seen {memory.seen_count} x")
            for hit in hits:
                mark = "*" if hit.row.external_id == golds[line] else " "
                print(f"    {hit.distance:.2f} {mark} {hit.row.content[:86]}")
        print("\n  * is the right one: the entry that WordNet illustrates with these words.")

        with db.begin() as uow:
            start = perf_counter()
            found = [uow.documents.search(vector) for vector in query_vectors]
            each = (perf_counter() - start) / len(queries) * 1000
            texts = [query["text"] for query in queries]
            fused = [
                uow.documents.hybrid_search(text, vector)
                for vector, text in zip(query_vectors, texts, strict=True)
            ]
            plan = uow.documents.search(query_vectors[0], explain=True).plan or ""
        print(
            f"\nSearch      {right(found, golds)} of {len(found)} queries find theirs in the top 10, {each:.1f} ms each"
        )
        print(f"            {right(fused, golds)} of them by meaning and by word together")
        print(f"            {next(step.strip(' ->') for step in plan.splitlines() if 'Scan' in step)}")
    print(NEXT)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("alfred_db").setLevel(logging.INFO)
    try:
        main()
    except AlfredDBError as error:
        sys.exit(f"quickstart: {error}")
