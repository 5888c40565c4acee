"""The repositories; the sync half is generated from here."""

from __future__ import annotations

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
from .unit_of_work import AsyncUnitOfWork
from .validation import AsyncValidationRepository
from .web_sessions import AsyncWebSessionRepository
from .workflows import AsyncWorkflowRepository
from .working_memory import AsyncWorkingMemoryRepository

__all__ = [
    "AsyncAgentRepository",
    "AsyncBrokerCatalogRepository",
    "AsyncBrokerRequestRepository",
    "AsyncCacheRepository",
    "AsyncConversationRepository",
    "AsyncDocumentRepository",
    "AsyncEntityRepository",
    "AsyncEventRepository",
    "AsyncKnowledgeRepository",
    "AsyncMemoryBankRepository",
    "AsyncMemoryEntryRepository",
    "AsyncMemoryRepository",
    "AsyncMessageRepository",
    "AsyncModelRegistryRepository",
    "AsyncQueueRepository",
    "AsyncRagRepository",
    "AsyncRateLimitRepository",
    "AsyncSchedulerRepository",
    "AsyncSpaceRepository",
    "AsyncStorageRepository",
    "AsyncTaskRepository",
    "AsyncUnitOfWork",
    "AsyncUserRepository",
    "AsyncValidationRepository",
    "AsyncWebSessionRepository",
    "AsyncWorkflowRepository",
    "AsyncWorkingMemoryRepository",
]
