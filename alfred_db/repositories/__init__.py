"""Who asks: the repositories, written in `_async` and generated in `_sync`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._async import (
        AsyncAgentRepository,
        AsyncBrokerCatalogRepository,
        AsyncBrokerRequestRepository,
        AsyncCacheRepository,
        AsyncConversationRepository,
        AsyncDocumentRepository,
        AsyncEntityRepository,
        AsyncEventRepository,
        AsyncKnowledgeRepository,
        AsyncMemoryBankRepository,
        AsyncMemoryEntryRepository,
        AsyncMemoryRepository,
        AsyncMessageRepository,
        AsyncModelRegistryRepository,
        AsyncQueueRepository,
        AsyncRagRepository,
        AsyncRateLimitRepository,
        AsyncSchedulerRepository,
        AsyncSpaceRepository,
        AsyncStorageRepository,
        AsyncTaskRepository,
        AsyncUnitOfWork,
        AsyncUserRepository,
        AsyncValidationRepository,
        AsyncWebSessionRepository,
        AsyncWorkflowRepository,
        AsyncWorkingMemoryRepository,
    )
    from ._sync import (
        AgentRepository,
        BrokerCatalogRepository,
        BrokerRequestRepository,
        CacheRepository,
        ConversationRepository,
        DocumentRepository,
        EntityRepository,
        EventRepository,
        KnowledgeRepository,
        MemoryBankRepository,
        MemoryEntryRepository,
        MemoryRepository,
        MessageRepository,
        ModelRegistryRepository,
        QueueRepository,
        RagRepository,
        RateLimitRepository,
        SchedulerRepository,
        SpaceRepository,
        StorageRepository,
        TaskRepository,
        UnitOfWork,
        UserRepository,
        ValidationRepository,
        WebSessionRepository,
        WorkflowRepository,
        WorkingMemoryRepository,
    )

__all__ = [
    "AgentRepository",
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
    "BrokerCatalogRepository",
    "BrokerRequestRepository",
    "CacheRepository",
    "ConversationRepository",
    "DocumentRepository",
    "EntityRepository",
    "EventRepository",
    "KnowledgeRepository",
    "MemoryBankRepository",
    "MemoryEntryRepository",
    "MemoryRepository",
    "MessageRepository",
    "ModelRegistryRepository",
    "QueueRepository",
    "RagRepository",
    "RateLimitRepository",
    "SchedulerRepository",
    "SpaceRepository",
    "StorageRepository",
    "TaskRepository",
    "UnitOfWork",
    "UserRepository",
    "ValidationRepository",
    "WebSessionRepository",
    "WorkflowRepository",
    "WorkingMemoryRepository",
]


def __getattr__(name: str) -> object:
    """Import the half that is asked for when it is asked for: a program mostly uses one of them."""
    if name in __all__:
        half = import_module("._async" if name.startswith("Async") else "._sync", __name__)
        value = globals()[name] = getattr(half, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
