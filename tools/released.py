"""Record what a release freezes: the hash of each revision, and of the operations that it imports.

    python tools/released.py           append what is new; fail when something that was released has changed
    python tools/released.py --check   fail when something that was released has changed

`tests/unit/released.txt` is in the format of sha256sum: `sha256sum --check tests/unit/released.txt` works as well.
"""

from __future__ import annotations

import re
import sys
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = Path("tests/unit/released.txt")
REVISIONS = "alembic/versions/*.py"
OPERATIONS = re.compile(r"^from (?:alfred_db\.migrate)?\.(operations_v\d+) import", re.MULTILINE)


def recorded(root: Path = ROOT) -> dict[str, str]:
    """The released files, by their paths, with their hashes."""
    lines = (root / TABLE).read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, path in (line.split("  ") for line in lines)}


def digest(file: Path) -> str:
    """The hash of a file as a checkout on any system has it."""
    return sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def changed(root: Path = ROOT) -> list[str]:
    """The released files that are missing, or not what was released."""
    return [
        path
        for path, expected in recorded(root).items()
        if not (root / path).is_file() or digest(root / path) != expected
    ]


def frozen(root: Path = ROOT) -> list[str]:
    """The paths of all revisions, and of the operations that they import, themselves or through others."""
    found = [path.relative_to(root).as_posix() for path in sorted(root.glob(REVISIONS))]
    for path in found:  # grows meanwhile
        for module in OPERATIONS.findall((root / path).read_text(encoding="utf-8")):
            if (name := f"alfred_db/migrate/{module}.py") not in found:
                found.append(name)
    return found


def main(arguments: list[str]) -> int:
    """Check the released revisions, and record new ones unless `--check` is passed; return the exit status."""
    if wrong := changed():
        print(f"{', '.join(wrong)}: released, and changed since; undo the change, and write a new revision")
        return 1
    if "--check" not in arguments:
        known = recorded()
        new = [path for path in frozen() if path not in known]
        with (ROOT / TABLE).open("a", encoding="utf-8", newline="\n") as table:
            table.writelines(f"{digest(ROOT / path)}  {path}\n" for path in new)
        print("\n".join(new) or "nothing new")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
