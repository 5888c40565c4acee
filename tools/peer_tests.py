"""Run the tests that limits and aiocache have for their own storages against the adapters of this library.

python tools/peer_tests.py            both; needs a network, as the tests are only in the sdists
python tools/peer_tests.py aiocache   one

Each sdist is unpacked into a temporary folder, and its fixtures are replaced by those of a new database of the embedded server.
Expected: limits all; aiocache all but `TestRedisCache::test_raw`, whose commands are those of Redis. Tests of memcached and of the
memory are left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from alfred_db import Database, embedded

ROOT = Path(__file__).parent.parent

LIMITS_CONFTEST = """
import alfred_db.integrations.limits
import pytest
from alfred_db import Database

@pytest.fixture(autouse=True)
def emptied():
    with Database(pool_size=1) as database:
        database.rate_limits.clear("")
"""

AIOCACHE_FIXTURE = """
@pytest.fixture
async def redis_cache():
    from alfred_db import AsyncDatabase
    from alfred_db.integrations.aiocache import AlfredDBCache
    async with AsyncDatabase() as database:
        async with AlfredDBCache(database, namespace="test") as cache:
            yield cache
            await database.cache.clear()


"""


def limits(folder: Path) -> Sequence[str]:
    """Replace the storages that the tests of limits name; return the arguments of pytest."""
    tests = folder / "tests"
    utils = (tests / "utils.py").read_text()
    for name, scheme in (("ALL_STORAGES", "alfred-db://"), ("ALL_STORAGES_ASYNC", "async+alfred-db://")):
        only = f'{name} = {{"alfred-db": pytest.param("{scheme}", {{}}, None, id="alfred-db")}}'
        utils = re.sub(rf"^{name} = \{{.*?^\}}", only, utils, flags=re.S | re.M)
    (tests / "utils.py").write_text(utils)
    for file, kind, scheme in (
        ("test_storage.py", "AlfredDBStorage", "alfred-db://"),
        ("aio/test_storage.py", "AsyncAlfredDBStorage", "async+alfred-db://"),
    ):
        values = f'"uri, args, expected_instance, fixture", [pytest.param("{scheme}", {{}}, {kind}, None)]'
        text = (tests / file).read_text()
        text = re.sub(
            r'"uri, args, expected_instance, fixture",\n    \[.*?\n    \],\n', values, text, flags=re.S
        )
        imported = f"import pytest\nfrom alfred_db.integrations.limits import {kind}\n"
        (tests / file).write_text(text.replace("import pytest\n", imported, 1))
    (tests / "conftest.py").write_text(LIMITS_CONFTEST)
    return [f"tests/{part}test_{what}.py" for part in ("", "aio/") for what in ("storage", "strategy")]


def aiocache(folder: Path) -> Sequence[str]:
    """Replace the caches of the fixtures by the adapter; return the arguments of pytest."""
    conftest = folder / "tests/acceptance/conftest.py"
    text = conftest.read_text()
    start, end = (text.index(f"@pytest.fixture\nasync def {name}_cache") for name in ("redis", "memory"))
    text = text[:start] + AIOCACHE_FIXTURE.lstrip() + text[end:]
    conftest.write_text(re.sub(r"params=\(.*?\n    \)\)", 'params=("redis_cache",))', text, flags=re.S))
    return ["tests/acceptance", "-k", "not Memory and not Memcached"]


PEERS: dict[str, tuple[Callable[[Path], Sequence[str]], Sequence[str]]] = {
    "limits": (limits, ["pytest-lazy-fixtures", "redis"]),
    "aiocache": (aiocache, ["pytest-mock", "marshmallow<4", "redis"]),
}
"""What prepares the tests of each, and what they need besides the test tools of this library."""


def run(name: str, url: str, folder: Path) -> int:
    """Download the tests of a library and run them; return pytest's status."""
    prepare, needed = PEERS[name]
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv/bin/python")
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "alfred.pth").write_text(
        "\n".join([str(ROOT), *(one for one in sys.path if "site-packages" in one)])
    )
    subprocess.run([python, "-m", "pip", "install", "-q", *needed], check=True)
    sdist = ["download", "-q", "--no-deps", "--no-binary", ":all:", f"{name}=={version(name)}"]
    subprocess.run([python, "-m", "pip", *sdist, "-d", str(folder)], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    options = ["-q", "-c", os.devnull, "--rootdir", ".", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider"]
    command = [python, "-m", "pytest", *options, *prepare(source)]
    return subprocess.run(
        command, cwd=source, env=os.environ | {"ALFRED_DB_URL": url}, check=False
    ).returncode


def main(names: Sequence[str]) -> int:
    """Run the tests of these libraries."""
    status = 0
    for name in names or PEERS:
        with tempfile.TemporaryDirectory(prefix="alfred-db-peers-", dir="/tmp") as temporary:
            folder = Path(temporary)
            folder.chmod(0o755)  # the server of root runs as another user
            url = embedded.start(folder / "server").url or ""
            try:
                with Database(url) as database:
                    database.upgrade()
                status |= run(name, url, folder)
            finally:
                embedded.stop(folder / "server")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
