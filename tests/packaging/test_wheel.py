"""The artefacts, not the checkout: what the wheel holds, and that every way to run its revisions works.

Each environment is a real one, made with `python -m venv`, but borrows the libraries of the one that runs the
tests through a `.pth` file: quick, and no index is asked. The checkout stays out of it, since the `.pth`
files in a borrowed folder are not followed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Servers, place
from sqlalchemy import URL

from alfred_db import migrate
from alfred_db.mcp import GROUPS

ROOT = Path(__file__).parents[2]
LIBRARIES = Path(sysconfig.get_path("purelib"))
REVISIONS = sorted(path.name for path in (ROOT / "alembic" / "versions").glob("*.py"))
INI = "[alembic]\nscript_location = alfred_db:migrations\n"
OWN_INI = "[alembic]\nscript_location = own\n\n" + INI.replace("[alembic]", "[alfred]")
PYPROJECT = '[project]\nname = "app"\n\n[tool.alembic]\nscript_location = "alfred_db:migrations"\n'


class Environment:
    """A virtual environment with alfred-db in it."""

    def __init__(self, folder: Path, *install: str) -> None:
        self.bin = folder / "bin"
        self.packages = folder / LIBRARIES.relative_to(sys.prefix)
        _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
        (self.packages / "borrowed.pth").write_text(f"{LIBRARIES}\n")
        pip = (
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.bin / "python"),
            "--disable-pip-version-check",
        )
        _run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", *install)
        ours, borrowed = self.bin / "alembic", Path(sys.executable).parent / "alembic"
        ours.write_text(f"#!{self.bin / 'python'}\n" + borrowed.read_text().split("\n", 1)[1])
        ours.chmod(0o755)

    def run(
        self,
        command: str,
        *arguments: str,
        at: Path,
        url: URL | None = None,
        errors: bool = False,
        **environment: str,
    ) -> str:
        """The output of a command of this environment, run in the folder `at`; with `errors`, also its errors."""
        if url is not None:
            environment["ALFRED_DB_URL"] = url.render_as_string(hide_password=False)
        return _run(str(self.bin / command), *arguments, at=at, errors=errors, **environment)


def _run(*command: str, at: Path | None = None, errors: bool = False, **environment: str) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(command, cwd=at, env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if errors else "")


def _build(target: str, source: Path, folder: Path) -> Path:
    _run(
        sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder), at=source
    )
    (built,) = folder.iterdir()
    return built


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("installed"), str(wheel))


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("editable"), "--editable", str(ROOT))


def test_the_wheel_holds_the_revisions_inside_the_package(wheel: Path) -> None:
    names = set(_contents(wheel))
    assert {name.split("/")[0] for name in names} == {"alfred_db", "alfred_db-0.1.0.dist-info"}
    inside = {"alembic.ini", "py.typed", "migrations/env.py", "migrations/script.py.mako"}
    assert {f"alfred_db/{name}" for name in inside} <= names
    assert sorted(Path(name).name for name in names if "/versions/" in name) == REVISIONS


def test_the_wheel_holds_the_whole_package(wheel: Path) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "alfred_db").rglob("*.py")}
    assert modules <= set(_contents(wheel))


def test_a_wheel_built_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = _build("sdist", ROOT, tmp_path / "sdist")
    _run("tar", "-xf", str(sdist), at=tmp_path)
    rebuilt = _build("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "rebuilt")
    assert _contents(rebuilt) == _contents(wheel)


@pytest.mark.parametrize("at", ["a folder with an alembic/ of its own", "the checkout"])
def test_alembic_is_still_the_library(installed: Environment, tmp_path: Path, at: str) -> None:
    (tmp_path / "alembic").mkdir()
    folder = ROOT if at == "the checkout" else tmp_path
    code = "import alembic.config, sys; print(alembic.__file__)"
    assert installed.run("python", "-c", code, at=folder).startswith(str(LIBRARIES))


def _init(environment: Environment, folder: Path) -> None:
    environment.run("alfred-db", "init", at=folder)


def _init_in_a_project(environment: Environment, folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[project]\nname = "app"\n')
    _init(environment, folder)


def _ini(environment: Environment, folder: Path) -> None:
    (folder / "alembic.ini").write_text(INI)


def _pyproject(environment: Environment, folder: Path) -> None:
    (folder / "pyproject.toml").write_text(PYPROJECT)


def _nothing(environment: Environment, folder: Path) -> None:
    pass


def _own_ini(environment: Environment, folder: Path) -> None:
    (folder / "alembic.ini").write_text(OWN_INI)


@pytest.mark.parametrize(
    ("prepare", "options"),
    [
        pytest.param(_init, [], id="alfred-db init"),
        pytest.param(_init_in_a_project, [], id="alfred-db init in a project"),
        pytest.param(_ini, [], id="alembic.ini"),
        pytest.param(_pyproject, [], id="pyproject.toml"),
        pytest.param(_own_ini, ["-n", "alfred"], id="a section beside one's own"),
        pytest.param(_nothing, ["ALEMBIC_CONFIG"], id="ALEMBIC_CONFIG"),
    ],
)
def test_plain_alembic_upgrades_from_any_folder(
    installed: Environment,
    tmp_path: Path,
    empty_url: URL,
    prepare: Callable[[Environment, Path], None],
    options: list[str],
) -> None:
    environment: dict[str, Any] = {}
    if options == ["ALEMBIC_CONFIG"]:
        environment["ALEMBIC_CONFIG"] = str(installed.packages / "alfred_db" / "alembic.ini")
        options = []
    prepare(installed, tmp_path)
    installed.run("alembic", *options, "upgrade", "head", at=tmp_path, url=empty_url, **environment)
    found = installed.run("alembic", *options, "current", at=tmp_path, url=empty_url, **environment)
    assert found.split() == [migrate.head(), "(head)"]


def test_the_installed_package_upgrades_and_verifies(
    installed: Environment, tmp_path: Path, empty_url: URL
) -> None:
    installed.run("alfred-db", "upgrade", at=tmp_path, url=empty_url)
    code = "import alfred_db as a; d = a.Database(); d.verify(); d.upgrade(); d.close(); print(a.__file__)"
    found = installed.run("python", "-c", code, at=tmp_path, url=empty_url)
    assert found.startswith(str(installed.packages))


def test_an_editable_install_finds_the_revisions_of_the_checkout(
    editable: Environment, tmp_path: Path, empty_url: URL
) -> None:
    editable.run("alfred-db", "upgrade", at=tmp_path, url=empty_url)
    found = editable.run("alembic", "current", at=ROOT, url=empty_url)
    assert found.split() == [migrate.head(), "(head)"]
    code = "from alfred_db import migrate; print(migrate.location())"
    assert editable.run("python", "-c", code, at=tmp_path) == f"{ROOT / 'alembic'}\n"


def test_the_first_steps_are_four_commands(installed: Environment, tmp_path: Path) -> None:
    """In an empty folder, on the embedded server, with nothing else to do and no warning; and once more."""
    with tempfile.TemporaryDirectory(dir=place()) as home:
        os.chmod(home, 0o755)
        for _ in range(2):
            printed = ""
            for line in (
                "alfred-db init",
                "alembic upgrade head",
                "alfred-db quickstart",
                "alfred-db doctor",
            ):
                command, *arguments = line.split()
                printed += installed.run(command, *arguments, at=tmp_path, errors=True, ALFRED_DB_HOME=home)
            assert "warning" not in printed.lower(), printed
        assert "answer     SKIP LOCKED lets many workers claim tasks" in printed
        assert "documents  0 of 5 stored" in printed


def test_the_examples_pass_with_the_plugin_of_the_wheel(
    installed: Environment, tmp_path: Path, servers: Servers
) -> None:
    """Each application with its tests, in two workers; what the plugin is, comes from the wheel alone."""
    for application in sorted(path.parent for path in (ROOT / "examples").glob("*/tests")):
        folder = tmp_path / application.name
        shutil.copytree(application, folder, ignore=shutil.ignore_patterns("__pycache__"))
        done = installed.run(
            "python",
            "-m",
            "pytest",
            "-n",
            "2",
            "-q",
            "-p",
            "no:cacheprovider",
            at=folder,
            ALFRED_DB_TEST_URL=servers["embedded"],
            ALFRED_DB_TEST_REQUIRED="1",
        )
        assert re.search(r"^\d+ passed in", done, re.MULTILINE), done


OWN_ENV = """
import importlib

