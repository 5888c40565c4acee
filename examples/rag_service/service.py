"""A RAG service: documents in, answers with their sources out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from alfred_db import AsyncDatabase
from alfred_db.fastapi import AsyncUnit, add_exception_handlers, lifespan
from alfred_db.vectors.toy import toy_embedder


class NewDocument(BaseModel):
    key: str
    text: str


class Answer(BaseModel):
    answer: str
    sources: list[str]


def embed(texts: Sequence[str]) -> Any:
    """Replace this by a model whose vectors have 384 numbers."""
    return toy_embedder(texts, 384)


def create_app(database: AsyncDatabase | None = None) -> FastAPI:
    app = FastAPI(lifespan=lifespan(database or AsyncDatabase(), upgrade=database is None))
    add_exception_handlers(app)

    @app.post("/documents", status_code=201)
    async def add(document: NewDocument, uow: AsyncUnit) -> dict[str, int]:
        added = await uow.documents.add(
            document.text, external_id=document.key, title=document.key, embedding=embed([document.text])[0]
        )
        return {"id": added.id}

    @app.get("/ask")
    async def ask(question: str, session: str, uow: AsyncUnit) -> Answer:
        context = await uow.rag.build_context(embed([question])[0], question, limit=2)
        answer = context.text or "I do not know."
        opened = await uow.rag.open(session)
        await uow.rag.record(opened, question, context=context, response=answer)
        return Answer(answer=answer, sources=[source.title or "" for source in context.sources])

    return app
