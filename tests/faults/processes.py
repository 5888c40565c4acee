"""What is made to fail here: servers, workers and connections. All on 127.0.0.1, and all bounded in time."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psycopg
from forked import Program
from servers import free_port, place

from alfred_db.embedded import system

HERE = Path(__file__).parent
SECONDS = 180.0
"""How long anything here may take before it counts as failed."""

Stop = Literal["fast", "immediate", "killed"]
Cut = Literal["before", "after"]


def wait_until(true: Callable[[], object], seconds: float = SECONDS) -> None:
    """Look every 50 ms; fails when it has not become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


class Server:
    """A server that can be stopped in any way and started again; durable, as PostgreSQL is out of the box."""

    def __init__(
        self, folder: Path, data: str = "data", primary: Server | None = None, binaries: Path | None = None
    ) -> None:
        self._tools = system.tools_for(folder)
        if binaries is not None:
            self._tools = replace(self._tools, binaries=binaries)
        self._data = data
        self.folder = folder / data
        self.port = free_port()
        if primary is None:
            options = ("-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
            self._run("initdb", "-D", data, *options)
        else:  # a standby that follows it
            source = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres", "-c", "fast")
            self._run("pg_basebackup", "-D", data, "-R", "-X", "stream", "--no-sync", *source)
        self.start()

    def standby(self) -> Server:
        """A server that follows this one, in the same folder."""
        return Server(self.folder.parent, "standby", self)

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "-w", "-D", self._data)

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    @property
    def pid(self) -> int:
        return int((self.folder / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories="
            " -c max_connections=100 -c fsync=on -c synchronous_commit=on"
        )
        command = ("start", "-w", "-D", self._data, "-l", f"{self._data}.log", "-o", options)
        # What a killed server leaves behind has to end first.
        wait_until(lambda: self._tools.run("pg_ctl", *command).returncode == 0)

    def stop(self, how: Stop = "fast") -> None:
        if how == "killed":
            os.kill(self.pid, signal.SIGKILL)
        else:
            # Its last checkpoint waits for the disk.
            self._run("pg_ctl", "stop", "-m", how, "-t", "180", "-D", self._data)

    def answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url(), connect_timeout=5).close()
            return True
        return False

    def restart(self, how: Stop) -> None:
        self.stop(how)
        self.start()

    def _run(self, name: str, *arguments: str) -> None:
        done = self._tools.run(name, *arguments)
        assert done.returncode == 0, done.stdout


@contextmanager
def new_server(binaries: Path | None = None) -> Iterator[Server]:
    """A server that is gone at the end; on a disk when there is time, as writes take theirs there."""
    at_length = "ALFRED_DB_FAULTS" in os.environ
    folder = Path(tempfile.mkdtemp(prefix="alfred-db-faults-", dir="/tmp" if at_length else place()))
    try:
        if system.is_root():
            os.chown(folder, *system._system_account())
        server = Server(folder, binaries=binaries)
        try:
            yield server
        finally:
            with suppress(AssertionError):
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Process:
    """A Python program; what it prints can be waited for."""

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        given = {**os.environ, **(environment or {})}
        self._process = Program(*command, cwd=HERE, env=given)
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._pass_errors_on, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def _pass_errors_on(self) -> None:
        assert self._process.stderr is not None
        with suppress(ValueError):  # closed meanwhile
            for line in self._process.stderr:
                sys.stderr.write(line)

    def wait_for(self, pattern: str, seconds: float = SECONDS) -> str:
        """The first line that it prints, or has printed, that matches."""

        def found() -> str | None:
            return next((line for line in self.lines if re.search(pattern, line)), None)

        with self._said:
            self._said.wait_for(lambda: found() or not self._reader.is_alive(), seconds)
        line = found()
        assert line is not None, f"{pattern!r} is not in {self.lines[-20:]}"
        return line

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """As the kernel does when memory runs out; returns when it is gone."""
        self._process.kill()
        self._end()

    def finish(self, seconds: float = SECONDS) -> int:
        """Wait for its end; return its exit code."""
        self._process.wait(seconds)
        return self._end()

    def terminate(self) -> int:
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        return self.finish()

    def _end(self) -> int:
        code = self._process.wait(SECONDS)
        self._reader.join(SECONDS)
        self._process.close()
        return code


