"""Gives ranks of tests and of tools/evidence.py a Python that has torch imported already: forks of a process that has.

Of the 17 s that four ranks on two cores take for a run of eight steps, 13 go by until the first step, most of them in
imports. What a fork shares with the others is memory that none of them writes to: MPI, Horovod and all threads start in
the rank itself. There are two such processes, with hash seeds of their own, so that neighbouring ranks iterate over
sets in different orders, as ranks that are started one by one do.

`WarmPython` starts them; the client is the executable tools/warm-python. `python tools/warm_python.py PATH` serves on a
Unix socket until its standard input ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

# No MPI, whose import initialises it, and no HDF5, which reads the environment when it is imported.
PRELOADED = """
    torch torch._dynamo torchvision numpy scipy.optimize omegaconf safetensors.torch pytest hypothesis tqdm
    wash_hpc.usage wash_hpc.config wash_hpc.data wash_hpc.models wash_hpc.member wash_hpc.storage.checkpoint
"""
NUM_SERVERS = 2
CLIENT = Path(__file__).resolve().with_name("warm-python")
Request = dict[str, Any]  # arguments, environment, folder


class WarmPython:
    """The servers; `tools/warm-python` finds them by the environment, and is the real python until they listen."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        paths = [f"{self._folder.name}/{number}" for number in range(NUM_SERVERS)]
        self._sockets = list(map(Path, paths))
        # In sessions of their own no Ctrl-C reaches them: it is their clients' to hand on.
        self._servers = [
            subprocess.Popen([sys.executable, __file__, path], stdin=subprocess.PIPE, start_new_session=True)
            for path in paths
        ]
        os.environ["WASH_HPC_WARM_PYTHON"] = " ".join(paths)

    def wait(self) -> None:
        """Until all of them listen, or one has ended."""
        pairs = list(zip(self._sockets, self._servers, strict=True))
        while not all(socket_file.exists() or server.poll() is not None for socket_file, server in pairs):
            time.sleep(0.1)

    def close(self) -> None:
        del os.environ["WASH_HPC_WARM_PYTHON"]
        for server in self._servers:
            server.communicate(timeout=60)
        self._folder.cleanup()


@contextmanager
def warm_ranks() -> Iterator[None]:
    """Servers that listen, while it lasts; those that there are already, if any."""
    if "WASH_HPC_WARM_PYTHON" in os.environ:
        yield
        return
    servers = WarmPython()
    try:
        servers.wait()
        yield
    finally:
        servers.close()


def with_warm_command(folder: Path) -> Path:
    """Put a `wash-hpc` whose imports are done into a folder, for the front of PATH; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "wash-hpc"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(str(CLIENT))} -m wash_hpc "$@"\n')
    command.chmod(0o755)
    return folder


class Server:
    """Forks a process for every client, tells it the process's id and how it ended, and ends it with its client."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._children, self._wakeup = socket.socketpair()
        self._clients: dict[int, socket.socket] = {}  # by their processes' ids
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._fork)
        self._selector.register(self._children, selectors.EVENT_READ, self._reap)
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._end)

    def serve(self) -> Request:
        """Wait for requests; returns in the forked processes only, each with its own."""
        for end in (self._children, self._wakeup):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            for key, _ in self._selector.select():
                request: Request | None = key.data(key.fileobj)
                if request is not None:
                    return request

    def _fork(self, _: object) -> Request | None:
        client = self._listener.accept()[0]
        request, files = receive(client)
        if request is None:  # killed before it had asked
            client.close()
            return None
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for end in (self._listener, self._children, self._wakeup, client, *self._clients.values()):
                end.close()
            become(request, files)
            return request
        for file in files:
            os.close(file)
        client.sendall(f"{pid}\n".encode())
        self._clients[pid] = client
        self._selector.register(client, selectors.EVENT_READ, partial(self._kill, pid))
        return None

    def _reap(self, _: object) -> None:
        self._children.recv(64)
        while self._clients:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            client = self._clients.pop(pid)
            with suppress(KeyError):
                self._selector.unregister(client)
            with suppress(OSError):
                client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            client.close()

    def _kill(self, pid: int, client: socket.socket) -> None:
        """The client is gone, killed perhaps: so is its process."""
        if self._clients.get(pid) is not client:  # its end was noticed at the same moment
            return
        self._selector.unregister(client)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _end(self, _: object) -> None:
        for pid in self._clients:
            os.kill(pid, signal.SIGKILL)
        sys.exit()


def receive(connection: socket.socket) -> tuple[Request | None, list[int]]:
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    text = connection.makefile("rb").read(int.from_bytes(size, "big"))
    if not text or len(text) < int.from_bytes(size, "big"):
        for file in files:
            os.close(file)
        return None, []
    return json.loads(text), files


def become(request: Request, files: list[int]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])


def run(arguments: list[str]) -> None:
    """What `python -m MODULE ...`, `python -c CODE ...` and `python FILE ...` do."""
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], str(Path.cwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    for name in PRELOADED.split():
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a rank would write to all objects' memory
    run(Server(sys.argv[1]).serve()["arguments"])
