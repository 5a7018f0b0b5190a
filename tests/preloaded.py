"""Processes that start at once: forked from a server that has loaded torch and this project, which takes seconds.

They are processes like any other: each has its own id, folder, environment and output, and can be killed. Their code is
this checkout's, whatever copy of the project they run in. In a terminal, or as PROLOGUE_LAUNCH of the pipeline,

    python preloaded.py SOCKET SCRIPT [WORD ...]

runs a script so, ends with its status, and passes SIGINT and SIGTERM on to it; where this one is killed, it ends too.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from waiting import wait_until

MODULES = (
    "prologue.pipeline.tokenizer",
    "prologue.pipeline.attach",
    "prologue.pipeline.ar",
    "prologue.pipeline.samples",
    "prologue.tokens.encoding",
    "prologue.evaluation.attention",
    "prologue.evaluation.external",
    "prologue.evaluation.likelihood",
    "prologue.evaluation.reconstruction",
    "prologue.evaluation.sweep",
    "prologue.probe.run",
)
LONGEST = 2**20  # bytes of a request


class Preloaded:
    """The server, as long as the context lasts."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "socket"
        self.command = f"{sys.executable} {Path(__file__).resolve()} {self.socket}"  # as PROLOGUE_LAUNCH
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self.server = subprocess.Popen([sys.executable, __file__, "--serve", str(self.socket)], env=environment)

    def __enter__(self) -> Self:
        wait_until(lambda: self.socket.exists() or self.server.poll() is not None)
        assert self.server.poll() is None, "the server of processes has ended"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.kill()
        self.server.wait()

    def start(self, script: Path, *words: str, cwd: Path, output: Path, env: dict[str, str]) -> "Started":
        """Start a script on one thread in a folder; both of its outputs go into a file. `env`: beside the own one."""
        environment = {**os.environ, "PROLOGUE_THREADS": "1", "PROLOGUE_WORKERS": "0", **env}
        with output.open("ab") as file:
            streams = (0, file.fileno(), file.fileno())
            return Started(self.socket, [str(script), *words], cwd, environment, streams)


class Started:
    """A process that the server has forked."""

    def __init__(
        self, server: Path, argv: list[str], cwd: Path, env: dict[str, str], streams: tuple[int, int, int]
    ) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(server))
        request = json.dumps({"argv": argv, "cwd": str(cwd), "env": env}).encode()
        socket.send_fds(self.connection, [request], list(streams))
        self._lines = self.connection.makefile("r")
        self.pid = int(self._lines.readline())
        self.status: int | None = None

    def poll(self) -> int | None:
        """The exit status, as of subprocess: -N where signal N ended it; None while it runs."""
        if self.status is None and select.select([self.connection], [], [], 0)[0]:
            self.wait()
        return self.status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the status. Raises subprocess.TimeoutExpired."""
        if self.status is None:
            if not select.select([self.connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            line = self._lines.readline()
            self.status = int(line) if line else 1  # without a line the server itself was killed
            self.connection.close()
        return self.status

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)


def serve(path: str) -> None:
    """Load the modules, then fork a process for every request until killed."""
    for module in MODULES:
        __import__(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the processes that look after others are not waited for
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.new")
    server.listen(64)
    os.rename(f"{path}.new", path)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _look_after(connection)
        connection.close()


def _look_after(connection: socket.socket) -> None:
    """Fork the process of a request, tell its id and how it ended; where nobody listens any more, kill it."""
    content, streams, _, _ = socket.recv_fds(connection, LONGEST, 3)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(json.loads(content), streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(b"%d\n" % pid)
    process = os.pidfd_open(pid)
    ready, _, _ = select.select([process, connection.fileno()], [], [])
    if process not in ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    try:
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    finally:
        os._exit(0)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Run the script of a request in this process, then end it."""
    status = 1
    try:
        os.setsid()
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
            os.close(stream)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        script, *_ = sys.argv = request["argv"]
        sys.path.insert(0, str(Path(script).parent))
        sys.path[1:1] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Serve, or run one script as this process."""
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
        return
    server, *argv = sys.argv[1:]
    started = Started(Path(server), argv, Path.cwd(), dict(os.environ), (0, 1, 2))

    def pass_on(number: int, frame: FrameType | None) -> None:
        started.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = started.wait()
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
