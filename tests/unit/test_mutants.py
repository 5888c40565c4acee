"""What `make mutants` changes and runs: each module has tests, and nothing that it names is gone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent


def load() -> ModuleType:
    found = importlib.util.spec_from_file_location("mutants", ROOT / "tools" / "mutants.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["mutants"] = module  # a dataclass looks its module up
    found.loader.exec_module(module)
    return module


mutants = load()


@pytest.mark.parametrize("path", mutants.modules())
def test_every_module_has_tests(path: str) -> None:
    assert set(mutants.tests_of(path, ROOT)) - set(mutants.CONFIG["always"])


@pytest.mark.parametrize("key", mutants.CONFIG["tests"])
def test_every_line_of_the_table_has_modules_and_files(key: str) -> None:
    assert [path for path in mutants.modules() if mutants.re.search(key, path)]
    for pattern in [*mutants.CONFIG["tests"][key], *mutants.CONFIG["always"]]:
        assert list(ROOT.glob(pattern)), pattern


def test_a_module_has_the_tests_of_its_noun() -> None:
    found = mutants.tests_of("alfred_db/queries/task_claims.py", ROOT)
    assert {"tests/_async/test_tasks.py", "tests/_async/test_task_leases.py"} <= set(found)
    assert not [path for path in found if "/_sync/" in path]


def test_what_is_explained_is_still_in_the_code_and_has_a_reason() -> None:
    for entry in mutants.CONFIG.get("equivalent", []):
        lines = [line.strip() for line in (ROOT / entry["path"]).read_text(encoding="utf-8").splitlines()]
        assert entry["before"] in " ".join(lines), entry
        assert entry["before"] != entry["after"]
        assert len(entry["why"].split()) > 3


def test_a_failed_test_is_found_whatever_its_parameters_hold() -> None:
    printed = (
        "FAILED tests/a/test_b.py::test_c[x y-1] - AssertionError\nERROR tests/test_d.py - ImportError\n"
    )
    assert mutants.FAILED.findall(printed) == ["tests/a/test_b.py::test_c", "tests/test_d.py"]
