"""A release is refused unless the tag, the version, the changelog, the recorded revisions and what was built agree."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wrong() -> Callable[[str, Path], Iterator[str]]:
    found = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    checked: Callable[[str, Path], Iterator[str]] = module.wrong
    return checked


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [1.2.3] - 2026-12-01\n\n## [1.2.2] - 2026-11-01\n"
    )
    (tmp_path / "dist").mkdir()
    for name in ("alfred_db-1.2.3-py3-none-any.whl", "alfred_db-1.2.3.tar.gz"):
        (tmp_path / "dist" / name).touch()
    return tmp_path


def test_what_agrees_is_released(wrong: Callable[[str, Path], Iterator[str]], project: Path) -> None:
    assert list(wrong("v1.2.3", project)) == []


@pytest.mark.parametrize("tag", ["v1.2.4", "1.2.3", "v1.2", "v1.2.3-rc1"])
def test_another_tag_is_refused(wrong: Callable[[str, Path], Iterator[str]], project: Path, tag: str) -> None:
    (message,) = wrong(tag, project)
    assert message == f"tag {tag}: pyproject.toml has the version 1.2.3; tag v1.2.3, or change the version"


@pytest.mark.parametrize(
    "heading", ["## [Unreleased]: 1.2.3", "## [1.2.3]", "## [1.2.2] - 2026-11-01", "## [1x2.3] - 2026-11-01"]
)
def test_a_version_without_its_section_is_refused(
    wrong: Callable[[str, Path], Iterator[str]], project: Path, heading: str
) -> None:
    (project / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    (message,) = wrong("v1.2.3", project)
    assert message.startswith("CHANGELOG.md: it has no section `## [1.2.3] - <date>`")


def test_what_was_built_earlier_is_refused(
    wrong: Callable[[str, Path], Iterator[str]], project: Path
) -> None:
    (project / "dist" / "alfred_db-1.2.2.tar.gz").touch()
    (message,) = wrong("v1.2.3", project)
    assert "alfred_db-1.2.2.tar.gz" in message


def test_a_revision_that_is_not_recorded_is_refused(
    wrong: Callable[[str, Path], Iterator[str]], project: Path
) -> None:
    for folder in ("alembic/versions", "tests/unit"):
        (project / folder).mkdir(parents=True)
    for name in ("0001_first", "0002_second"):
        (project / "alembic" / "versions" / f"{name}.py").touch()
    (project / "tests" / "unit" / "released.txt").write_text("12ab  alembic/versions/0001_first.py\n")
    (message,) = wrong("v1.2.3", project)
    assert message.startswith("0002_second.py: it is not recorded as released; run `make released`")


def test_nothing_built_is_refused(wrong: Callable[[str, Path], Iterator[str]], tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.9.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("")
    assert len(list(wrong("v0.8.0", tmp_path))) == 3
