"""A run of `wash-hpc train` whose ranks are on the hosts of a `shaped_network`, read while it goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from private_host import DEVICE, NetworkError
from shaped_network import Network

from wash_hpc.config import Config, dump_config
from wash_hpc.errors import WashError
from wash_hpc.storage.metrics import Metrics, read_metrics
from wash_hpc.storage.run_folder import STOP
from wash_hpc.sweep.launch import ON_ONE_MACHINE

PATIENCE_SECONDS = 300.0  # without a record
POLL_SECONDS = 0.2
# Two ranks that send each other large messages by one TCP connection take turns in Open MPI's rendezvous, so that its
# own choice, which is made of such pairs, takes twice as long as a ring. With a delay each more message counts as well.
RING_BYTES = 2**16
RULES = f"""\
1  # collective
2  # an allreduce
1  # number of ranks
2  # from so many on
2  # sizes
0 0 0 0
{RING_BYTES} 4 0 0  # a ring
"""


class Run:
    """A run of `wash-hpc train`, a member on each host; ended with the block."""

    def __init__(self, network: Network, config: Config, folder: Path) -> None:
        self._network, self._config, self._folder = network, config, folder
        (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")

    def __enter__(self) -> Run:
        hosts = ",".join(f"{host.name}:1" for host in self._network.hosts)
        mpirun = shutil.which("mpirun") or "mpirun"
        launch = [mpirun, "--prtemca", "plm_ssh_agent", str(self._network.agent), "--host", hosts]
        ranks = ["--map-by", "ppr:1:node", "--bind-to", "none", "-n", str(len(self._network.hosts))]
        program = [sys.executable, "-m", "wash_hpc", "train", str(self._folder / "config.yaml")]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._network.on_switch([*launch, *ranks, *program]),
                env=environment(self._folder, len(self._network.hosts), self._network.is_long),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError, subprocess.TimeoutExpired):
            if error is None:
                (self._config.folder / STOP).touch()
                self._process.wait(60)
        with suppress(subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(10)
        self._process.kill()
        self._process.wait()

    def records_after(self, step: int, least: int) -> Metrics:
        """Wait for so many records after a step.

        Raises:
            NetworkError: the run has ended, or there is none for minutes.
        """
        seen, heard = -1, time.monotonic()
        while True:
            metrics = self.read()
            steps = metrics.step if metrics else np.zeros(0, np.int64)
            if metrics and (steps > step).sum() >= least:
                return metrics
            if len(steps) != seen:
                seen, heard = len(steps), time.monotonic()
            if self._process.poll() is not None or time.monotonic() > heard + PATIENCE_SECONDS:
                said = (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip()
                raise NetworkError(f"the run {self._config.method.name} has ended or hangs; it said:\n{said}")
            time.sleep(POLL_SECONDS)

    def read(self) -> Metrics | None:
        """All records so far; None where there is no file yet."""
        try:
            return read_metrics(self._config.folder)
        except WashError:
            return None


def environment(folder: Path, num_ranks: int, is_long: bool) -> dict[str, str]:
    """What ranks on hosts of their own need, that share this machine's cores; what the user has set wins.

    Args:
        folder: for files of the run's own.
        num_ranks: all of them.
        is_long: whether the links have delays.
    """
    rules = folder / "rules"
    rules.write_text(RULES, encoding="ascii")
    on_one_host = ("PRTE_MCA_rmaps", "SLURM_")  # would put all ranks there
    ring = {"use_dynamic_rules": "1", "dynamic_rules_filename": str(rules)}
    wanted = {
        **ON_ONE_MACHINE,
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // num_ranks)),
        **({} if is_long else {f"OMPI_MCA_coll_tuned_{key}": value for key, value in ring.items()}),
        "OMPI_MCA_coll_libnbc_iallreduce_algorithm": "3",  # of gradients: Rabenseifner's
        **os.environ,
        "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]),
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "tcp,self",
        "OMPI_MCA_btl_tcp_if_include": DEVICE,
    }
    return {key: value for key, value in wanted.items() if not key.startswith(on_one_host)}
