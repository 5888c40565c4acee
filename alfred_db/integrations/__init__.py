"""Adapters: interfaces of other libraries over the repositories, one module for each library.

Each module needs the extra of its name, and is imported on its own; importing this package imports none of them.
"""

from __future__ import annotations

__all__: list[str] = []
