"""Python programs as processes of their own, forked from one that has imported the library.

To import it takes a fresh process most of a second, which the suite would pay some hundred times. What such a program does is
the same: it has its own arguments, folder, environment and streams, and can be killed. Where the start itself is the subject,
as in tests/packaging, a test starts a fresh process.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Program", "run"]

_IMPORTED = ["alembic.config", "alfred_db.cli", "alfred_db.repositories", "alfred_db.worker"]

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(_IMPORTED)


class Program:
    """A running program: `-m module`, `-c code` or the path of a script, and its arguments.

    It reads nothing; what it prints is in `stdout` and `stderr`, or all in `stdout` if they are `merged`.
    """

    def __init__(
        self,
        *command: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        merged: bool = False,
    ) -> None:
        self.args = command
        out, given_out = os.pipe()
        err, given_err = (None, given_out) if merged else os.pipe()
        try:
            self._process = _server.Process(
                target=_main,
                args=(
                    command,
                    os.fspath(cwd or Path.cwd()),
                    dict(os.environ if env is None else env),
                    _Stream(given_out),
                    _Stream(given_err),
                ),
                daemon=True,
            )
            self._process.start()
        finally:
            for descriptor in {given_out, given_err}:
                os.close(descriptor)
        self.stdout: TextIO = os.fdopen(out)
        self.stderr: TextIO | None = None if err is None else os.fdopen(err)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """As that of subprocess.Popen: None while it runs, negative for a signal."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it printed since it was last read."""
        said = ["", ""]

        def read(number: int, stream: TextIO) -> None:
            with stream:
                said[number] = stream.read()

        streams = [stream for stream in (self.stdout, self.stderr) if stream is not None]
        readers = [
            threading.Thread(target=read, args=one, daemon=True)
            for one in enumerate(streams)
            if not one[1].closed
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return said[0], said[1]

    def close(self) -> None:
        """Kill it if it still runs."""
        self.kill()
        self.wait(60)
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def run(
    *command: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 180,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run` does."""
    with Program(*command, cwd=cwd, env=env) as program:
        out, err = program.communicate(timeout)
        return subprocess.CompletedProcess(command, program.wait(), out, err)


class _Stream:
    """A descriptor that goes along to the process that is started."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (DupFd(self._descriptor),)


def _open(found: Any) -> int:
    descriptor: int = found.detach()
    return descriptor


def _main(command: Sequence[str], folder: str, environment: Mapping[str, str], out: int, err: int) -> None:
    """The program's side: take its streams, folder and environment, and become it."""
    for stream, target in ((out, 1), (err, 2)):
        os.dup2(stream, target)
    for stream in {out, err}:
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    match command:
        case ("-c", code, *arguments):
            sys.argv = ["-c", *arguments]
            sys.path.insert(0, "")
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case ("-m", module, *arguments):
            sys.argv = [module, *arguments]
            sys.path.insert(0, folder)
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case (script, *arguments):
            sys.argv = [script, *arguments]
            sys.path.insert(0, os.path.dirname(os.path.join(folder, script)))
            runpy.run_path(script, run_name="__main__")
        case _:
            raise ValueError(f"no program: {command}")
