"""The figures in the text format of Prometheus. Needs the extra `prometheus`.

REGISTRY.register(DatabaseCollector(db))    # beside the figures of an application
render(db)                                  # the text
serve(db, "127.0.0.1", 9187)                # an HTTP server that answers each scrape anew
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..database import AsyncDatabase, Database
from .figures import figures

__all__ = ["DatabaseCollector", "render", "serve"]


class DatabaseCollector(Collector):
    """Reads the figures of a database for each scrape, one scrape at a time.

    Args:
        db: The database, or one tenant of it. That of an AsyncDatabase is read through one more connection; the
            pool that is counted is its own.
    """

    def __init__(self, db: Database | AsyncDatabase) -> None:
        self._lock = threading.Lock()
        if isinstance(db, Database):
            self._db, self._pool = db, db.engine.pool
        else:
            self._pool = db.engine.sync_engine.pool
            self._db = Database(
                db.url, schema=db.schema, pooler=db.pooler, pool_size=1, application_name="alfred-db metrics"
            )

        self._own = self._db if self._db is not db else None

    def close(self) -> None:
        """Close the connection of an AsyncDatabase's figures."""
        if self._own is not None:
            self._own.close()

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Return the figures as families of metrics.

        Raises:
            ConfigurationError: The connection cannot be used, such as because of its encoding.
        """
        with self._lock:
            found = figures(self._db, pool=self._pool)
        for figure in found:
            family: CounterMetricFamily | GaugeMetricFamily
            if figure.kind == "counter":
                family = CounterMetricFamily(figure.name, figure.help, labels=figure.labels)
            else:
                family = GaugeMetricFamily(figure.name, figure.help, labels=figure.labels)
            for labels, value in figure.samples:
                family.add_metric(labels, value)
            yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Return nothing: to be registered, a collector need not read the database."""
        yield from ()


def render(db: Database | AsyncDatabase) -> str:
    """Return the figures in the text format."""
    with closing(DatabaseCollector(db)) as collector:
        return generate_latest(_registry(collector)).decode()


def serve(db: Database | AsyncDatabase, host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Serve the figures over HTTP in a thread until `shutdown` of the server is called.

    Args:
        db: The database.
        host: The address to listen at. Anybody who can reach it can read the figures: names of queues and tables, and numbers.
        port: The port; 0 takes a free one.

    Returns:
        The server, whose `server_port` is the port, and its thread.
    """
    return start_http_server(port, host, _registry(DatabaseCollector(db)))


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
