"""How the server would run a statement."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.expression import Executable

from .driver_statement import DriverStatement


class Explain(Executable, ClauseElement):
    r"""EXPLAIN of a statement.

    `"\n".join(session.scalars(Explain(statement), parameters))` is the plan.
    """

    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement.built if isinstance(statement, DriverStatement) else statement


@compiles(Explain)
def _explain(element: Explain, compiler: Any, **options: Any) -> str:
    return "EXPLAIN " + str(compiler.process(element.statement, **options))
