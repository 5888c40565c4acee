"""Arguments and results of the repository of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, Protocol, TypedDict, overload

from ..models import MessageRole
from ..search.results import FoundRow, Hit

__all__ = ["ConversationHits", "ConversationRow", "ConversationSummary", "NewMessage"]


class ConversationRow(FoundRow, Protocol):
    """The columns of a `Conversation` in a search's hit."""

    id: int
    """Key of the row, and its position in the session."""
    session_id: str
    """The session, identified by the caller."""
    role: MessageRole
    """Role of the author."""
    content: str
    """Text of the message."""
    metadata_: dict[str, Any] | None
    """Metadata of the caller, such as the name of a tool and the call that it answers."""
    created_at: datetime
    """When the row was created."""


@dataclass(frozen=True, slots=True)
class ConversationHits(Sequence[Hit[ConversationRow]]):
    """The messages that a search found, the best first."""

    hits: Sequence[Hit[ConversationRow]]
    ranked: int
    """Number of messages that were ranked."""
    exact: bool
    """Whether all messages with the words were ranked; False if there may be older ones."""

    @overload
    def __getitem__(self, index: int) -> Hit[ConversationRow]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit[ConversationRow]]: ...
    def __getitem__(self, index: int | slice) -> Hit[ConversationRow] | Sequence[Hit[ConversationRow]]:
        """Return a hit by its place, or several."""
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)


class NewMessage(TypedDict):
    """One message of `append_many`; the keys are the arguments of `append`."""

    role: MessageRole | str
    content: str
    metadata: NotRequired[Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """A session with the number of its messages."""

    id: int
    """Id of its newest message."""
    session_id: str
    messages: int
    last_at: datetime
    """When its newest message was stored."""
    started_at: datetime | None = None
    """When its first message was stored, also if that one has been purged since."""
