"""The harness that calls every method on large tables has arguments for each, and knows the indexes of the revisions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASK = """
import json
from growth.calls import REFUSED, calls, missing
from growth.exceptions import EVERYTHING, EXCEPTIONS
from growth.writes import CALLS, INDEXES, WRITES

print(json.dumps({
    "missing": missing(),
    "calls": [name for name, _ in calls()],
    "refused": list(REFUSED),
    "exceptions": [*EVERYTHING, *EXCEPTIONS],
    "indexes": [(index.name, index.table, index.call) for index in INDEXES],
    "writes": list(WRITES),
}))
"""


def test_every_method_is_called_and_every_index_is_measured() -> None:
    paths = {"PYTHONPATH": f"{ROOT / 'benchmarks'}:{ROOT / 'tests'}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", ASK], env=paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missing"] == [], "add their arguments to benchmarks/growth/calls.py"
    methods = {call.partition(",")[0] for call in found["calls"]}
    assert not methods & set(found["refused"])
    assert {name.partition(",")[0] for name in found["exceptions"]} <= methods
    assert {table for _, table, _ in found["indexes"]} <= set(found["writes"])
    assert {call for _, _, call in found["indexes"]} <= set(found["calls"])
