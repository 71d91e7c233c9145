"""A Slurm cluster on this machine for the tests: munged, slurmctld and two slurmd, each of them real.

Owns its daemons, their folder and the end of both; the machine's own Slurm, if any, is neither read nor touched. What
is submitted, and what must come of it, is the tests' business. The two nodes are hosts with networks and names of
their own where this process may make such (tests/slurm/hosts.py), and share this host where it may not. On paper they
have more processors than it has, and GPUs, so that the scripts of slurm/ ask for what they ask for on a real cluster.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.slurm import hosts
from tests.slurm.configuration import NODES, clean_environment, configure
from tests.slurm.processes import find_processes, kill_processes, names_of, spool_of, start_guard
from tests.slurm.records import ENDED, UP, Job, parse_records


class ClusterError(AssertionError):
    """The cluster did not do what was asked of it; the message holds the end of every daemon's output."""


@dataclass
class Cluster:
    """The daemons, and what one asks of them.

    Attributes:
        folder: configuration, socket, spools and the daemons' output.
        environment: what a Slurm command needs to find this cluster and no other. All that this cluster starts has it,
            jobs included; it is how its processes are known at the end.
        obstacle: why the two nodes share this host; empty where each is a host of its own.
        daemons: those that were started, by name, in that order.
    """

    folder: Path
    environment: dict[str, str]
    obstacle: str
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def separate_hosts(self) -> bool:
        """Whether each node has a network and a host name of its own."""
        return not self.obstacle

    @property
    def form(self) -> str:
        """What the nodes are, in words."""
        return f"two nodes on one host ({self.obstacle})" if self.obstacle else "two hosts"

    @property
    def interface(self) -> str:
        """The network between the nodes, as `OMPI_MCA_btl_tcp_if_include` wants it."""
        return hosts.INTERFACE if self.separate_hosts else "lo"

    def run(
        self,
        script: Path | None,
        arguments: Sequence[str] = (),
        *,
        options: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        seconds: float,
    ) -> Job:
        """`submit`, then `wait_for` its end."""
        return self.wait_for(self.submit(script, arguments, options=options, settings=settings), seconds)

    def submit(
        self,
        script: Path | None,
        arguments: Sequence[str] = (),
        *,
        options: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> str:
        """`sbatch OPTIONS SCRIPT ARGUMENTS` in the present folder.

        Args:
            script: the batch script; None where the options have `--wrap=COMMAND`.
            arguments: its arguments.
            options: of sbatch.
            settings: environment variables that the job gets besides ours.

        Returns:
            The job's id.

        Raises:
            ClusterError: Slurm refused the job.
        """
        words = [] if script is None else [str(script), *arguments]
        command = ["sbatch", "--parsable", f"--output={self.folder}/job-%j.log", *options, *words]
        return self.ask(command, {**self.environment, **(settings or {})}).strip()

    def wait_for(self, job_id: str, seconds: float) -> Job:
        """Wait for the end of a job, or of one task of an array (`ID_TASK`).

        Raises:
            ClusterError: it took longer and was cancelled, or Slurm lost a daemon.
        """
        return self.wait_for_tasks(job_id, seconds)[0]

    def wait_for_tasks(self, job_id: str, seconds: float) -> list[Job]:
        """As `wait_for`, for every task of a job array, by their numbers."""
        try:
            self.wait_until(f"end of job {job_id}", lambda: ENDED.issuperset(self.states(job_id)), seconds)
        except ClusterError as error:
            self.try_to(["scancel", job_id])
            raise ClusterError(f"{error}\n--- job {job_id}:\n{self.log(job_id)}") from error
        return [
            Job(record["JobState"], record["ExitCode"], int(record["Restarts"]), _read(Path(record["StdOut"])))
            for record in self.describe_tasks(job_id)
        ]

    def describe(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says of a job, or of one task of an array (`ID_TASK`), by key."""
        return self.describe_tasks(job_id)[0]

    def describe_tasks(self, job_id: str) -> list[dict[str, str]]:
        """What it says of each task of an array; tasks that wait may share one record, with `ArrayTaskId=2-5`."""
        records = parse_records(self.ask(["scontrol", "show", "job", job_id]))
        return sorted(records, key=lambda record: int(re.split(r"\D", record.get("ArrayTaskId", "0"))[0]))

    def states(self, job_id: str) -> list[str]:
        """PENDING, RUNNING, COMPLETED ... of a job: one word, or one for each record of an array."""
        return [record["JobState"] for record in self.describe_tasks(job_id)]

    def log(self, job_id: str) -> str:
        """What a job has written so far; of an array, one task after the other."""
        return "".join(_read(Path(record["StdOut"])) for record in self.describe_tasks(job_id))

    def wait_for_process(self, command: str, node: str) -> None:
        """Wait until a process of this name (of which Linux keeps 15 letters) runs on a node.

        A job is RUNNING before its srun has started anything. A signal to an srun that is about to may be lost.
        """
        self.wait_until(f"{command} on {node}", lambda: command in names_of(find_processes(self.folder, node)))

    def signal(self, job_id: str, name: str) -> None:
        """Send a signal (such as USR2) to the batch script alone, as `--signal=B:NAME@SECONDS` does in time.

        Slurm looks at time limits twice a minute: `--time=1 --signal=B:USR2@30` fires after 28 s here.
        """
        self.ask(["scancel", f"--signal={name}", "--batch", job_id])

    def cancel(self, job_id: str) -> None:
        """`scancel`: the job gets SIGTERM and, two seconds later, SIGKILL."""
        self.ask(["scancel", job_id])

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        command = ["slurmctld", "-D"]
        if self.separate_hosts:
            command = hosts.on_controller(command, self.folder / "hosts")
        self.start("slurmctld", command)

        def answers() -> bool:
            # Before it is apart, the question would go to this machine's own network.
            there = not self.separate_hosts or hosts.is_apart(self._controller)
            return there and self.try_to(["scontrol", "ping"]).returncode == 0

        self.wait_until("answer of slurmctld", answers)

    def kill_node(self, node: str) -> None:
        """A power cut: the wire goes first, where there is one, then all processes of the node by SIGKILL.

        Slurm notices within half a minute; until then, and until `start_node`, what others wait for does not come.
        """
        if self.separate_hosts:
            hosts.cut(node, self._controller)
        kill_processes(lambda: find_processes(self.folder, node))
        self.daemons.pop(f"slurmd-{node}").wait()

    def start_node(self, node: str) -> None:
        """Start a node, for the first time or after `kill_node`, and wait until Slurm may use it."""
        started = datetime.now().replace(microsecond=0)
        command = ["slurmd", "-D", "-N", node]
        if self.separate_hosts:
            command = hosts.on_node(node, command, self.folder / "hosts", self._controller)
        environment = {**self.environment, "WASH_TEST_NODE": node}
        self.start(f"slurmd-{node}", command, env=environment, cwd=spool_of(self.folder, node))

        def is_up() -> bool:
            record = self.describe_node(node)
            since = record["SlurmdStartTime"]
            return since != "None" and datetime.fromisoformat(since) >= started and record["State"] in UP

        self.wait_until(f"{node} up", is_up)

    def hide(self, node: str, folder: Path) -> None:
        """Put an empty file system over a folder, for the processes of one node; where nodes are hosts of their own."""
        where = f"--mount=/proc/{self.daemons[f'slurmd-{node}'].pid}/ns/mnt"
        subprocess.run(["nsenter", where, "mount", "-t", "tmpfs", "none", str(folder)], timeout=60, check=True)

    def describe_node(self, node: str) -> dict[str, str]:
        """What `scontrol show node` says, by key."""
        return parse_records(self.ask(["scontrol", "show", "node", node]))[0]

    def ask(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Run a Slurm command and return what it prints; where it fails, a `ClusterError` in its own words."""
        done = self.try_to(command, environment)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}\n{self.logs()}")
        return done.stdout

    def try_to(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a Slurm command, whatever comes of it."""
        given = self.environment if environment is None else environment
        where = hosts.from_controller(command, self._controller) if self.separate_hosts else command
        return subprocess.run(where, env=given, capture_output=True, text=True, timeout=60, check=False)

    def start(self, name: str, command: Sequence[str], **more: Any) -> None:
        """Start a daemon in the foreground; what it says goes to NAME.log. `more` is for `Popen`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                **({"env": self.environment} | more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, what: str, is_so: Callable[[], bool], seconds: float = 180) -> None:
        """Wait for `is_so`; a `ClusterError` when a daemon ends by itself or the time is over."""
        deadline = time.monotonic() + seconds
        while not is_so():
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    raise ClusterError(f"{name} ended with status {daemon.returncode}\n{self.logs()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"no {what} after {seconds} s\n{self.logs()}")
            time.sleep(0.25)

    def logs(self) -> str:
        """The end of what each daemon has said."""
        return "\n".join(f"--- {name}:\n{_read(self.folder / f'{name}.log')[-4000:]}" for name in self.daemons)

    def stop(self) -> None:
        """End every job, every daemon, and whatever they have left; signals processes of this cluster only."""
        try:
            if "slurmctld" in self.daemons and self.daemons["slurmctld"].poll() is None:
                self._cancel_jobs()
        finally:
            for daemon in reversed(self.daemons.values()):
                _end(daemon)
            kill_processes(lambda: find_processes(self.folder))

    @property
    def _controller(self) -> int:
        return self.daemons["slurmctld"].pid

    def _cancel_jobs(self) -> None:
        """Cancel what is queued or runs, and give it time to end; what does not is killed with the rest."""
        self.try_to(["scancel", f"--user={os.getuid()}"])
        deadline = time.monotonic() + 20
        while self.try_to(["squeue", "--noheader"]).stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.25)


@contextmanager
def running_cluster(*, separate_hosts: bool = True) -> Iterator[Cluster]:
    """A cluster whose two nodes are idle; it is gone, with its jobs and its folder, when the block is left.

    Args:
        separate_hosts: make each node a host of its own, where this process may; `Cluster.separate_hosts` says which
            it became.

    Raises:
        ClusterError: a daemon did not start.
    """
    obstacle = hosts.find_obstacle() if separate_hosts else "as asked"
    # Not pytest's folder: a socket's path has at most 107 characters, and munge wants one that every user may enter.
    folder = Path(tempfile.mkdtemp(prefix="wash-slurm-"))
    folder.chmod(0o755)
    guard = start_guard(folder)
    cluster = Cluster(folder, clean_environment() | {"SLURM_CONF": str(folder / "slurm.conf")}, obstacle)
    try:
        configure(folder, separate_hosts=not obstacle)
        _start_daemons(cluster)
        yield cluster
    finally:
        try:
            cluster.stop()
        finally:
            guard.communicate()


def _start_daemons(cluster: Cluster) -> None:
    folder = cluster.folder
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    cluster.start("munged", ["munged", "--foreground", *options])
    cluster.wait_until("socket of munged", (folder / "munge.socket").is_socket)
    cluster.start_controller()
    for node in NODES:
        cluster.start_node(node)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else f"({file.name} was not written)"
