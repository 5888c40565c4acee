"""The unit of work: one transaction, with every repository."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from ...execution._async.matrix import fetch_matrix
from ...vectors.formats import Matrix
from .agents import AsyncAgentRepository
from .auth import AsyncUserRepository
from .broker import AsyncBrokerCatalogRepository
from .broker_requests import AsyncBrokerRequestRepository
from .cache import AsyncCacheRepository
from .conversations import AsyncConversationRepository
from .documents import AsyncDocumentRepository
from .entities import AsyncEntityRepository
from .events import AsyncEventRepository
from .knowledge import AsyncKnowledgeRepository
from .memories import AsyncMemoryRepository
from .memory_banks import AsyncMemoryBankRepository
from .memory_entries import AsyncMemoryEntryRepository
from .messages import AsyncMessageRepository
from .model_registry import AsyncModelRegistryRepository
from .queues import AsyncQueueRepository
from .rag import AsyncRagRepository
from .rate_limits import AsyncRateLimitRepository
from .scheduler import AsyncSchedulerRepository
from .spaces import AsyncSpaceRepository
from .storage import AsyncStorageRepository
from .tasks import AsyncTaskRepository
from .validation import AsyncValidationRepository
from .web_sessions import AsyncWebSessionRepository
from .workflows import AsyncWorkflowRepository
from .working_memory import AsyncWorkingMemoryRepository

T = TypeVar("T")


class AsyncUnitOfWork:
    """The repositories of one session; each is created when it is first used.

    A repository runs its statements in the session's transaction. It refuses an invalid argument with
    InvalidInputError before it sends anything.

    Args:
        session: The SQLAlchemy session whose transaction all repositories use.
    """

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        """The SQLAlchemy session, for anything that the repositories do not offer."""

    async def fetch_matrix(self, statement: Select[T, Any]) -> tuple[list[T], Matrix]:
        """Return keys and vectors, such as those of `select(Document.id, Document.embedding)`.

        All rows are in memory at once, for a moment twice.

        Args:
            statement: A SELECT of a key and a vector, with any `where`, `order_by` and `limit`. Rows without
                a vector are omitted.

        Returns:
            The keys, and a float32 array with one row for each; also for half-precision vectors.

        Raises:
            InvalidInputError: The statement does not select a key and a vector.
        """
        return await fetch_matrix(self.session, statement)

    @cached_property
    def tasks(self) -> AsyncTaskRepository:
        """Tasks, claimed under leases."""
        return AsyncTaskRepository(self.session)

    @cached_property
    def queues(self) -> AsyncQueueRepository:
        """Pauses and limits of the queues of tasks."""
        return AsyncQueueRepository(self.session)

    @cached_property
    def messages(self) -> AsyncMessageRepository:
        """The record of handled messages."""
        return AsyncMessageRepository(self.session)

    @cached_property
    def events(self) -> AsyncEventRepository:
        """Events and their consumers."""
        return AsyncEventRepository(self.session)

    @cached_property
    def agents(self) -> AsyncAgentRepository:
        """Agents and their heartbeats."""
        return AsyncAgentRepository(self.session)

    @cached_property
    def documents(self) -> AsyncDocumentRepository:
        """Documents, found by meaning and by word."""
        return AsyncDocumentRepository(self.session)

    @cached_property
    def memory_banks(self) -> AsyncMemoryBankRepository:
        """The banks in which memories are stored."""
        return AsyncMemoryBankRepository(self.session)

    @cached_property
    def memories(self) -> AsyncMemoryRepository:
        """Memories, recalled by meaning, importance and age."""
        return AsyncMemoryRepository(self.session)

    @cached_property
    def memory_entries(self) -> AsyncMemoryEntryRepository:
        """The knowledge agent's memory."""
        return AsyncMemoryEntryRepository(self.session)

    @cached_property
    def spaces(self) -> AsyncSpaceRepository:
        """Embedding spaces: vectors of other models than those in the rows."""
        return AsyncSpaceRepository(self.session)

    @cached_property
    def conversations(self) -> AsyncConversationRepository:
        """Conversations, message by message."""
        return AsyncConversationRepository(self.session)

    @cached_property
    def rag(self) -> AsyncRagRepository:
        """Sessions and queries of retrieval-augmented generation."""
        return AsyncRagRepository(self.session)

    @cached_property
    def knowledge(self) -> AsyncKnowledgeRepository:
        """Collections of knowledge and their points."""
        return AsyncKnowledgeRepository(self.session)

    @cached_property
    def working_memory(self) -> AsyncWorkingMemoryRepository:
        """Working memory."""
        return AsyncWorkingMemoryRepository(self.session)

    @cached_property
    def entities(self) -> AsyncEntityRepository:
        """The graph of entities and facts."""
        return AsyncEntityRepository(self.session)

    @cached_property
    def model_registry(self) -> AsyncModelRegistryRepository:
        """The model registry."""
        return AsyncModelRegistryRepository(self.session)

    @cached_property
    def broker_catalog(self) -> AsyncBrokerCatalogRepository:
        """The broker's catalog, shared by all tenants."""
        return AsyncBrokerCatalogRepository(self.session)

    @cached_property
    def broker_requests(self) -> AsyncBrokerRequestRepository:
        """The broker's request log."""
        return AsyncBrokerRequestRepository(self.session)

    @cached_property
    def scheduler(self) -> AsyncSchedulerRepository:
        """Scheduled tasks and their executions."""
        return AsyncSchedulerRepository(self.session)

    @cached_property
    def workflows(self) -> AsyncWorkflowRepository:
        """Durable workflows."""
        return AsyncWorkflowRepository(self.session)

    @cached_property
    def validation(self) -> AsyncValidationRepository:
        """Test suites, runs and results."""
        return AsyncValidationRepository(self.session)

    @cached_property
    def users(self) -> AsyncUserRepository:
        """Users, read only."""
        return AsyncUserRepository(self.session)

    @cached_property
    def storage(self) -> AsyncStorageRepository:
        """Buckets and objects."""
        return AsyncStorageRepository(self.session)

    @cached_property
    def cache(self) -> AsyncCacheRepository:
        """Values with a time to live."""
        return AsyncCacheRepository(self.session)

    @cached_property
    def web_sessions(self) -> AsyncWebSessionRepository:
        """Sessions of a web application."""
        return AsyncWebSessionRepository(self.session)

    @cached_property
    def rate_limits(self) -> AsyncRateLimitRepository:
        """How often something is allowed."""
        return AsyncRateLimitRepository(self.session)
