"""The deployment files: they are read, and what they call exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from alfred_db.cli import main

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
READ = {"ALFRED_DB_URL", "ALFRED_DB_MIGRATION_URL"}
"""Variables that the library reads; tests/docs/test_docs.py has those of the documentation."""
OF_OTHERS = {"POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_HOST_AUTH_METHOD", "APP_PASSWORD"}
GRACE = 25.0
"""The default of `--grace`."""


def read(path: str) -> str:
    return (DEPLOY / path).read_text(encoding="utf-8")


COMPOSE = {path.parent.name: yaml.safe_load(path.read_text("utf-8")) for path in DEPLOY.rglob("compose.yaml")}
MANIFESTS: dict[str, list[dict[str, Any]]] = {
    path.name: list(yaml.safe_load_all(path.read_text("utf-8")))
    for path in (DEPLOY / "kubernetes").glob("*.yaml")
}


def unit(path: Path) -> list[tuple[str, str]]:
    """The settings of a unit, which may be repeated."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line and line[0] not in "#["]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


UNITS = {path.name: unit(path) for path in (DEPLOY / "systemd").iterdir()}


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from walk(one)
    elif isinstance(value, list):
        for one in value:
            yield from walk(one)


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """The containers of Kubernetes with the name of their file."""
    for name, documents in MANIFESTS.items():
        for one in walk(documents):
            if "image" in one and "command" in one:
                yield name, one


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every call of `alfred-db` in the files, as words."""
    for name, container in containers():
        yield name, container["command"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "exec" in container.get(probe, {}):
                yield name, container[probe]["exec"]["command"]
    for name, compose in COMPOSE.items():
        for service in compose["services"].values():
            given = service.get("command")
            if isinstance(given, list) and given[0] == "sh":
                yield from ((name, shlex.split(one)) for one in given[-1].split(";"))
            elif isinstance(given, list):
                yield name, given
            test = service.get("healthcheck", {}).get("test", [""])
            if test[0] == "CMD":
                yield name, test[1:]
    for name, settings in UNITS.items():
        yield from ((name, shlex.split(value)) for key, value in settings if key == "ExecStart")
    yield from (
        ("Dockerfile", yaml.safe_load(line[4:]))
        for line in read("docker/Dockerfile").splitlines()
        if line[:4] == "CMD "
    )
    for path in DEPLOY.rglob("*"):  # what a reader types
        if path.is_file() and path.suffix in (".yaml", ".service", ".md"):
            found = re.findall(r"^#\s+(alfred-db .*)$", path.read_text("utf-8"), re.MULTILINE)
            yield from ((path.name, shlex.split(one)) for one in found)


CALLS = [(name, words) for name, words in command_lines() if Path(words[0]).name == "alfred-db"]


def test_every_call_is_one_of_the_command_line() -> None:
    assert len(CALLS) > 10
    for name, (_, *words) in CALLS:
        command: click.Command = main
        path = ""
        while isinstance(command, click.Group):
            path = f"{path} {words[0]}".strip()
            command = command.commands[words.pop(0)]
        # It parses them, and calls nothing.
        assert command.make_context(path, words), name


def test_what_runs_without_a_terminal_asks_nothing() -> None:
    for name, words in CALLS:
        if words[1] == "purge" or "--drop" in words:
            assert "--yes" in words, name


def variables(value: Any) -> Iterator[str]:
    for one in walk(value):
        given = one.get("environment")
        if isinstance(given, dict):
            yield from given
        for entry in one.get("env") or ():
            yield entry["name"]
        yield from one.get("stringData", ())


def test_every_variable_is_read() -> None:
    named = set(variables([*COMPOSE.values(), *MANIFESTS.values()]))
    named |= set(
        re.findall(r"\bALFRED_DB_[A-Z_]+", "".join(p.read_text("utf-8") for p in DEPLOY.rglob("*.service")))
    )
    assert named - READ - OF_OTHERS == set()
    assert named >= READ


def test_passwords_come_from_the_environment() -> None:
    for name, container in containers():
        for entry in container.get("env", ()):
            assert "value" not in entry, name
            key = entry["valueFrom"]["secretKeyRef"]
            assert (key["name"], key["key"]) == ("alfred-db", entry["name"])
    secrets = [one for documents in MANIFESTS.values() for one in documents if one["kind"] == "Secret"]
    assert {key for one in secrets for key in one["stringData"]} == READ
    compose = read("docker/compose.yaml")
    assert set(re.findall(r"://\w+:([^@]+)@", compose)) == {
        "${APP_PASSWORD:?set it}",
        "${OWNER_PASSWORD:?set it}",
    }


def grace(words: list[str]) -> float:
    return float(words[words.index("--grace") + 1]) if "--grace" in words else GRACE


def seconds(text: str) -> float:
    number, kind = re.fullmatch(r"(\d+)(s|m)?", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * (60 if kind == "m" else 1)


def test_a_stop_takes_longer_than_the_grace_of_a_worker() -> None:
    deployments = [
        one for documents in MANIFESTS.values() for one in documents if one["kind"] == "Deployment"
    ]
    workers = 0
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        for container in pod["containers"]:
            if "worker" in container["command"]:
                workers += 1
                assert pod["terminationGracePeriodSeconds"] > grace(container["command"])
                assert "livenessProbe" not in container
                assert {"startupProbe", "readinessProbe"} <= set(container)
    for settings in UNITS.values():
        known = dict(settings)
        if " worker " in known.get("ExecStart", ""):
            workers += 1
            assert float(known["TimeoutStopSec"]) > grace(shlex.split(known["ExecStart"]))
            assert (known["KillSignal"], known["Restart"]) == ("SIGTERM", "always")
    service = COMPOSE["docker"]["services"]["worker"]
    assert seconds(service["stop_grace_period"]) > grace(service["command"])
    assert workers == 2


def test_no_shell_stands_before_a_worker() -> None:
    assert [words for _, words in CALLS if "worker" in words and words[0] in ("sh", "bash")] == []
    assert "worker" in read("docker/Dockerfile").splitlines()[-1]


def test_pods_run_without_rights_that_they_do_not_need() -> None:
    pods = [
        one["spec"]
        for documents in MANIFESTS.values()
        for one in walk(documents)
        if "containers" in one.get("spec", {})
    ]
    assert len(pods) == 4
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False


def test_selectors_fit_their_pods() -> None:
    for documents in MANIFESTS.values():
        labels = [
            one["spec"]["template"]["metadata"]["labels"] for one in documents if one["kind"] == "Deployment"
        ]
        for one in documents:
            if one["kind"] in ("Deployment", "PodDisruptionBudget"):
                assert one["spec"]["selector"]["matchLabels"] in labels
            elif one["kind"] == "Service":
                assert one["spec"]["selector"] in labels


def test_services_depend_on_what_exists() -> None:
    for compose in COMPOSE.values():
        for service in compose["services"].values():
            assert set(service.get("depends_on", {})) <= set(compose["services"])


def test_copied_files_exist() -> None:
    for name, folder in (
        ("docker/Dockerfile", ROOT),
        ("docker/postgres.Dockerfile", DEPLOY / "docker"),
        ("citus/Dockerfile", DEPLOY / "citus"),
    ):
        for line in read(name).splitlines():
            if line.startswith("COPY "):
                *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
                assert all((folder / source).exists() for source in sources), line


def test_what_the_pages_name_exists() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for path in re.findall(r"\bdeploy/[\w./-]*\w", page.read_text("utf-8")):
            assert (ROOT / path).exists(), (page, path)


def test_every_file_is_named_by_a_page() -> None:
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs").rglob("*.md"))
    tops = {
        path
        for path in DEPLOY.rglob("*")
        if path.is_file() and path.suffix in (".yaml", ".tf", ".json", ".yml")
    }
    assert {
        path.relative_to(ROOT).as_posix() for path in tops if path.relative_to(ROOT).as_posix() not in pages
    } == set()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_units_are_those_of_systemd(tmp_path: Path) -> None:
    """The programs of the units are replaced by one that exists."""
    for path in (DEPLOY / "systemd").iterdir():
        text = (
            path.read_text("utf-8")
            .replace("/srv/platform/.venv/bin/alfred-db", "/bin/true")
            .replace("User=platform", "User=root")
        )
        (tmp_path / path.name.replace("@.", "@1.")).write_text(text, "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "alfred-db" not in done.stderr
