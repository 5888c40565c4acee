"""Notes of many customers: one tenant each, on one pool of connections."""

from __future__ import annotations

from collections.abc import Sequence

from alfred_db import Database
from alfred_db.vectors.toy import toy_embedder


def sign_up(database: Database, *customers: str) -> None:
    """Create the tenants of customers; those that exist are upgraded."""
    database.tenants.create(*customers)


def add(database: Database, customer: str, text: str) -> None:
    with database.tenant(customer).begin() as uow:
        uow.documents.add(text, embedding=toy_embedder([text], 384)[0])


def find(database: Database, customer: str, question: str) -> Sequence[str]:
    with database.tenant(customer).begin() as uow:
        found = uow.documents.hybrid_search(question, toy_embedder([question], 384)[0], limit=3)
        return [hit.row.content for hit in found.hits]


def bill(database: Database, *customers: str) -> dict[str, int]:
    """Return the number of notes of each customer."""
    numbers = {}
    for customer in customers:
        with database.tenant(customer).begin() as uow:
            numbers[customer] = len(uow.documents.list(limit=1000).items)
    return numbers
