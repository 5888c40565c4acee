"""`alfred-db quickstart`: a small agent platform, run once, to see that everything works."""

from __future__ import annotations

import click

from ..config import command, database_url
from ..database import Database
from ..repositories import UnitOfWork
from ..vectors.toy import toy_embedder
from .options import schema_option, url_option

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
def quickstart(url: str | None, schema: str | None) -> None:
    """Store documents, answer a question by a task, and remember it, to see that everything works.

    The vectors are those of a toy embedder, which knows words but no meanings. Nothing is stored twice.
    """
    with Database(database_url(url), schema=schema, application_name="alfred-db quickstart") as database:
        database.verify()
        with database.begin() as uow:
            _store(uow)
        with database.begin() as uow:
            answer = _answer(uow)
        with database.begin() as uow:
            _remember(uow, answer)
        doctor = command("doctor", database.url, schema)
        tasks = command("tasks list", database.url, schema)
        search = command("documents search", database.url, schema, "workers")
    click.echo(f"\nnext: {doctor} shows what the server has")
    click.echo(f"      {tasks} shows the task of this run")
    click.echo(f"      {search} finds a document")


def _store(uow: UnitOfWork) -> None:
    new = {
        title: text
        for title, text in _TEXTS.items()
        if uow.documents.get_by_external_id(f"quickstart:{title}") is None
    }
    for (title, text), vector in zip(new.items(), toy_embedder(list(new.values()), 384), strict=True):
        uow.documents.add(
            text, title=title, embedding=vector, external_id=f"quickstart:{title}", embedding_model="toy"
        )
    click.echo(f"documents  {len(new)} of {len(_TEXTS)} stored with their vectors, the others are known")


def _answer(uow: UnitOfWork) -> str:
    """Enqueue the question as a task, claim it, search, and complete it with the answer."""
    uow.agents.register("quickstart", type="demo", version="1")
    task, created = uow.tasks.enqueue(
        "ANSWER", {"question": _QUESTION}, task_id="quickstart", queue="quickstart"
    )
    found = uow.documents.hybrid_search(_QUESTION, toy_embedder([_QUESTION])[0], limit=1).hits[0].row
    for claimed in uow.tasks.claim("quickstart", queues=["quickstart"]):
        uow.tasks.complete(claimed)
    click.echo(f"task       {task.task_id}, {'completed' if created else 'completed by an earlier run'}")
    click.echo(f"question   {_QUESTION}")
    click.echo(f"answer     {found.content}")
    return str(found.content)


def _remember(uow: UnitOfWork, answer: str) -> None:
    bank = uow.memory_banks.get_or_create("quickstart")
    text = f"{_QUESTION} {answer}"
    memory = uow.memories.remember(bank, text, embedding=toy_embedder([text])[0], embedding_model="toy")
    recalled = uow.memories.recall(bank, toy_embedder(["claim tasks"])[0], limit=1)
    click.echo(f"memory     {memory!r}, {len(list(recalled))} recalled")
