"""Documents, memories, conversations, RAG, knowledge and working memory."""

from __future__ import annotations

from alfred_db.search import SearchCandidates, SearchPath
from alfred_db.search.filters import Filter, contains, eq, exists, in_, range_, size
from alfred_db.values.rag import RagContext

from . import JSON, Lines, Returns, Specimens
from .ground import vector

_DOCUMENT = {"content": "c", "title": "t", "metadata": JSON, "external_id": "new", "embedding_model": "m"}
_MEMORY = {"content": "c", "metadata": JSON, "embedding_model": "m"}
_WORKING = {
    "name": "n",
    "memory_type": "t",
    "content": "c",
    "embedding_model": "m",
    "session_id": "s",
    "agent": "a",
    "provider": "p",
    "blob_key": "b",
    "status": "active",
}
_POINTS = {"collection": "ground", "where": Filter(must=[eq("payload.k", "v")])}

EVERY_OPERATOR = Filter(
    must=[
        eq("title", "ground"),
        eq("metadata.k", "v"),
        in_("metadata.k", ["v"]),
        range_("metadata.k", gte="v"),
        contains("metadata", JSON),
        exists("metadata.k"),
        size("metadata.k", gte=0),
    ],
    should=[in_("title", ["ground"]), contains("metadata.k", "v")],
    must_not=[range_("title", lt="a")],
)
_METADATA = Filter(must=[eq("metadata.k", "v")])


def _found(id: object) -> SearchCandidates:
    return SearchCandidates([id], [0.0], SearchPath.EXACT, False)


