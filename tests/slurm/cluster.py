"""A Slurm cluster on this machine for the tests: munged, slurmctld and two slurmd, each of them real.

Owns its daemons, their folder and the end of both; the machine's own Slurm, if any, is neither read nor touched. What
is submitted, and what must come of it, is the tests' business. The two nodes share this host. On paper they have more
processors than it has, and GPUs, so that the scripts of slurm/ ask for what they ask for on a real cluster.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("node1", "node2")
# Slurm wants a device file for each GPU of a node; nothing opens these.
GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}

SLURM_CONF = """\
ClusterName=wash
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=2
ReturnToService=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 Gres=gpu:{num_gpus}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 Gres=gpu:{num_gpus}
PartitionName=batch Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""
GRES_CONF = "".join(f"NodeName=node[1-2] Name=gpu File={device}\n" for device in GPUS)


class ClusterError(AssertionError):
    """The cluster did not do what was asked of it; the message holds the end of every daemon's output."""


@dataclass(frozen=True)
class Job:
    """A job that has ended.

    Attributes:
        state: such as COMPLETED or FAILED.
        exit_code: of the batch script, as Slurm writes it: exit status, colon, signal.
        log: what it wrote.
    """

    state: str
    exit_code: str
    log: str


@dataclass
class Cluster:
    """The daemons, and what one asks of them.

    Attributes:
        folder: configuration, socket, spools and the daemons' output.
        environment: what a Slurm command needs to find this cluster and no other. All that this cluster starts has it,
            jobs included; it is how its processes are known at the end.
        daemons: those that were started, by name, in that order.
    """

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(
        self,
        script: Path,
        arguments: Sequence[str],
        *,
        options: Sequence[str],
        settings: Mapping[str, str],
        seconds: float,
    ) -> Job:
        """`sbatch OPTIONS SCRIPT ARGUMENTS` in the present folder, and wait for its end.

        Args:
            script: the batch script.
            arguments: its arguments.
            options: of sbatch.
            settings: environment variables that the job gets besides ours.
            seconds: a job that takes longer is cancelled.

        Raises:
            ClusterError: Slurm refused the job, lost a daemon, or the job took too long.
        """
        log = self.folder / f"job-{time.monotonic_ns()}.log"
        command = ["sbatch", "--parsable", f"--output={log}", *options, str(script), *arguments]
        job_id = self.ask(command, {**self.environment, **settings}).strip()
        try:
            self.wait_until(f"end of job {job_id}", lambda: self.describe(job_id)["JobState"] in ENDED, seconds)
        except ClusterError as error:
            self.try_to(["scancel", job_id])
            raise ClusterError(f"{error}\n--- job {job_id}:\n{_read(log)}") from error
        job = self.describe(job_id)
        return Job(job["JobState"], job["ExitCode"], _read(log))

    def describe(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says, by key."""
        words = self.ask(["scontrol", "--oneliner", "show", "job", job_id]).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

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
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a daemon in the foreground; what it says goes to NAME.log."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, what: str, is_so: Callable[[], bool], seconds: float = 60) -> None:
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
            kill_processes(self.folder)

    def _cancel_jobs(self) -> None:
        """Cancel what is queued or runs, and give it time to end; what does not is killed with the rest."""
        self.try_to(["scancel", f"--user={os.getuid()}"])
        deadline = time.monotonic() + 20
        while self.try_to(["squeue", "--noheader"]).stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.25)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster whose two nodes are idle; it is gone, with its jobs and its folder, when the block is left.

    Raises:
        ClusterError: a daemon did not start.
    """
    # Not pytest's folder: a socket's path has at most 107 characters, and munge wants one that every user may enter.
    folder = Path(tempfile.mkdtemp(prefix="wash-slurm-"))
    folder.chmod(0o755)
    # Tests that are killed end nothing themselves. This process does it for them when its standard input, which only
    # they hold open, is closed.
    guard = subprocess.Popen([sys.executable, __file__, folder], stdin=subprocess.PIPE, start_new_session=True)
    cluster = Cluster(folder, _clean_environment() | {"SLURM_CONF": str(folder / "slurm.conf")})
    try:
        _configure(folder)
        _start_daemons(cluster)
        yield cluster
    finally:
        try:
            cluster.stop()
        finally:
            guard.communicate()


def find_processes(folder: Path) -> list[int]:
    """Everything that runs with the slurm.conf of a cluster's folder: daemons, job steps, ranks."""
    mark = f"SLURM_CONF={folder / 'slurm.conf'}".encode()
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if mark in _environment_of(pid)]


def kill_processes(folder: Path) -> None:
    """Kill them, until there are none (one may start another meanwhile) or 10 seconds are over."""
    deadline = time.monotonic() + 10
    while (pids := find_processes(folder)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _clean_environment() -> dict[str, str]:
    """Ours, without what would tell Slurm or mpirun of another job, or of none."""
    # PRTE_MCA_rmaps: what tools/mpi_env.sh sets for runs without Slurm would put all ranks of a job on its first node.
    foreign = ("PRTE_MCA_rmaps", "SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SCANCEL_", "SQUEUE_", "SINFO_")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}


def _configure(folder: Path) -> None:
    """Write slurm.conf, a key for munge, and what they refer to."""
    user = pwd.getpwuid(os.getuid()).pw_name
    host = socket.gethostname().split(".")[0]
    conf = SLURM_CONF.format(folder=folder, user=user, host=host, ports=_free_ports(3), num_gpus=len(GPUS))
    (folder / "slurm.conf").write_text(conf)
    (folder / "gres.conf").write_text(GRES_CONF)
    for name in ("state", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir()
    (folder / "munge.key").touch(0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))


def _start_daemons(cluster: Cluster) -> None:
    folder = cluster.folder
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    cluster.start("munged", ["munged", "--foreground", *options])
    cluster.wait_until("socket of munged", (folder / "munge.socket").is_socket)
    cluster.start("slurmctld", ["slurmctld", "-D"])
    for node in NODES:
        cluster.start(f"slurmd-{node}", ["slurmd", "-D", "-N", node])
    ask_states = ["sinfo", "--noheader", "--Node", "--format=%T"]
    cluster.wait_until("idle nodes", lambda: cluster.try_to(ask_states).stdout.split() == ["idle"] * len(NODES))


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, outside the range that the kernel gives to outgoing connections."""
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                ports.append(port)
        if len(ports) == count:
            break
    return ports


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return []


def _read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else f"({file.name} was not written)"


def _guard(folder: Path) -> None:
    """Wait for the end of the tests, then leave nothing of their cluster."""
    sys.stdin.read()
    kill_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
