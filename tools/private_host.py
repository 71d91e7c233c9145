"""A host on this machine: a network, a name and an /etc/hosts of its own, and whatever runs in it. Linux, root.

The machine's own network, mounts and /etc/hosts are not touched: no namespace has a name, so each ends, and takes its
devices along, with the last process in it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

DEVICE = "eth0"
TCP_MEMORY = "4096 131072 67108864"  # the most is enough for 10 Gbit/s over 50 ms
NAMESPACES = {"mount": "mnt", "uts": "uts", "net": "net"}

APART = ["unshare", "--mount", "--uts", "--net"]
BECOME_HOST = f"""\
mount --bind "$1" /etc/hosts
hostname "$2"
ip link set lo up
for size in tcp_rmem tcp_wmem; do echo "{TCP_MEMORY}" >/proc/sys/net/ipv4/$size; done
echo ready
exec 2>/dev/null
cat >/dev/null || true  # until its maker ends, however that comes about: then so does everything here
network=$(readlink /proc/$$/ns/net)
for process in /proc/[0-9]*; do
    [ "$(readlink $process/ns/net)" != "$network" ] || [ $process = /proc/$$ ] || kill -9 "${{process#/proc/}}" || true
done
"""


class NetworkError(Exception):
    """A network that cannot be made, or does not do what it was told to."""


class Host:
    """A network, a name and an /etc/hosts of its own, held by a process; all in it end with this one or at `close`."""

    def __init__(self, name: str, hosts_file: Path) -> None:
        self.name = name
        command = [*APART, "sh", "-e", "-c", BECOME_HOST, "sh", str(hosts_file), name]
        # A session of its own: Ctrl-C is for this process, which ends what is in the host first.
        self._holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise NetworkError(f"the network of {name} cannot be made, as said above")
        self.network = network_of(self.pid)

    @property
    def pid(self) -> int:
        """A process in the host."""
        return self._holder.pid

    @property
    def sent_bytes(self) -> int:
        """Bytes that have left by `eth0` so far, headers included."""
        lines = Path(f"/proc/{self.pid}/net/dev").read_text(encoding="ascii").splitlines()
        (line,) = [line for line in lines if line.strip().startswith(f"{DEVICE}:")]
        return int(line.split(":")[1].split()[8])

    def do(self, *command: str, may_fail: bool = False) -> None:
        """Run a command in the host's network.

        Raises:
            NetworkError: it fails.
        """
        words = ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode and not may_fail:
            raise NetworkError(f"on {self.name}: {shlex.join(command)}: {' '.join(done.stderr.split())}")

    def close(self) -> None:
        """End the host and all processes in it."""
        deadline = time.monotonic() + 10
        while (inside := processes_in(self.network)) != [self.pid] and inside and time.monotonic() < deadline:
            for pid in inside:
                if pid != self.pid:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self._holder.kill()
        self._holder.communicate()


def enter(pid: str) -> list[str]:
    """The words in front of a command that is to run in the host of a process."""
    return ["nsenter", *(f"--{option}=/proc/{pid}/ns/{file}" for option, file in NAMESPACES.items())]


def network_of(pid: int) -> str:
    """The name that the kernel gives to the network of a process."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def processes_in(network: str) -> list[int]:
    """The processes in a network."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, OSError):  # no process, or it has ended meanwhile
            if network_of(int(entry.name)) == network:
                found.append(int(entry.name))
    return found