SPECIMENS: Specimens = {
    "documents.add": lambda g: {
        "content": "c",
        "title": "t",
        "metadata": JSON,
        "external_id": "new",
        "embedding_model": "m",
        "space": "builtin",
    },
    "documents.add, in a space": lambda g: {
        "content": "c",
        "embedding": vector(3),
        "embedding_model": "m",
        "space": "ground",
    },
    "documents.add_many": lambda g: {"rows": [_DOCUMENT]},
    "documents.add_many, in a space": lambda g: {
        "rows": [_DOCUMENT],
        "embeddings": [vector(3)],
        "space": "ground",
    },
    "documents.add_many, updating": lambda g: {"rows": [_DOCUMENT], "on_conflict": "update"},
    "documents.candidates": lambda g: {"embedding": vector(384), "where": _METADATA, "space": "builtin"},
    "documents.get_by_external_id": lambda g: {"external_id": "ground"},
    "documents.hybrid_search": lambda g: {
        "text": "ground",
        "embedding": vector(384),
        "where": _METADATA,
        "language": "english",
    },
    "documents.hybrid_search, by spelling": lambda g: {
        "text": "ground",
        "embedding": vector(384),
        "by_spelling": True,
    },
    "documents.list": lambda g: {},
    "documents.page": lambda g: {"candidates": _found(g.document)},
    "documents.search": lambda g: {"embedding": vector(384), "where": EVERY_OPERATOR, "space": "builtin"},
    "documents.search, in a space": lambda g: {
        "embedding": vector(3),
        "where": EVERY_OPERATOR,
        "space": "ground",
    },
    "documents.search_many": lambda g: {"embeddings": [vector(384)], "where": _METADATA, "space": "builtin"},
    "documents.search_many, in a space": lambda g: {
        "embeddings": [vector(3)],
        "where": _METADATA,
        "space": "ground",
    },
    "documents.update": lambda g: {"document_id": g.document, "values": _DOCUMENT, "space": "builtin"},
    "spaces.activate": lambda g: {"space": "ground"},
    "spaces.coverage": lambda g: {"space": "ground", "kind": "documents"},
    "spaces.create": lambda g: {
        "name": "new",
        "kind": "documents",
        "model": "m",
        "dimensions": 3,
        "storage": "vector",
        "index": "hnsw",
    },
    "spaces.default": lambda g: {"kind": "documents", "space": "ground"},
    "spaces.describe": lambda g: {"space": "ground", "kind": "documents"},
    "spaces.drop": lambda g: {"space": "ground"},
    "spaces.list": lambda g: {"kind": "documents"},
    "spaces.pending": lambda g: {"space": "ground", "kind": "documents"},
    "spaces.retire": lambda g: {"space": "ground"},
    "spaces.store": lambda g: {
        "space": "ground",
        "ids": [g.document],
        "matrix": [vector(3)],
        "kind": "documents",
        "embedding_model": "m",
    },
    "spaces.switch": lambda g: {"kind": "working_memory", "space": "builtin"},
    "memory_banks.get_by_name": lambda g: {"name": "ground"},
    "memory_banks.get_or_create": lambda g: {"name": "new", "description": "d"},
    "memory_banks.list": lambda g: {},
    "memory_banks.update": lambda g: {"bank_id": g.bank, "values": {"name": "n", "description": "d"}},
    "memories.candidates": lambda g: {
        "space": "builtin",
        "bank": g.bank,
        "embedding": vector(384),
        "where": _METADATA,
    },
    "memories.consolidate": lambda g: {"bank": g.bank, "within": 0.5, "merge": Returns("text")},
    "memories.duplicates": lambda g: {"bank": g.bank, "embedding": vector(384), "space": "builtin"},
    "memories.recall": lambda g: {"bank": g.bank, "embedding": vector(384), "space": "builtin"},
    "memories.find_groups": lambda g: {"bank": g.bank},
    "memories.merge_groups": lambda g: {
        "groups": [[g.memory, g.memory]],
        "within": 0.5,
        "merge": Returns("text"),
    },
    "memories.hybrid_search": lambda g: {
        "bank": g.bank,
        "text": "ground",
        "embedding": vector(384),
        "language": "english",
    },
    "memories.list": lambda g: {"bank": g.bank},
    "memories.page": lambda g: {"candidates": _found(g.memory)},
    "memories.remember": lambda g: {
        "space": "builtin",
        "bank": g.bank,
        "content": "new",
        "metadata": JSON,
        "embedding_model": "m",
    },
    "memories.remember_many": lambda g: {
        "space": "builtin",
        "bank": g.bank,
        "memories": [{"content": "new", "metadata": JSON, "embedding_model": "m"}],
    },
    "memories.search": lambda g: {
        "space": "builtin",
        "bank": g.bank,
        "embedding": vector(384),
        "where": _METADATA,
    },
    "memories.update": lambda g: {"space": "builtin", "memory_id": g.memory, "values": _MEMORY},
    "memory_entries.candidates": lambda g: {
        "space": "builtin",
        "namespace": "ground",
        "embedding": vector(768),
        "where": _METADATA,
    },
    "memory_entries.forget_all": lambda g: {"namespace": "ground"},
    "memory_entries.hybrid_search": lambda g: {
        "language": "english",
        "namespace": "ground",
        "text": "ground",
        "embedding": vector(768),
    },
    "memory_entries.list": lambda g: {"namespace": "ground"},
    "memory_entries.page": lambda g: {"candidates": _found(g.entry)},
    "memory_entries.remember": lambda g: {
        "space": "builtin",
        "namespace": "n",
        "content": "new",
        "agent": "a",
        "source": "s",
        "metadata": JSON,
        "embedding_model": "m",
    },
    "memory_entries.search": lambda g: {
        "space": "builtin",
        "namespace": "ground",
        "embedding": vector(768),
        "where": _METADATA,
    },
    "conversations.append": lambda g: {"session_id": "s", "role": "user", "content": "c", "metadata": JSON},
    "conversations.append_many": lambda g: {
        "session_id": "s",
        "messages": [{"role": "user", "content": "c", "metadata": JSON}],
    },
    "conversations.append_many, by COPY": lambda g: {
        "session_id": "s",
        "messages": [
            *[{"role": "user", "content": "c"}] * 1000,
            {"role": "user", "content": "c", "metadata": JSON},
        ],
    },
    "conversations.delete_session": lambda g: {"session_id": "ground"},
    "conversations.history": lambda g: {"session_id": "ground"},
    "conversations.last": lambda g: {"session_id": "ground"},
    "conversations.lock": lambda g: {"session_id": "ground"},
    "conversations.search": lambda g: {"text": "ground", "session_id": "ground"},
    "conversations.sessions": lambda g: {},
    "rag.answer": lambda g: {"query_id": g.rag_query, "response": "r", "metadata": JSON},
    "rag.build_context": lambda g: {"embedding": vector(384), "text": "ground", "where": _METADATA},
    "rag.get": lambda g: {"session_id": "ground"},
    "rag.history": lambda g: {"session": g.rag_session},
    "rag.open": lambda g: {"session_id": "new", "context": "c"},
    "rag.queries_using": lambda g: {"document_id": g.document},
    "rag.record": lambda g: {
        "session": g.rag_session,
        "query_text": "q",
        "context": RagContext("text", (), False),
        "response": "r",
        "metadata": JSON,
    },
    "knowledge.count": lambda g: _POINTS,
    "knowledge.create_collection": lambda g: {
        "name": "new",
        "description": "d",
        "embedding_model": "m",
        "metadata": JSON,
    },
    "knowledge.delete": lambda g: _POINTS,
    "knowledge.delete, by ids": lambda g: {"collection": "ground", "ids": ["one"]},
    "knowledge.delete_alias": lambda g: {"alias": "nick"},
    "knowledge.delete_payload": lambda g: {**_POINTS, "keys": ["k"]},
    "knowledge.delete_payload, by ids": lambda g: {"collection": "ground", "ids": ["one"], "keys": ["k"]},
    "knowledge.describe_collection": lambda g: {"name": "ground"},
    "knowledge.drop_collection": lambda g: {"name": "ground"},
    "knowledge.export_to": lambda g: {"collection": "ground", "folder": g.folder / "again"},
    "knowledge.facet": lambda g: {**_POINTS, "key": "k"},
    "knowledge.import_from": lambda g: {"folder": g.folder / "export", "collection": "new"},
    "knowledge.import_qdrant": lambda g: {
        "collection": "ground",
        "source": Lines({"id": "new", "vector": {"v": vector(1536)}, "payload": JSON}),
        "vector_name": "v",
    },
    "knowledge.list_aliases": lambda g: {"collection": "ground"},
    "knowledge.list_collections": lambda g: {},
    "knowledge.overwrite_payload": lambda g: {**_POINTS, "payload": {"k": "new"}},
    "knowledge.overwrite_payload, by ids": lambda g: {
        "collection": "ground",
        "ids": ["two"],
        "payload": JSON,
    },
    "knowledge.query": lambda g: {**_POINTS, "embedding": vector(1536)},
    "knowledge.query_groups": lambda g: {**_POINTS, "embedding": vector(1536), "group_by": "k"},
    "knowledge.query_many": lambda g: {**_POINTS, "embeddings": [vector(1536)]},
    "knowledge.recommend": lambda g: {
        **_POINTS,
        "positive": ["one", "one"],
        "negative": ["two"],
        "where": Filter(must_not=[eq("payload.k", "x")]),
    },
    "knowledge.retrieve": lambda g: {"collection": "ground", "ids": ["one"]},
    "knowledge.scroll": lambda g: _POINTS,
    "knowledge.set_aliases": lambda g: {"aliases": {"new": "ground"}},
    "knowledge.set_payload": lambda g: {**_POINTS, "payload": {"k": "new"}},
    "knowledge.set_payload, by ids": lambda g: {"collection": "ground", "ids": ["two"], "payload": JSON},
    "knowledge.upsert": lambda g: {"collection": "ground", "points": [{"id": "new", "payload": JSON}]},
    "working_memory.candidates": lambda g: {
        "space": "builtin",
        "embedding": vector(1536),
        "session_id": "ground",
        "agent": "a",
        "memory_type": "t",
        "where": _METADATA,
    },
    "working_memory.list": lambda g: {"session_id": "ground", "agent": "a", "memory_type": "t"},
    "working_memory.page": lambda g: {"candidates": _found(g.working_memory)},
    "working_memory.search": lambda g: {
        "space": "builtin",
        "embedding": vector(1536),
        "session_id": "ground",
        "agent": "a",
        "memory_type": "t",
        "where": _METADATA,
    },
    "working_memory.set_blob": lambda g: {"memory_id": g.working_memory, "provider": "p", "blob_key": "b"},
    "working_memory.set_status": lambda g: {"memory_id": g.working_memory, "status": "active"},
    "working_memory.store": lambda g: {"space": "builtin", **_WORKING, "metadata": JSON},
    "working_memory.update": lambda g: {
        "space": "builtin",
        "memory_id": g.working_memory,
        "values": {**_WORKING, "metadata": JSON},
    },
}
