"""Search results page by page: the nearest are found once, and their rows are read page by page."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from sqlalchemy import Double

from ...checks import check_limit, cursor_values
from ...models import Base
from ...queries.shapes import vector_search as queries
from ...queries.shapes.paging import as_page
from ...search.results import Hit, SearchCandidates
from ...values import Page
from .base import AsyncRepository

RowT = TypeVar("RowT")
KeyT = TypeVar("KeyT")

_DISTANCE: Double[float] = Double()


class _Place(NamedTuple):
    distance: float
    id: Any


class AsyncPagedRepository(AsyncRepository, Generic[RowT, KeyT]):
    """A repository whose searches can be read page by page."""

    _model: ClassVar[type[Base]]

    async def page(
        self, candidates: SearchCandidates[RowT, KeyT], *, after: str | None = None, limit: int = 10
    ) -> Page[Hit[RowT]]:
        """Return the rows of the next candidates, the nearest first.

        Rows that were deleted or no longer match are left out, so a page can be shorter than `limit` although
        others follow.

        Args:
            candidates: The candidates of one search. `after` also fits those of a repeated search.
            after: `next` of the previous page; None starts at the nearest.
            limit: The maximum number of hits, 1 to 1000.
        """
        check_limit(limit)
        places = list(map(_Place, candidates.distances, candidates.ids))
        start = 0 if after is None else bisect_right(places, self._place(after))
        page = as_page(places[start : start + limit + 1], _Place._fields, limit)
        ids = [place.id for place in page]
        found = await self._rows(queries.rows_of(self._model, ids, candidates.where)) if ids else ()
        key = queries.key_of(self._model).name
        rows = {getattr(row, key): row for row in found}
        hits: list[Hit[Any]] = [
            Hit(rows[place.id], place.distance, 1.0 - place.distance) for place in page if place.id in rows
        ]
        return Page(hits, page.next)

    def _place(self, after: str) -> _Place:
        return _Place(*cursor_values(after, [_DISTANCE, queries.key_of(self._model).type]))
