"""`alfred-db spaces`: the embedding spaces, filling them while everything runs, and switching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from .choices import SPACE_INDEXES, SPACE_KINDS
from .databases import opened
from .groups import Group
from .objects import named_object
from .options import confirm, json_option, migration_url_option, schema_option, url_option, yes_option
from .output import note, print_result
from .progress import progress

if TYPE_CHECKING:
    from ..indexes.reembedding import Embedder

__all__ = ["spaces"]

_kind_option = click.option("--kind", type=click.Choice(SPACE_KINDS), help="The kind of the space.")
_embedder_help = "A function from a list of texts to a matrix, with one vector for each."


@click.group(cls=Group)
def spaces() -> None:
    """Embedding spaces: show and fill them, switch to one, and drop them."""


@spaces.command("status")
@url_option
@schema_option
@json_option
def show(url: str | None, schema: str | None, as_json: bool) -> None:
    """List the spaces with the rows that have a vector in them; all rows are read."""
    found: list[dict[str, Any]] = []
    with opened(url, schema) as database, database.begin() as uow:
        for space in uow.spaces.list():
            covered = uow.spaces.coverage(space.name, kind=space.kind)
            found.append(
                {
                    "name": space.name,
                    "kind": space.kind.value,
                    "model": space.model,
                    "dimensions": space.dimensions,
                    "storage": space.storage.value,
                    "index": space.index.value,
                    "state": space.state.value,
                    "default": uow.spaces.default(space.kind).id == space.id,
                    "rows": covered.rows,
                    "missing": covered.missing,
                    "stale": covered.stale,
                }
            )
    wide = max(len(one["name"]) for one in found)
    lines = [
        f"{'name':<{wide}}  {'kind':<14}  dimensions  index         state     {'rows':>9}  {'pending':>9}"
    ]
    for one in found:
        pending = one["missing"] + one["stale"]
        lines.append(
            f"{one['name']:<{wide}}  {one['kind']:<14}  {one['dimensions']:>10}  {one['index']:<12}  {one['state']:<8}"
            f"  {one['rows']:>9,}  {pending:>9,}{'  default' if one['default'] else ''}"
        )
    print_result(found, *lines, as_json=as_json)


@spaces.command("reembed")
@click.argument("name")
@click.option("--embedder", required=True, metavar="MODULE:FUNCTION", help=_embedder_help)
@_kind_option
@click.option("--model", help="Create the space, if it does not exist, with this embedding model.")
@click.option("--dimensions", type=int, help="The length of its vectors.")
@click.option("--storage", type=click.Choice(["vector", "halfvec"]), default="vector", show_default=True)
@click.option(
    "--index",
    type=click.Choice(SPACE_INDEXES),
    help="Its index; default: the first that fits.",
)
@click.option("--batch", type=click.IntRange(1, 1000), default=100, show_default=True, help="Texts at once.")
@click.option("--rate", type=float, help="The greatest number of texts in a second.")
@migration_url_option
@schema_option
@json_option
def fill(
    name: str,
    embedder: str,
    kind: str | None,
    model: str | None,
    dimensions: int | None,
    storage: str,
    index: str | None,
    batch: int,
    rate: float | None,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Embed the rows that have no vector of their content in the space NAME, and build its index.

    Others read and write meanwhile. A command that was killed goes on where it was when it is called again.
    """
    from ..errors import InvalidInputError
    from ..indexes.reembedding import reembed
    from ..models.spaces import BUILTIN

    embed = _embedder(embedder)
    with opened(url, schema, owner=True) as database:
        if model is not None and name != BUILTIN:
            if kind is None or dimensions is None:
                raise InvalidInputError("model: to create a space, pass --kind and --dimensions too")
            with database.begin() as uow:
                uow.spaces.create(
                    name,
                    kind=kind,
                    model=model,
                    dimensions=dimensions,
                    storage=storage,
                    index=index,
                    building=True,
                )
        with progress(steps=True) as report:
            done = reembed(
                database,
                name,
                embed,
                kind=kind,
                batch=batch,
                rate=rate,
                progress=lambda so_far, total: report(name, so_far, total),
            )
    print_result({"embedded": done}, f"embedded {done:,} rows", as_json=as_json)


@spaces.command("switch")
@click.argument("kind", type=click.Choice(SPACE_KINDS))
@click.argument("name")
@click.option(
    "--embedder", metavar="MODULE:FUNCTION", help=f"{_embedder_help} Embeds what is written meanwhile."
)
@click.option("--target", default=0.95, show_default=True, help="The recall that a search must reach.")
@migration_url_option
@schema_option
@json_option
def switch(
    kind: str,
    name: str,
    embedder: str | None,
    target: float,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Make the space NAME the default of KIND, if its searches find enough and no row lacks a vector."""
    from ..indexes.reembedding import build_space, space_recall, switch_space
    from ..models.spaces import BUILTIN

    embed = None if embedder is None else _embedder(embedder)
    measured = None
    with opened(url, schema, owner=True) as database:
        if name != BUILTIN:
            build_space(database, name)
            measured = space_recall(database, name)
            note(f"recall {'unknown' if measured is None else format(measured, '.3f')}")
        with progress(steps=True) as report:
            switch_space(
                database,
                kind,
                name,
                embedder=embed,
                target=target,
                progress=lambda so_far, total: report(name, so_far, total),
            )
    values = {"kind": kind, "default": name, "recall": measured}
    print_result(values, f"{name} is the default of {kind}", as_json=as_json)


@spaces.command("drop")
@click.argument("name")
@yes_option
@migration_url_option
@schema_option
@json_option
def remove(name: str, yes: bool, url: str | None, schema: str | None, as_json: bool) -> None:
    """Drop the space NAME with its vectors; a default space is refused."""
    confirm(f"Drop the space {name!r} with its vectors?", yes)
    with opened(url, schema, owner=True) as database, database.begin() as uow:
        uow.spaces.drop(name)
    print_result({"dropped": name}, f"dropped {name}", as_json=as_json)


def _embedder(named: str) -> Embedder:
    from ..errors import ConfigurationError

    found = named_object("--embedder", named, "myapp.search:embed", "define it as a function")
    if not callable(found):
        raise ConfigurationError(
            f"--embedder {named!r}: is {type(found).__name__}; expected a function from a list of texts to vectors"
        )
    return cast("Embedder", found)
