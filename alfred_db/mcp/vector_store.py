"""The group vector-store: documents, found by meaning and by words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from ..models import Document
from ..search.filters import Filter
from ..values.documents import DocumentChanges, DocumentRow
from .embedding import Mode, embed, vector_of
from .results import MAX_CHARS, Cursor, Cut, Done, Key, Limit, Metadata, Noted, PageOf, When
from .tools import Tools

__all__ = ["register", "register_shared"]

Query = Annotated[
    str,
    Field(
        description='What to look for: a question or words; "a phrase", or, and -word are understood.',
        min_length=1,
        max_length=10_000,
    ),
]
Where = Annotated[
    dict[str, Any] | None,
    Field(
        description='Only rows that match, such as {"must": [{"field": "metadata.lang", "eq": "en"}]}. Operators: '
        "eq, in, range (gt, gte, lt, lte), contains, exists, size; groups: must, should, must_not."
    ),
]
Content = Annotated[str, Field(description="The whole text.", min_length=1, max_length=2_000_000)]
Title = Annotated[str | None, Field(description="A short title.", max_length=10_000)]
ExternalId = Annotated[
    str | None,
    Field(
        description="Your own unique key, such as a path or URL; it replaces a document that has it.",
        max_length=1_000,
    ),
]

ADVICE = "get_document returns a whole document, in parts."


class DocumentItem(BaseModel):
    """A document."""

    id: int
    title: str | None
    content: str | None
    chars: int = Field(description="The length of the whole content in characters.")
    metadata: dict[str, Any] | None
    external_id: str | None
    embedding_model: str | None
    created_at: When
    updated_at: When


class FoundDocument(DocumentItem):
    """A document that a search found."""

    score: float = Field(description="Higher is better; comparable within one result only.")
    distance: float | None = Field(description="Cosine distance, 0 to 2; null if words alone found it.")


class FoundDocuments(Noted):
    """The documents that a search found, best first."""

    documents: list[FoundDocument]
    mode: str = Field(description="What was compared: words, meaning, or both.")


class DocumentPage(PageOf):
    """A page of documents."""

    documents: list[DocumentItem]


class DocumentPart(DocumentItem):
    """A document, with a part of its content."""

    next_offset: int | None = Field(
        default=None, description="Pass it as `offset` to read on; null at the end."
    )


class StoredDocument(BaseModel):
    """A document that was stored."""

    id: int
    embedded: bool = Field(description="Whether it has a vector; without one only words find it.")


def item(row: Document | DocumentRow, cut: Cut) -> dict[str, Any]:
    """Return the fields of a document."""
    return {
        "id": row.id,
        "title": cut.text(row.title),
        "content": cut.text(row.content),
        "chars": len(row.content or ""),
        "metadata": cut.metadata(row.metadata_),
        "external_id": row.external_id,
        "embedding_model": row.embedding_model,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def filter_of(where: Mapping[str, Any] | None) -> Filter | None:
    """Return the filter of its JSON form."""
    return None if where is None else Filter.from_dict(where)


def register_shared(tools: Tools) -> None:
    """Register the tools that the groups vector-store and rag both have."""

    @tools.writes("Add a document", destructive=True)
    async def add_document(
        content: Content, title: Title = None, external_id: ExternalId = None, metadata: Metadata = None
    ) -> StoredDocument:
        """Store a text so that search_documents finds it.

        With an external_id that is known, replaces that document. Without one, each call adds a new document.
        """
        vector = await embed(tools.embedder, content)
        async with tools.writing() as uow:
            added = await uow.documents.add(
                content, title=title, embedding=vector, metadata=metadata, external_id=external_id
            )
            return StoredDocument(id=added.id, embedded=vector is not None)

    @tools.reads("Search documents")
    async def search_documents(
        query: Query, limit: Limit = 10, mode: Mode = "auto", where: Where = None
    ) -> FoundDocuments:
        """Find documents by meaning and by words, best first. Use it to answer a question from stored texts.

        mode='auto' compares both where the server has an embedder, and words otherwise. To read a whole
        document, pass its id to get_document. For one text to answer from, use generate_context.
        """
        vector = await vector_of(tools.embedder, query, mode)
        async with tools.reading() as uow:
            condition = filter_of(where)
            if mode == "meaning":
                found = await uow.documents.search(vector, limit=limit, where=condition)
            else:
                found = await uow.documents.hybrid_search(query, vector, limit=limit, where=condition)
        cut = Cut(len(found), ADVICE)
        documents = [
            FoundDocument(**item(hit.row, cut), score=hit.score, distance=hit.distance) for hit in found
        ]
        used = mode if mode != "auto" else "words" if vector is None else "both"
        return FoundDocuments(documents=documents, mode=used, note=cut.note)


def register(tools: Tools) -> None:
    """Register the tools of the group."""
    register_shared(tools)

    @tools.reads("Get a document")
    async def get_document(
        document_id: Key,
        offset: Annotated[
            int, Field(description="The first character of the content.", ge=0, le=2**31 - 1)
        ] = 0,
    ) -> DocumentPart:
        """Read one document by its id. A long content comes in parts: repeat with `next_offset`."""
        async with tools.reading() as uow:
            found = await uow.documents.get(document_id)
        if found is None:
            raise _unknown(document_id)
        cut = Cut(1, "")
        fields = item(found, cut)
        content = found.content
        if content is not None:
            fields["content"] = content[offset : offset + MAX_CHARS]
        rest = offset + MAX_CHARS < len(content or "")
        return DocumentPart(**fields, next_offset=offset + MAX_CHARS if rest else None)

    @tools.reads("List documents")
    async def list_documents(after: Cursor = None, limit: Limit = 20) -> DocumentPage:
        """List all documents in the order in which they were added, page by page.

        To find documents about something, use search_documents.
        """
        async with tools.reading() as uow:
            page = await uow.documents.list(after=after, limit=limit)
        cut = Cut(len(page), ADVICE)
        documents = [DocumentItem(**item(row, cut)) for row in page]
        return DocumentPage(documents=documents, next=page.next, note=cut.note)

    @tools.writes("Update a document", destructive=True, idempotent=True)
    async def update_document(
        document_id: Key,
        content: Annotated[str | None, Field(max_length=2_000_000)] = None,
        title: Title = None,
        metadata: Metadata = None,
    ) -> StoredDocument:
        """Replace the content, the title or the metadata of a document; what is omitted stays.

        A new content gets a new vector. Without an embedder the old vector is removed.
        """
        changes = DocumentChanges()
        if content is not None:
            changes["content"] = content
            changes["embedding"] = await embed(tools.embedder, content)
        if title is not None:
            changes["title"] = title
        if metadata is not None:
            changes["metadata"] = metadata
        if not changes:
            raise ToolError("nothing to change; pass content, title or metadata")
        async with tools.writing() as uow:
            changed = await uow.documents.update(document_id, changes)
            return StoredDocument(id=changed.id, embedded=changes.get("embedding") is not None)

    @tools.writes("Delete a document", destructive=True, idempotent=True)
    async def delete_document(document_id: Key) -> Done:
        """Delete a document for ever, with the references to it in RAG queries."""
        async with tools.writing() as uow:
            await uow.documents.delete(document_id)
        return Done(message=f"document {document_id} is deleted")


def _unknown(document_id: int) -> ToolError:
    return ToolError(
        f"document {document_id}: not found; search_documents and list_documents return the ids that exist"
    )
