"""`alfred-db quickstart`: a small agent platform, run once, to see that everything works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .databases import opened
from .options import json_option, schema_option, url_option
from .output import print_result

if TYPE_CHECKING:
    from ..repositories import UnitOfWork

__all__ = ["quickstart"]

_TEXTS = {
    "Vienna": "Vienna is the capital of Austria, on the Danube.",
    "Coffee": "Coffee is made of roasted beans; a Melange has milk in it.",
    "HNSW": "An HNSW index finds the nearest vectors without comparing all of them.",
    "SKIP LOCKED": "SKIP LOCKED lets many workers claim tasks without waiting for each other.",
    "MVCC": "With MVCC readers do not wait for writers, and writers do not wait for readers.",
}
_QUESTION = "How do workers claim tasks?"


@click.command()
@url_option
@schema_option
@json_option
def quickstart(url: str | None, schema: str | None, as_json: bool) -> None:
    """Store documents, answer a question by a task, and remember it, to see that everything works.

    The vectors are those of a toy embedder, which knows words but no meanings. Nothing is stored twice.
    """
    from ..config import command

    with opened(url, schema, application_name="alfred-db quickstart") as database:
        database.verify()
        with database.begin() as uow:
            stored = _store(uow)
        with database.begin() as uow:
            answered = _answer(uow)
        with database.begin() as uow:
            remembered = _remember(uow, answered["answer"])
        doctor = command("doctor", database.url, schema)
        tasks = command("tasks list", database.url, schema)
        search = command("documents search", database.url, schema, "workers")
    done = "completed" if answered["created"] else "completed by an earlier run"
    print_result(
        {"documents": len(_TEXTS), "stored": stored, **answered, **remembered},
        f"documents  {stored} of {len(_TEXTS)} stored with their vectors, the others are known",
        f"task       {answered['task_id']}, {done}",
        f"question   {_QUESTION}",
        f"answer     {answered['answer']}",
        f"memory     {remembered['memory']}, {remembered['recalled']} recalled",
        "",
        f"next: {doctor} shows what the server has",
        f"      {tasks} shows the task of this run",
        f"      {search} finds a document",
        as_json=as_json,
    )


def _store(uow: UnitOfWork) -> int:
    from ..vectors.toy import toy_embedder

    new = {
        title: text
        for title, text in _TEXTS.items()
        if uow.documents.get_by_external_id(f"quickstart:{title}") is None
    }
    for (title, text), vector in zip(new.items(), toy_embedder(list(new.values()), 384), strict=True):
        uow.documents.add(
            text, title=title, embedding=vector, external_id=f"quickstart:{title}", embedding_model="toy"
        )
    return len(new)


def _answer(uow: UnitOfWork) -> dict[str, Any]:
    """Enqueue the question as a task, claim it, search, and complete it with the answer."""
    from ..vectors.toy import toy_embedder

    uow.agents.register("quickstart", type="demo", version="1")
    task, created = uow.tasks.enqueue(
        "ANSWER", {"question": _QUESTION}, task_id="quickstart", queue="quickstart"
    )
    found = uow.documents.hybrid_search(_QUESTION, toy_embedder([_QUESTION])[0], limit=1).hits[0].row
    for claimed in uow.tasks.claim("quickstart", queues=["quickstart"]):
        uow.tasks.complete(claimed)
    return {"task_id": task.task_id, "created": created, "question": _QUESTION, "answer": str(found.content)}


def _remember(uow: UnitOfWork, answer: str) -> dict[str, Any]:
    from ..vectors.toy import toy_embedder

    bank = uow.memory_banks.get_or_create("quickstart")
    text = f"{_QUESTION} {answer}"
    memory = uow.memories.remember(bank, text, embedding=toy_embedder([text])[0], embedding_model="toy")
    recalled = uow.memories.recall(bank, toy_embedder(["claim tasks"])[0], limit=1)
    return {"memory": repr(memory), "recalled": len(list(recalled))}
