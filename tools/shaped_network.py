"""Hosts of one machine (`private_host`) on one switch, and links between them that are slow on purpose. Linux, root.

    m0 eth0 ---- m0 |                  | m1 ---- eth0 m1
                    | bridge of switch |

Rates are the kernel's (tbf at both ends of each wire, so that a host neither sends nor receives faster), delays too
where it has netem, else those of `delayed_wire`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from private_host import APART, DEVICE, Host, NetworkError, enter
from slow_link import Link, shaping_commands

SWITCH = "switch"
FRAME_BYTES = 16_384  # that TCP hands over at a time; where that is more than a burst, tbf cuts it
CONGESTION_CONTROL = "cubic"  # as Linux has it; some virtual machines have another

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


def find_obstacle(links: Sequence[Link]) -> str:
    """What keeps this process from making such links, in a few words; empty if nothing does."""
    if os.geteuid() != 0:
        return "it needs root, to make networks"
    for program, package in PROGRAMS.items():
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
