"""Check, before an upload, that a tag, the version, the changelog, the recorded revisions and what was built agree.

python tools/release.py v1.2.3
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def wrong(tag: str, root: Path = ROOT) -> Iterator[str]:
    """What stands in the way of a release, one sentence each."""
    version: str = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{version}":
        yield f"tag {tag}: pyproject.toml has the version {version}; tag v{version}, or change the version"
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE):
        yield f"CHANGELOG.md: it has no section `## [{version}] - <date>`; name what was unreleased so"
    table = root / "tests/unit/released.txt"
    recorded = table.read_text(encoding="utf-8").split() if table.is_file() else []
    for path in sorted((root / "alembic/versions").glob("*.py")):
        if f"alembic/versions/{path.name}" not in recorded:
            yield f"{path.name}: it is not recorded as released; run `make released` and commit tests/unit/released.txt"
    wanted = {f"alfred_db-{version}-py3-none-any.whl", f"alfred_db-{version}.tar.gz"}
    built = {path.name for path in (root / "dist").glob("*")}
    if built != wanted:
        yield f"dist/: it holds {sorted(built)}, expected {sorted(wanted)}; empty it and run `make build`"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = list(wrong(sys.argv[1]))
    sys.exit("\n".join(found) or 0)
