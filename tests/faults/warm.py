"""Ranks that start in a second: forked from a process that has imported everything, and has not started MPI.

mpirun starts a small program for each rank, which hands its environment and its output on to that process, waits for
the forked rank and ends as it does. What is forked is a rank like any other: it starts MPI itself, by mpirun's
environment, and may be killed.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STUB = Path(__file__)


def stub(server: str, words: list[str]) -> None:
    """What mpirun starts."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server)
        message = json.dumps({"environ": dict(os.environ), "words": words}).encode()
        socket.send_fds(connection, [len(message).to_bytes(4, "big")], [1, 2])
        connection.sendall(message)
        status = int(connection.makefile().readline())
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(path: str) -> None:
    """Fork a rank for each stub that asks for one, until killed."""
    import mpi4py

    os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"
    mpi4py.rc.initialize = False

    # The first optimizer of a process imports the compiler; the others are imported when they are used.
    for module in ("torch._dynamo", "h5py", "wash_hpc.train", "wash_hpc.methods.wash", "wash_hpc.parallel.mpi_reducer"):
        importlib.import_module(module)
    ranks: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            readable, _, _ = select.select([listener, *ranks.values()], [], [], 0.02)
            if listener in readable:
                connection, _ = listener.accept()
                ranks[_fork(connection, listener)] = connection
            for process, connection in list(ranks.items()):
                if connection in readable:  # its stub is gone: mpirun has ended it
                    os.kill(process, signal.SIGKILL)
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    with ranks.pop(process), suppress(OSError):
                        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _fork(connection: socket.socket, listener: socket.socket) -> int:
    length, files, _, _ = socket.recv_fds(connection, 4, 2)
    message = json.loads(connection.makefile("rb").read(int.from_bytes(length, "big")))
    process = os.fork()
    if process:
        for file in files:
            os.close(file)
        return process
    listener.close()
    connection.close()
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(message["environ"])
    try:
        from mpi4py import MPI

        MPI.Init_thread(MPI.THREAD_MULTIPLE)
        program, *sys.argv[1:] = message["words"]
        exec(program, {"__name__": "__main__"})
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except Exception:  # noqa: BLE001 (as Python does at the end of a program)
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


@contextmanager
def warm(folder: Path) -> Iterator[list[str]]:
    """A process from which ranks are forked; gives the command that mpirun is to start, before program and words."""
    path = str(folder / "warm")
    command = [sys.executable, str(STUB), "serve", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield [sys.executable, "-S", "-E", str(STUB), "stub", path]
        finally:
            process.kill()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    stub(sys.argv[2], sys.argv[3:])
