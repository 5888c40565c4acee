"""What is asked: pure functions from arguments to a SQLAlchemy statement.

They neither hold a session nor await, so they can be read, tested and used on their own. In UPDATE, DELETE and
ON CONFLICT they use no volatile function and no time over a column: the statements run unchanged on Citus.
"""

from __future__ import annotations
