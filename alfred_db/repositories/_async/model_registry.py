"""The model registry: the platform's models, their endpoints, and their scores by capability."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy.dialects.postgresql import Insert

from ...checks import aware, check_values, within
from ...errors import InvalidInputError, NotFoundError, shown, translated
from ...execution._async.base import AsyncRepository
from ...execution.missing import not_found
from ...interchange.catalog import endpoints as checked_endpoints
from ...interchange.catalog import entries, exported
from ...models import ModelEndpoint, RegistryModel
from ...queries import model_registry as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.broker_catalog import CatalogDocument
from ...values.model_registry import ModelEndpointSpec, RegistryModelChanges, ScoredModel

MAX_RANKED = 1000


class AsyncModelRegistryRepository(AsyncRepository):
    """The models of the platform, by name, shared by all tenants."""

    async def register(
        self,
        name: str,
        *,
        display_name: str,
        provider: str,
        model_type: str,
        version: str | None = None,
        description: str | None = None,
        endpoints: Sequence[ModelEndpointSpec] | None = None,
        capabilities: Mapping[str, float] | None = None,
    ) -> RegistryModel:
        """Register the model, or update the one with this name; a deprecated one stays deprecated.

        Args:
            name: The unique name.
            display_name: The name for people.
            provider: Who serves it.
            model_type: The kind of model.
            version: Its version.
            description: A text for people.
            endpoints: All endpoints, in the order of preference; None keeps those of a known model.
            capabilities: All scores by capability; None keeps those of a known model.
        """
        values = {
            "name": name,
            "display_name": display_name,
            "provider": provider,
            "model_type": model_type,
            "version": version,
            "description": description,
        }
        return await self._register(values, endpoints, capabilities)

    async def update(self, name: str, values: RegistryModelChanges) -> RegistryModel:
        """Change attributes of a model, by their names; `deprecated_at` None puts it back into use.

        Raises:
            NotFoundError: The model is not in the registry.
        """
        return _known(name, await self._write(queries.change(name, check_values(RegistryModel, values))))

    async def deprecate(self, name: str, *, at: datetime | None = None) -> RegistryModel:
        """Deprecate the model from `at` or now on: it is not chosen for new work, but can be read and used.

        An earlier time that is already stored is kept.

        Raises:
            NotFoundError: The model is not in the registry.
        """
        if at is not None:
            aware("at", at)
        return _known(name, await self._write(queries.deprecate(name, at)))

    async def get(self, name: str) -> RegistryModel | None:
        """Return the model with this name, deprecated or not."""
        return await self._first(queries.get(name))

    async def capabilities(self, name: str) -> Mapping[str, float]:
        """Return the model's scores by capability.

        Raises:
            NotFoundError: The model is not in the registry.
        """
        model = _known(name, await self.get(name))
        found = await self._all(queries.capabilities(model.id))
        return {row.capability: row.capability_score for row in found}

    async def find_best(
        self,
        capability: str,
        *,
        min_score: float | None = None,
        provider: str | None = None,
        model_type: str | None = None,
    ) -> ScoredModel | None:
        """Return the model in use with the highest score; of several with the same score, the first by name."""
        found = await self.rank(
            capability, min_score=min_score, provider=provider, model_type=model_type, limit=1
        )
        return found[0] if found else None

    async def rank(
        self,
        capability: str,
        *,
        min_score: float | None = None,
        provider: str | None = None,
        model_type: str | None = None,
        limit: int = 10,
    ) -> Sequence[ScoredModel]:
        """Return the models in use that have the capability, the highest score first."""
        within("limit", limit, 1, MAX_RANKED)
        rows = await self._rows(
            queries.by_capability(
                capability, min_score=min_score, provider=provider, model_type=model_type, limit=limit
            )
        )
        return [ScoredModel(model, score) for model, score in rows]

    async def endpoints(
        self, name: str, *, endpoint_type: str | None = None, auth_type: str | None = None
    ) -> Sequence[ModelEndpoint]:
        """Return the model's endpoints in the order of preference; empty for an unknown model."""
        return await self._all(queries.endpoints_of(name, endpoint_type=endpoint_type, auth_type=auth_type))

    async def select_endpoint(
        self, name: str, *, endpoint_type: str | None = None, auth_type: str | None = None
    ) -> ModelEndpoint:
        """Return the model's preferred endpoint of this kind.

        Raises:
            NotFoundError: The model is not in the registry, or has no such endpoint.
        """
        found = await self._first(
            queries.endpoints_of(name, endpoint_type=endpoint_type, auth_type=auth_type)
        )
        if found is None:
            _known(name, await self.get(name))
            raise NotFoundError(
                f"model {shown(name)}: no endpoint of type {shown(endpoint_type)} and authentication"
                f" {shown(auth_type)}; register one"
            )
        return found

    async def export_catalog(self) -> CatalogDocument:
        """Return the whole registry, with deprecated models, as a document for `import_catalog`."""
        endpoints: dict[int | None, list[dict[str, Any]]] = defaultdict(list)
        scores: dict[int | None, dict[str, float]] = defaultdict(dict)
        rows = await self._rows(queries.everything())
        for _, endpoint, score in rows:
            if endpoint is not None:
                endpoints[endpoint.model_id].append(_exported(endpoint, _ENDPOINT_FIELDS))
            if score is not None:
                scores[score.model_id][score.capability] = score.capability_score
        models = [
            {
                **_exported(model, _FIELDS),
                "endpoints": endpoints[model.id],
                "capabilities": scores[model.id],
            }
            for model, _, _ in rows
            if model is not None
        ]
        return cast("CatalogDocument", {"registry": models})

    async def import_catalog(self, document: CatalogDocument) -> int:
        """Register the models of a document as `register` does; others are unchanged.

        Returns:
            The number of models.

        Raises:
            InvalidInputError: An entry is invalid; the message names it. Nothing was written.
        """
        found = entries(document, "registry")
        # All imports write in the same order, so that two of them wait for each other instead of deadlocking.
        for entry in sorted(found, key=lambda entry: str(entry["name"])):
            endpoints, capabilities = entry.pop("endpoints", None), entry.pop("capabilities", None)
            await self._register(entry, endpoints, capabilities)
        return len(found)

    async def _register(
        self,
        values: Mapping[str, Any],
        endpoints: Sequence[ModelEndpointSpec] | None,
        capabilities: Mapping[str, float] | None,
    ) -> RegistryModel:
        specs = None if endpoints is None else checked_endpoints(endpoints)
        scores = None if capabilities is None else _checked_scores(capabilities)
        # A concurrent call for the same model waits here for the row lock, and then sees the rows of this one.
        model = await self._write(queries.register(values))
        assert model is not None
        if specs is not None:
            await self._replace_endpoints(model.id, specs)
        if scores is not None:
            await self._write_all(
                queries.set_capability(),
                [
                    {"model_id": model.id, "capability": name, "capability_score": score}
                    for name, score in sorted(scores.items())
                ],
            )
            with translated():
                await self._session.execute(queries.keep_capabilities(model.id, list(scores)))
        return model

    async def _replace_endpoints(self, model_id: int, specs: Sequence[Mapping[str, Any]]) -> None:
        wanted = [{field: spec.get(field) for field in _ENDPOINT_FIELDS} for spec in specs]
        found = await self._all(queries.endpoints(model_id))
        if wanted == [{field: getattr(row, field) for field in _ENDPOINT_FIELDS} for row in found]:
            return
        with translated():
            await self._session.execute(queries.remove_endpoints(model_id))
        await self._write_all(queries.add_endpoint(), [{"model_id": model_id, **spec} for spec in wanted])

    async def _write_all(self, statement: Insert, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            with translated():
                connection = await self._session.connection()
                await connection.execute(statement, rows)

    async def list(
        self,
        *,
        provider: str | None = None,
        model_type: str | None = None,
        deprecated: bool = False,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[RegistryModel]:
        """Return a page of the models in use, by name; `deprecated` includes the others."""
        rows = await self._all(
            queries.list_(
                provider=provider, model_type=model_type, deprecated=deprecated, after=after, limit=limit
            )
        )
        return as_page(rows, queries.LIST_KEY, limit)


_FIELDS = ("name", "display_name", "provider", "model_type", "version", "description", "deprecated_at")
_ENDPOINT_FIELDS = ("endpoint_type", "endpoint_url", "auth_type", "headers")


def _known(name: str, model: RegistryModel | None) -> RegistryModel:
    if model is None:
        raise not_found("model", name)
    return model


def _checked_scores(capabilities: Mapping[str, float]) -> Mapping[str, float]:
    for name, score in capabilities.items():
        if not math.isfinite(score):
            raise InvalidInputError(f"capability {shown(name)}: expected a finite score, got {score}")
    return capabilities


def _exported(row: object, fields: Sequence[str]) -> dict[str, Any]:
    return exported({field: getattr(row, field) for field in fields})