from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table

from alfred_db import Database
from alfred_db.migrate import include_name, include_object

importlib.import_module("{module}")  # the application, and all models that it uses
target_metadata = MetaData()
Table("app_settings", target_metadata, Column("id", Integer, primary_key=True))

with Database() as database, database.engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=target_metadata,
        include_schemas=True,
        include_name=include_name,
        include_object=include_object,
    )
    with context.begin_transaction():
        context.run_migrations()
"""


EACH = """
import os
import sys

import alembic.config
import alfred_db.migrate
import alfred_db.repositories

for folder in sys.argv[1:]:
    if (child := os.fork()) == 0:
        os.chdir(folder)
        sys.path.insert(0, folder)
        alembic.config.main(["revision", "--autogenerate", "-m", "mine"])
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0, folder
"""
"""The command in each folder, in a process of its own, from one that has the libraries imported."""


def test_autogenerate_in_the_applications_proposes_nothing_of_ours(
    installed: Environment, tmp_path: Path, migrated_url: URL
) -> None:
    """With an Alembic of their own beside ours, as docs/howto/own-alembic.md has it."""
    (tmp_path / "made").mkdir()
    installed.run("alembic", "init", "own", at=tmp_path / "made")
    folders: list[Path] = []
    for application in sorted(path.parent for path in (ROOT / "examples").glob("*/tests")):
        folder = tmp_path / application.name
        shutil.copytree(application, folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(tmp_path / "made", folder, dirs_exist_ok=True)
        (module,) = [path.stem for path in folder.glob("*.py")]
        (folder / "own/env.py").write_text(OWN_ENV.format(module=module))
        folders.append(folder)
    installed.run("python", "-c", EACH, *map(str, folders), at=tmp_path, url=migrated_url)
    for folder in folders:
        (revision,) = (folder / "own/versions").glob("*.py")
        proposed = re.findall(r"^ +op\.\w+\('?\w*", revision.read_text("utf-8"), re.MULTILINE)
        assert [one.strip() for one in proposed] == [
            "op.create_table('app_settings",
            "op.drop_table('app_settings",
        ], folder.name


def test_init_leaves_an_alembic_of_ones_own_alone(installed: Environment, tmp_path: Path) -> None:
    mine = "[alembic]\nscript_location = mine\n"
    (tmp_path / "alembic.ini").write_text(mine)
    with pytest.raises(AssertionError, match="alembic -n alfred upgrade head"):
        installed.run("alfred-db", "init", at=tmp_path)
    assert (tmp_path / "alembic.ini").read_text() == mine


def test_the_page_about_mcp_is_followed_in_an_empty_folder(
    installed: Environment, tmp_path: Path, empty_url: URL
) -> None:
    """Upgrade, then the client of the page, which starts the installed command."""
    page = (ROOT / "docs" / "howto" / "mcp.md").read_text(encoding="utf-8")
    lines = page.split("```sh\n")[1].split("```")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["pip", "export", "alfred-db", "alfred-db"]
    installed.run(*lines[2].split(), at=tmp_path, url=empty_url)
    (tmp_path / "first.py").write_text(page.split("```python\n")[1].split("```")[0])
    path = f"{installed.bin}:{os.environ['PATH']}"
    assert installed.run("python", "first.py", at=tmp_path, url=empty_url, PATH=path) == "Ann likes tea\n"
    configured = json.loads(page.split("```json\n")[1].split("```")[0])["servers"]
    groups = {name: server["args"] for name, server in configured.items()}
    assert groups == {name: ["mcp", "--tools", name] for name in GROUPS}
