"""Certificates by the `openssl` command, and a server that asks for SCRAM over TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import execute
from .processes import Server

PASSWORD = "pa%ss wo/rd"

_HBA = """\
host all rejected 127.0.0.1/32 reject
hostssl all guarded 127.0.0.1/32 scram-sha-256
hostssl all certified 127.0.0.1/32 cert
host all postgres,sleeping,outside,crowded 127.0.0.1/32 trust
"""

_ROLES = (
    f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'",
    "CREATE ROLE certified LOGIN",
    "CREATE ROLE rejected LOGIN",
    "CREATE ROLE stranger LOGIN",
    "CREATE ROLE sleeping NOLOGIN",
    "CREATE ROLE outside LOGIN",
    "CREATE ROLE crowded LOGIN CONNECTION LIMIT 0",
    "CREATE DATABASE closed ALLOW_CONNECTIONS false",
    "CREATE DATABASE private",
    "REVOKE CONNECT ON DATABASE private FROM PUBLIC",
)


@dataclass(frozen=True)
class Authorities:
    """Files of the authority that signed the server's certificate, and of another one."""

    known: Path
    other: Path


def guard(server: Server) -> Authorities:
    """Have the server ask for TLS and SCRAM where its roles say so; its certificate is for `localhost`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = server.folder
    for name in ("authority", "other"):
        _openssl(folder, "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj", f"/CN={name}",
                 "-keyout", f"{name}.key", "-out", f"{name}.crt")  # fmt: skip
    _openssl(folder, "req", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost", "-keyout", "server.key",
             "-out", "server.csr")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    _openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "authority.crt", "-CAkey", "authority.key", "-days",
             "2", "-CAcreateserial", "-extfile", "names", "-out", "server.crt")  # fmt: skip
    owner = folder.stat()
    for path in (*folder.glob("*.key"), *folder.glob("*.crt")):
        path.chmod(0o600)
        os.chown(path, owner.st_uid, owner.st_gid)
    for statement in _ROLES:
        execute(server, statement)
    for name, value in {"ssl": "on", "ssl_ca_file": "authority.crt"}.items():
        execute(server, f"ALTER SYSTEM SET {name} = '{value}'")
    (folder / "pg_hba.conf").write_text(_HBA)
    server.restart("fast")
    copies = folder.parent
    for name in ("authority", "other"):
        shutil.copy(folder / f"{name}.crt", copies / f"{name}.crt")
        (copies / f"{name}.crt").chmod(0o644)
    return Authorities(copies / "authority.crt", copies / "other.crt")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
