from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from service import create_app

from alfred_db import AsyncDatabase, Database


@pytest.fixture
def client(alfred_async_db: AsyncDatabase) -> Iterator[TestClient]:
    with TestClient(create_app(alfred_async_db)) as client:
        yield client


def test_an_answer_has_its_source(client: TestClient, alfred_db: Database) -> None:
    for key, text in {"cats": "Cats sleep sixteen hours a day.", "tea": "Tea has caffeine."}.items():
        assert client.post("/documents", json={"key": key, "text": text}).status_code == 201
    answer = client.get("/ask", params={"question": "How long do cats sleep?", "session": "s"}).json()
    assert answer["sources"][0] == "cats"
    with alfred_db.begin() as uow:
        session = uow.rag.get("s")
        assert session is not None
        (query,) = uow.rag.history(session).items
        assert query.query_text == "How long do cats sleep?"


@pytest.mark.parametrize("number", [1, 2])
def test_without_documents_it_does_not_know(client: TestClient, number: int) -> None:
    answer = client.get("/ask", params={"question": "Why?", "session": "s"}).json()
    assert answer == {"answer": "I do not know.", "sources": []}
    assert client.post("/documents", json={"key": "why", "text": "Because."}).status_code == 201


def test_a_mistake_of_the_client_is_no_failure_of_the_service(client: TestClient) -> None:
    answer = client.post("/documents", json={"key": "k", "text": "a NUL: \x00"})
    assert (answer.status_code, answer.json()["error"]) == (422, "InvalidInputError")
