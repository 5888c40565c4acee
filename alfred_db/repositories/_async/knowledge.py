"""Knowledge, which replaces Qdrant: collections of points that are found by meaning."""

from __future__ import annotations

from .knowledge_collections import AsyncKnowledgeCollections
from .knowledge_points import AsyncKnowledgePoints
from .knowledge_search import AsyncKnowledgeSearch


class AsyncKnowledgeRepository(AsyncKnowledgeSearch, AsyncKnowledgePoints, AsyncKnowledgeCollections):
    """The collections of the platform's knowledge, and their points.

    A collection is named by its name or by an alias.
    """
