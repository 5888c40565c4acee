"""What runs without anyone looking, the workflows and hooks, names commands, files and versions that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
OTHERS = [
    *sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")),
    ROOT / ".github" / "dependabot.yml",
    ROOT / ".pre-commit-config.yaml",
]
TARGETS = set(re.findall(r"^([\w./%-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# What commands make before other commands read it.
MADE = ("dist", "htmlcov", "venv", ".venv", "$")


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in loaded(path)["jobs"].items():
            yield f"{path.name}: {name}", job


def commands() -> Iterator[list[str]]:
    """The words of each command of each step."""
    for _, job in jobs():
        for step in job.get("steps", ()):
            for line in step.get("run", "").splitlines():
                for command in re.split(r"\s(?:&&|\|\||;)\s", line):
                    yield shlex.split(command)


def test_there_are_workflows_and_all_files_are_yaml() -> None:
    assert {path.name for path in WORKFLOWS} == {"ci.yml", "release.yml"}
    for path in (*WORKFLOWS, *OTHERS):
        assert isinstance(loaded(path), dict), path


def test_make_has_the_targets_that_workflows_name() -> None:
    named = {
        word
        for command in commands()
        if command[0] == "make"
        for word in command[1:]
        if "=" not in word and not word.startswith("-")
    }
    assert {"check", "build", "coverage", "quickstart"} <= named
    # `.venv/test.stamp` is made by the rule for `.venv/%.stamp`.
    assert {
        name for name in named if re.sub(r"/\w+\.", "/%.", name) not in TARGETS and name not in TARGETS
    } == set()


def test_workflows_install_extras_that_exist() -> None:
    stamps = {
        found
        for command in commands()
        for word in command
        for found in re.findall(r"^\.venv/(\w+)\.stamp$", word)
    }
    stamps |= set(re.findall(r"\.venv/(\w+)\.stamp\b", (ROOT / "Makefile").read_text("utf-8")))
    assert stamps
    assert stamps <= set(PROJECT["optional-dependencies"])


def test_files_that_workflows_name_exist() -> None:
    paths = {word.rstrip("/") for command in commands() for word in command if "/" in word or word == "tests"}
    ours = {path for path in paths if not path.startswith(MADE) and ":" not in path}
    assert {"tests", "tests/packaging", "tools/release.py"} <= ours
    assert [path for path in sorted(ours) if not (ROOT / path).exists()] == []
    called = [job["uses"] for _, job in jobs() if "uses" in job]
    assert called
    assert [path for path in called if not (ROOT / path).is_file()] == []


def test_plugins_of_pytest_that_workflows_name_exist() -> None:
    plugins = {
        command[place + 1]
        for command in commands()
        if "pytest" in command
        for place, word in enumerate(command)
        if word == "-p"
    }
    assert plugins == {"workers"}
    assert all((ROOT / "tests" / f"{plugin}.py").is_file() for plugin in plugins)


@pytest.mark.parametrize(("name", "job"), list(jobs()), ids=[name for name, _ in jobs()])
def test_jobs_are_bounded_and_may_do_little(name: str, job: dict[str, Any]) -> None:
    assert "uses" in job or 0 < job["timeout-minutes"] <= 60
    wanted = {"id-token": "write"} if name == "release.yml: publish" else None
    assert job.get("permissions") == wanted
    file = next(path for path in WORKFLOWS if name.startswith(path.name))
    assert loaded(file)["permissions"] == {"contents": "read"}
    needed = job.get("needs", [])
    assert {needed} if isinstance(needed, str) else set(needed) <= set(loaded(file)["jobs"])
    for step in job.get("steps", ()):
        assert "uses" not in step or re.fullmatch(r"[\w./-]+@[\w./]+", step["uses"]), step
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_a_release_has_no_secret_and_comes_after_all_tests() -> None:
    for path in WORKFLOWS:
        assert "secrets" not in path.read_text("utf-8")
    release = loaded(ROOT / ".github" / "workflows" / "release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true
    assert release["jobs"]["publish"]["needs"] == "build"
    assert release["jobs"]["build"]["needs"] == "ci"
    assert release["jobs"]["publish"]["environment"] == "release"


def test_the_matrix_has_the_versions_that_the_project_supports() -> None:
    test = loaded(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]
    matrix = test["strategy"]["matrix"]
    classifiers = [
        found for one in PROJECT["classifiers"] for found in re.findall(r"Python :: (3\.\d+)$", one)
    ]
    assert matrix["python"] == classifiers
    assert PROJECT["requires-python"] == f">={classifiers[0]}"
    page = (ROOT / "docs" / "concepts" / "stability.md").read_text("utf-8")
    supported = dict(re.findall(r"^\| (\w+) \| ([^|]+?) \|", page, re.MULTILINE))
    assert supported["Python"].split(", ") == matrix["python"]
    assert supported["PostgreSQL"].split(", ") == matrix["postgresql"]
    for name in ("SQLAlchemy", "psycopg", "Alembic"):
        (bound,) = [
            found
            for one in PROJECT["dependencies"]
            for found in re.findall(rf"^{name.lower()}(?:\[\w+\])?>=([\d.]+)$", one)
        ]
        assert supported[name] == f"{bound} or newer"
    (service,) = test["services"].values()
    assert service["image"] == "pgvector/pgvector:pg${{ matrix.postgresql }}"


def test_hooks_run_the_tools_of_the_checks() -> None:
    checks = (ROOT / "Makefile").read_text("utf-8").replace("$(BIN)", ".venv/bin")
    (repository,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        command = hook["entry"].replace(" --force-exclude", "").replace(" --fix", "")
        assert command in checks, command
        assert hook["language"] == "system"
        if "files" in hook:
            tracked = [path.relative_to(ROOT).as_posix() for path in (ROOT / "alfred_db").rglob("*.py")]
            assert any(re.search(hook["files"], path) for path in tracked), hook["id"]


def test_issue_templates_ask_for_what_exists() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = loaded(path)
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids))


def test_the_shell_of_workflows_is_bash() -> None:
    for path in WORKFLOWS:
        assert loaded(path)["defaults"]["run"]["shell"] == "bash"
    assert shutil.which("bash")
