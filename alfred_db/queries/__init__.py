"""Pure functions that return SQLAlchemy statements.

They hold no session and await nothing, so they can be read, tested and used on their own. UPDATE, DELETE and
ON CONFLICT clauses use no volatile function, and no stable function of a column: the statements run unchanged
on Citus.
"""

from __future__ import annotations
