"""Example calls of the statements about RAG."""

from __future__ import annotations

from unit.examples import Call, call

from alfred_db.values.rag import RagSource

SOURCES = (RagSource(4711, "title-4711", 0.4711, 1, 4711), RagSource(4712, None, None, 2, 4712))

EXAMPLES: dict[str, list[Call]] = {
    "get_session": [call("session-4711")],
    "open_session": [call("session-4711", None), call("session-4711", "context-4711")],
    "record": [
        call(
            4711,
            "question-4711",
            context_used="context-4711",
            response="response-4711",
            metadata={"key-4711": "value-4711"},
            sources=SOURCES,
        ),
        call(4711, "question-4711", context_used=None, response=None, metadata=None, sources=()),
    ],
    "answer": [
        call(4711, "response-4711", None),
        call(4711, "response-4711", {"key-4711": "value-4711"}),
    ],
    "history": [call(4711, after=None, limit=471), call(4711, after="WzQ3MTFd", limit=471)],
    "queries_using": [call(4711, after=None, limit=471), call(4711, after="WzQ3MTFd", limit=471)],
}