def program(name: str, *arguments: str, **settings: Any) -> Process:
    """Starts a program of this folder."""
    return Process(name, *arguments, *([json.dumps(settings)] if settings else []))


@contextmanager
def process(name: str, *arguments: str, **settings: Any) -> Iterator[Process]:
    """The same, killed at the end if it is still there."""
    with until_the_end(program(name, *arguments, **settings)) as started:
        yield started


@contextmanager
def until_the_end(started: Process) -> Iterator[Process]:
    try:
        yield started
    finally:
        started.kill()


class Proxy:
    """Stands between clients and the server, and can end a connection at its COMMIT.

    `before` lets the server not see it, `after` lets the client not see the answer. It reads just enough of the
    protocol for that: the length of each message, and the text of a query.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts: dict[Cut, int] = {"before": 0, "after": 0}
        self._next: Cut | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_next_commit(self, when: Cut) -> None:
        """The next COMMIT of any connection is its last message."""
        with self._lock:
            self._next = when

    def cut_all(self) -> int:
        """End every connection; return their number."""
        with self._lock:
            ended = list(self._open)
        for client in ended:
            _abort(client)
        return len(ended)

    def close(self) -> None:
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        try:
            with (
                closing(client),
                closing(socket.create_connection(("127.0.0.1", self._target), SECONDS)) as server,
            ):
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pass_on(client, server)
        except OSError:
            pass  # either side went away, as they do here
        finally:
            with self._lock:
                self._open.discard(client)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        messages = _Messages()
        while True:
            ready, _, _ = select.select((client, server), (), ())
            if server in ready:
                if not (data := server.recv(1 << 16)):
                    return None
                client.sendall(data)
            if client in ready:
                if not (data := client.recv(1 << 16)):
                    return None
                when = self._taken() if messages.commits(data) else None
                if when == "before":
                    return _abort(client)
                server.sendall(data)
                if when == "after":
                    _until_ready(server)
                    return _abort(client)

    def _taken(self) -> Cut | None:
        with self._lock:
            when, self._next = self._next, None
            if when is not None:
                self.cuts[when] += 1
            return when


class _Messages:
    """The messages of a client, one after the other."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False

    def commits(self, data: bytes) -> bool:
        """Whether one of the messages that end in this piece is a COMMIT."""
        self._rest += data
        found = False
        while len(self._rest) >= 5 + (not self._started) * 3:
            kind, at = (self._rest[:1], 1) if self._started else (b"", 0)
            (length,) = struct.unpack_from("!i", self._rest, at)
            if len(self._rest) < at + length:
                break
            body = self._rest[at + 4 : at + length]
            self._rest = self._rest[at + length :]
            if not self._started:
                # Version 3 of the protocol; anything else asks for encryption first.
                self._started = body[:2] == b"\0\3"
            elif kind == b"Q" or kind == b"P":
                text = body if kind == b"Q" else body[body.index(b"\0") + 1 :]
                found = found or text.strip().upper().startswith(b"COMMIT")
        return found


def _until_ready(server: socket.socket) -> None:
    """Read until the server has answered: its last message is ReadyForQuery."""
    data = b""
    while data[-6:-1] != b"Z\0\0\0\5":
        more = server.recv(1 << 16)
        if not more:
            return
        data += more


def _abort(client: socket.socket) -> None:
    """End a connection as a network does that drops it: with a reset."""
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(server: Server) -> Iterator[Proxy]:
    """A proxy in front of that server."""
    proxy = Proxy(server.port)
    try:
        yield proxy
    finally:
        proxy.close()
