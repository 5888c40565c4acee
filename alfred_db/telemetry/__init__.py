"""What an operator sees: figures of one database, as text for Prometheus, and traces of the calls.

Importing this package imports none of the libraries that the extras `prometheus` and `otel` install.
"""

from __future__ import annotations

from .figures import Figure, figures
from .overview import Overview, overview

__all__ = ["Figure", "Overview", "figures", "overview"]
