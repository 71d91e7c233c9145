"""Hosts on one machine, each with a network of its own, and links between them that are slow on purpose. Linux, root.

    m0 eth0 ---- m0 |                  | m1 ---- eth0 m1
                    | bridge of switch |

Rates are the kernel's (tbf at both ends of each wire, so that a host neither sends nor receives faster), delays too
where it has netem, else those of `delayed_wire`. The machine's own network, mounts and /etc/hosts are not touched: no
namespace has a name, so each ends, and takes its devices along, with the last process in it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

SWITCH = "switch"
DEVICE = "eth0"
MTU = 1500
FRAME_BYTES = 16_384  # that TCP hands over at a time; where that is more than a burst, tbf cuts it
BUFFER_BYTES = 2**20  # of a port, or as much as is under way on a long link
NETEM_FRAMES = 100_000  # that may be under way
CONGESTION_CONTROL = "cubic"  # as Linux has it; some virtual machines have another
TCP_MEMORY = "4096 131072 67108864"  # the most is enough for 10 Gbit/s over 50 ms

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
PROBE = f"""\
mount --bind /etc/hosts /etc/hosts
hostname probe
ip link add bridge type bridge
ip link add {DEVICE} type veth peer name m0
ip link set m0 master bridge
ip address add 10.0.0.11/24 dev {DEVICE}
ip link set {DEVICE} up
ip route replace 10.0.0.0/24 dev {DEVICE} congctl {CONGESTION_CONTROL}
tc qdisc add dev {DEVICE} root tbf rate 1mbit burst 5kb limit 100kb
"""
PROBE_NETEM = f"ip link add {DEVICE} type veth peer name m0; tc qdisc add dev {DEVICE} root netem delay 1ms"
AGENT = """\
#!/bin/sh
# As ssh: HOST COMMAND...
host=$1
shift
exec {enter} sh -c "cd {folder} && $*"
"""
PROGRAMS = dict.fromkeys(("ip", "tc"), "iproute2") | dict.fromkeys(("unshare", "nsenter"), "util-linux")
NUMBER = r"\d+(?:\.\d+)?"
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


class NetworkError(Exception):
    """A network that cannot be made, or does not do what it was told to."""


@dataclass(frozen=True)
class Link:
    """What each host's wire to the switch is like.

    Attributes:
        rate: bits a second in each direction; None: as fast as the machine.
        round_trip: seconds from a host to another one and back.
    """

    rate: float | None = None
    round_trip: float = 0.0

    def __str__(self) -> str:
        parts = [format_rate(self.rate)] if self.rate else []
        parts += [f"{self.round_trip * 1e3:g} ms"] if self.round_trip else []
        return " + ".join(parts) or "not slowed"

    @property
    def burst_bytes(self) -> int:
        """What may pass at once after a pause: as many as pass while a timer is late; on a long link some more."""
        return max(3 * MTU, round((self.rate or 0) / 8 * (150e-6 + self.round_trip / 100)))

    @property
    def buffer_bytes(self) -> int:
        """What may wait at a port."""
        return max(BUFFER_BYTES, round((self.rate or 0) / 8 * self.round_trip))


def format_rate(rate: float) -> str:
    """Bits a second in words: `1 Gbit/s`."""
    return f"{rate / 1e9:.3g} Gbit/s" if rate >= 1e9 else f"{rate / 1e6:.3g} Mbit/s"


def parse_link(text: str) -> Link:
    """A link as the command line has it: `none`, `10gbit`, `100mbit+50ms`, `50ms`.

    Raises:
        ValueError: it is none.
    """
    if text == "none":
        return Link()
    found = re.fullmatch(rf"(?:({NUMBER})(kbit|mbit|gbit))?\+?(?:({NUMBER})ms)?", text)
    rate, unit, delay = found.groups() if found else (None, None, None)
    if not (rate or delay) or ((rate and delay) and "+" not in text) or text[0] == "+" or text[-1] == "+":
        raise ValueError(f"{text}: no link")
    link = Link(float(rate) * UNITS[unit] if rate and unit else None, float(delay) / 1e3 if delay else 0.0)
    if link.rate == 0:
        raise ValueError(f"{text}: no link")
    return link


def shaping_commands(device: str, link: Link, has_netem: bool) -> list[list[str]]:
    """The commands that slow what leaves by a device, which has no such setting yet; a quarter of the delay is its."""
    commands, place = [], ["root", "handle", "1:"]
    add = ["tc", "qdisc", "add", "dev", device]
    if link.round_trip and has_netem:
        commands.append(
            [*add, *place, "netem", "delay", f"{link.round_trip / 4 * 1e6:.0f}us", "limit", str(NETEM_FRAMES)]
        )
        place = ["parent", "1:1", "handle", "10:"]
    if link.rate:
        sizes = ["burst", str(link.burst_bytes), "limit", str(link.buffer_bytes)]
        commands.append([*add, *place, "tbf", "rate", f"{link.rate:.0f}bit", *sizes])
    return commands


def find_obstacle(links: Sequence[Link]) -> str:
    """What keeps this process from making such links, in a few words; empty if nothing does."""
    if os.geteuid() != 0:
        return "it needs root, to make networks"
    for program, package in (
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
    ):
        if shutil.which(program) is None:
            return f"{program} is not on PATH (package {package})"
    probed = subprocess.run([*APART, "sh", "-e", "-c", PROBE], capture_output=True, text=True, timeout=60, check=False)
    if probed.returncode:
        said = " ".join(probed.stderr.split()) or f"status {probed.returncode}"
        return f"namespaces with slow links cannot be made here: {said}"
    if any(link.round_trip for link in links) and not find_netem() and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "a link with a delay needs netem in the kernel or /dev/net/tun, and there is neither"
    return ""


def find_netem() -> bool:
    """Whether the kernel can delay packets itself."""
    command = ["unshare", "--net", "sh", "-e", "-c", PROBE_NETEM]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


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


class Network:
    """Hosts m0, m1, ... on one switch. A context manager: nothing of it is left after its block.

    Args:
        num_hosts: without the switch.
        folder: where its files are; empty.
        delay: seconds that each wire takes, by `delayed_wire`; 0: plain wires.
        has_netem: whether delays are netem's.
    """

    def __init__(self, num_hosts: int, folder: Path, delay: float, has_netem: bool) -> None:
        self._addresses = {f"m{number}": f"10.0.0.{number + 11}" for number in range(num_hosts)}
        self._folder, self._delay, self._has_netem = folder, delay, has_netem
        self.agent = folder / "agent"
        self.hosts: list[Host] = []

    def __enter__(self) -> Network:
        with ExitStack() as stack:
            self._make(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def shape(self, link: Link) -> None:
        """From now on the links are like this; what waited at a port is lost."""
        for host in self.hosts:
            for place, device in ((host, DEVICE), (self.switch, host.name)):
                place.do("tc", "qdisc", "del", "dev", device, "root", may_fail=True)
                for command in shaping_commands(device, link, self._has_netem):
                    place.do(*command)

    @property
    def is_long(self) -> bool:
        """Whether its wires have a delay."""
        return self._delay > 0

    def address(self, host: Host) -> str:
        """A host's address."""
        return self._addresses[host.name]

    def on_switch(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on the switch, from which all hosts can be reached."""
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', str(Path.cwd()), *command]
        return [*enter(str(self.switch.pid)), *inside]

    def _make(self, stack: ExitStack) -> None:
        hosts_file = self._folder / "hosts"
        names = "".join(f"{address} {name}\n" for name, address in self._addresses.items())
        hosts_file.write_text(f"127.0.0.1 localhost\n10.0.0.1 {SWITCH}\n{names}", encoding="ascii")
        self.switch = self._open(stack, SWITCH, hosts_file)
        self.switch.do("ip", "link", "add", "bridge", "type", "bridge")
        self.switch.do("ip", "address", "add", "10.0.0.1/24", "dev", "bridge")
        self.switch.do("ip", "link", "set", "bridge", "up")
        self.hosts = [self._open(stack, name, hosts_file) for name in self._addresses]
        if self._delay:
            self._start_delayed_wires(stack)
        for host in self.hosts:
            if not self._delay:
                peer = ["peer", "name", host.name, "netns", str(self.switch.pid)]
                host.do("ip", "link", "add", DEVICE, "type", "veth", *peer)
                host.do("ip", "link", "set", DEVICE, "gso_max_size", str(FRAME_BYTES))
            host.do("ip", "address", "add", f"{self.address(host)}/24", "dev", DEVICE)
            host.do("ip", "link", "set", DEVICE, "up")
            # Not every machine lets a network of its own choose in /proc/sys.
            host.do("ip", "route", "replace", "10.0.0.0/24", "dev", DEVICE, "congctl", CONGESTION_CONTROL)
            self.switch.do("ip", "link", "set", host.name, "master", "bridge", "up")
        self._write_agent()

    def _open(self, stack: ExitStack, name: str, hosts_file: Path) -> Host:
        host = Host(name, hosts_file)
        stack.callback(host.close)
        (self._folder / f"{name}.pid").write_text(str(host.pid), encoding="ascii")
        return host

    def _start_delayed_wires(self, stack: ExitStack) -> None:
        pairs = [f"{host.pid}:{DEVICE}={self.switch.pid}:{host.name}" for host in self.hosts]
        command = [sys.executable, str(Path(__file__).with_name("delayed_wire.py")), str(self._delay), *pairs]
        wires = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        stack.callback(wires.communicate)
        assert wires.stdout is not None
        if wires.stdout.readline() != "ready\n":
            raise NetworkError("the delayed wires cannot be made, as said above")

    def _write_agent(self) -> None:
        """What Open MPI starts its daemons by, in place of ssh."""
        pid = f'"$(cat {shlex.quote(str(self._folder))}/$host.pid)"'
        command = " ".join(enter(pid))
        self.agent.write_text(AGENT.format(enter=command, folder=shlex.quote(str(Path.cwd()))), encoding="utf-8")
        self.agent.chmod(0o700)


def enter(pid: str) -> list[str]:
    """The words in front of a command that is to run in the host of a process."""
    return ["nsenter", *(f"--{option}=/proc/{pid}/ns/{file}" for option, file in NAMESPACES.items())]


NAMESPACES = {"mount": "mnt", "uts": "uts", "net": "net"}


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
