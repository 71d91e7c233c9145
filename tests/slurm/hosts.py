"""Hosts of a test cluster that this machine does not have: each is a network and a host name of its own.

Owns the namespaces, the wires between them and what a process in them sees as /etc/hosts. The machine's own network,
mounts and /etc/hosts are not touched: no namespace has a name, so each ends, and takes its wires and its mounts along,
with the last process in it. File system and process ids are the machine's, shared by all hosts.

    node1 eth0 ---- node1 |                     | node2 ---- eth0 node2
                          | bridge of controller |
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

CONTROLLER = "controller"
# These networks end at the bridge, so two clusters may have the same addresses.
ADDRESSES = {CONTROLLER: "10.0.0.1", "node1": "10.0.0.11", "node2": "10.0.0.12"}
INTERFACE = "eth0"
HOSTS_FILE = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())

APART = ["unshare", "--mount", "--uts", "--net"]
PROBE = """\
mount --bind /etc/hosts /etc/hosts
hostname probe
ip link add bridge type bridge
ip link add eth0 type veth peer name node1
ip link set node1 master bridge
"""
ENTER_CONTROLLER = """\
mount --bind "$1" /etc/hosts
hostname "$2"
ip link set lo up
ip link add bridge type bridge
ip address add "$3/24" dev bridge
ip link set bridge up
shift 3
exec "$@"
"""
ENTER_NODE = """\
mount --bind "$1" /etc/hosts
hostname "$2"
ip link set lo up
ip link add eth0 type veth peer name "$2" netns "$4"
nsenter --net="/proc/$4/ns/net" ip link set "$2" master bridge up
ip address add "$3/24" dev eth0
ip link set eth0 up
shift 4
exec "$@"
"""


def find_obstacle() -> str:
    """What keeps this process from making hosts, in the words of the command that failed; empty if nothing does."""
    try:
        probed = subprocess.run(
            [*APART, "sh", "-e", "-c", PROBE], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        return str(error)
    return (probed.stderr.strip() or f"status {probed.returncode}") if probed.returncode else ""


def on_controller(command: Sequence[str], hosts_file: Path) -> list[str]:
    """The command that makes the host of slurmctld, with the bridge, and becomes `command` there."""
    arguments = [str(hosts_file), CONTROLLER, ADDRESSES[CONTROLLER]]
    return [*APART, "sh", "-e", "-c", ENTER_CONTROLLER, "sh", *arguments, *command]


def on_node(node: str, command: Sequence[str], hosts_file: Path, controller: int) -> list[str]:
    """The command that makes the host `node`, wires it to that of the process `controller`, and becomes `command`."""
    arguments = [str(hosts_file), node, ADDRESSES[node], str(controller)]
    return [*APART, "sh", "-e", "-c", ENTER_NODE, "sh", *arguments, *command]


def from_controller(command: Sequence[str], controller: int) -> list[str]:
    """The command that runs `command` in the network of the process `controller`, in the present folder."""
    return ["nsenter", f"--net=/proc/{controller}/ns/net", *command]


def is_apart(pid: int) -> bool:
    """Whether a process has left this machine's network for one of its own."""
    return network_of(pid) != network_of(os.getpid())


def network_of(pid: int) -> str:
    """The name that the kernel gives to the network of a process."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def cut(node: str, controller: int) -> None:
    """Take the wire of a node away, at both ends; no packet that is under way arrives."""
    command = from_controller(["ip", "link", "delete", node], controller)
    subprocess.run(command, capture_output=True, timeout=60, check=True)
