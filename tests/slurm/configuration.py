"""What the daemons of a test cluster read: slurm.conf and its companions, and an environment without another Slurm."""

from __future__ import annotations

import os
import pwd
import random
import socket
from pathlib import Path

from tests.slurm import hosts
from tests.slurm.processes import spool_of

NODES = ("node1", "node2")
# Slurm wants a device file for each GPU of a node; nothing opens these.
GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
# cred_expire: a requeued job waits as long, by default two minutes, before it starts again. SlurmdTimeout: so long a
# node may be silent before its jobs are requeued. MinJobAge: the tests ask for jobs that ended long ago.
SLURM_CONF = """\
ClusterName=wash
SlurmctldHost={controller}
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
TmpFS={folder}/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
SlurmdParameters=config_overrides
GresTypes=gpu
JobRequeue=1
KillWait=2
MinJobAge=3600
ReturnToService=2
SlurmdTimeout=15
NodeName=node1 {addresses[0]} Port={ports[1]} CPUs=64 Gres=gpu:{num_gpus}
NodeName=node2 {addresses[1]} Port={ports[2]} CPUs=64 Gres=gpu:{num_gpus}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=batch Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP GraceTime=15
PartitionName=urgent Nodes=node[1-2] MaxTime=INFINITE State=UP PriorityTier=10
"""
GRES_CONF = "".join(f"NodeName=node[1-2] Name=gpu File={device}\n" for device in GPUS)


def clean_environment() -> dict[str, str]:
    """Ours, without what would tell Slurm or mpirun of another job, or of none."""
    # PRTE_MCA_rmaps: what tools/mpi_env.sh sets for runs without Slurm would put all ranks of a job on its first node.
    foreign = ("PRTE_MCA_rmaps", "SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SCANCEL_", "SQUEUE_", "SINFO_")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}


def configure(folder: Path, *, separate_hosts: bool) -> None:
    """Write slurm.conf, a key for munge, and what they refer to."""
    if separate_hosts:
        controller = f"{hosts.CONTROLLER}({hosts.ADDRESSES[hosts.CONTROLLER]})"
        addresses = [f"NodeHostname={node} NodeAddr={hosts.ADDRESSES[node]}" for node in NODES]
        (folder / "hosts").write_text(hosts.HOSTS_FILE)
    else:
        host = socket.gethostname().split(".")[0]
        controller = f"{host}(127.0.0.1)"
        addresses = [f"NodeHostname={host} NodeAddr=127.0.0.1"] * len(NODES)
    conf = SLURM_CONF.format(
        folder=folder,
        user=pwd.getpwuid(os.getuid()).pw_name,
        controller=controller,
        addresses=addresses,
        ports=_free_ports(3),
        num_gpus=len(GPUS),
    )
    (folder / "slurm.conf").write_text(conf)
    (folder / "gres.conf").write_text(GRES_CONF)
    for name in ("state", *(f"tmp.{node}" for node in NODES)):
        (folder / name).mkdir()
    for node in NODES:
        spool_of(folder, node).mkdir()
    (folder / "munge.key").touch(0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))


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
