"""`wash-hpc doctor`: what this machine can do, each part tried for real. Under mpirun all ranks try together."""

from __future__ import annotations

import platform
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

import wash_hpc
from wash_hpc.errors import MissingDependencyError
from wash_hpc.parallel import start_mpi
from wash_hpc.parallel.gpus import Gpu, Place, describe_gpus, look_at_gpus, number_of_gpu, place_of
from wash_hpc.slurm import current_job

if TYPE_CHECKING:
    from wash_hpc.parallel.world import Comm

State = Literal["ok", "absent", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """What was found out about one part.

    Attributes:
        state: `missing`: not installed; `absent`: this machine has none, which is no fault; `broken`: it is there and
            does not work.
        text: in words.
        place: where this rank would compute; of the GPU's finding alone, where there is one.
        gpus: what this rank has looked at, likewise.
    """

    state: State
    text: str
    place: Place | None = None
    gpus: tuple[Gpu, ...] = ()


def examine() -> tuple[list[str], int]:
    """Try every part. Collective over MPI_COMM_WORLD where MPI is there.

    Returns:
        Lines to print, none on ranks other than the root; and 0, or 1 where something is broken on any rank.
    """
    try:
        comm: Comm | None = start_mpi()
    except MissingDependencyError as error:
        comm, mpi = None, Finding("missing", str(error))
    local_rank, num_local_ranks = (0, 1) if comm is None else _place_on_host(comm)
    gpu = _try(lambda: _examine_gpu(local_rank, num_local_ranks))  # first: what follows is tried on this rank's GPU
    findings = {"python": _try(_examine_python)}
    if comm is None:
        findings["MPI"] = mpi
    else:
        from wash_hpc.parallel import selftest

        findings["MPI"] = _try(lambda: Finding("ok", selftest.try_mpi(comm)))
        findings["exchange"] = _try(lambda: Finding("ok", selftest.try_exchange(comm)))
        findings["CUDA-MPI"] = _try(lambda: Finding("ok", selftest.ask_for_device_buffers()))
        findings["Horovod"] = _try(lambda: Finding("ok", selftest.try_horovod(comm)))
    findings["DALI"] = _try(_examine_dali)
    findings["HDF5"] = _try(_examine_hdf5)
    findings["GPU"] = gpu
    findings["Slurm"] = _try(_examine_slurm)
    everywhere = [findings] if comm is None else comm.allgather(findings)
    broken = any(finding.state == "broken" for ranks in everywhere for finding in ranks.values())
    lines: list[str] = []
    if comm is None or comm.rank == 0:
        for part in findings:
            by_rank = [by_part[part] for by_part in everywhere]
            lines += _in_lines(part, by_rank)
            places = [finding.place for finding in by_rank if finding.place is not None]
            described = describe_gpus([gpu for finding in by_rank for gpu in finding.gpus], places)
            lines += [f"{'':<19}{line}" for line in described]
    return lines, 1 if broken else 0


def _place_on_host(comm: Comm) -> tuple[int, int]:
    """This rank's number among the ranks of its host, and how many these are. Collective over `comm`."""
    from wash_hpc.parallel.world import World

    world = World.open(comm, None)
    return world.local_rank, comm.allgather(world.host).count(world.host)


def _try(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except MissingDependencyError as error:
        return Finding("missing", str(error))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a part is what the doctor is asked to say
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Finding("broken", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")


def _in_lines(part: str, by_rank: list[Finding]) -> list[str]:
    """One line a part; ranks that found something else than the root get one of their own."""
    lines = [f"{part:<10}{by_rank[0].state:<9}{by_rank[0].text}"]
    for rank, finding in enumerate(by_rank):
        if finding.state != by_rank[0].state:
            lines.append(f"{'':<10}{finding.state:<9}on rank {rank}: {finding.text}")
    return lines


def _examine_python() -> Finding:
    text = f"Python {platform.python_version()}, torch {torch.__version__}, wash_hpc {wash_hpc.__version__}"
    return Finding("ok", text)


def _examine_dali() -> Finding:
    from wash_hpc.data.selftest import decode_one_image

    return Finding("ok", decode_one_image())


def _examine_hdf5() -> Finding:
    from wash_hpc.storage.metrics import EvaluationRecord, MetricsWriter, import_h5py, read_metrics

    folder = Path(tempfile.mkdtemp(prefix="wash_hpc-doctor-"))
    try:
        with MetricsWriter(folder, 2, ["layer"], {}) as writer:
            by_member = np.array([0.5, 0.25])
            writer.append_evaluation(EvaluationRecord(1, by_member, 0.5, 0.125, by_member, 0.5, 0.25))
            if read_metrics(folder).soup_accuracy.tolist() != [0.125]:
                raise RuntimeError("a record read while the file is being written is not the one written")
    finally:
        shutil.rmtree(folder)
    h5py = import_h5py()
    return Finding("ok", f"h5py {h5py.version.version}, HDF5 {h5py.version.hdf5_version}, readable while being written")


def _examine_gpu(local_rank: int, num_local_ranks: int) -> Finding:
    """Compute on the GPU that a run would give this rank, and look at that and, beside the others, at the idle ones."""
    if not torch.cuda.is_available():
        return Finding("absent", "torch sees none; training runs on the CPU")
    num_gpus = torch.cuda.device_count()
    device = torch.device("cuda", number_of_gpu(local_rank))
    torch.cuda.set_device(device)
    total = float(torch.ones(1000, device=device).sum())
    if total != 1000.0:
        raise RuntimeError(f"a sum of a thousand ones is {total} on the GPU")
    names = {torch.cuda.get_device_name(number) for number in range(num_gpus)}
    # A GPU in exclusive mode lets one process in: no rank may look at one that is another's.
    gpus = look_at_gpus(range(local_rank, num_gpus, num_local_ranks) or [number_of_gpu(local_rank)])
    text = f"{num_gpus}: {', '.join(sorted(names))}, CUDA {torch.version.cuda}"
    return Finding("ok", text, place_of(device), tuple(gpus))


def _examine_slurm() -> Finding:
    job = current_job()
    if job is None:
        return Finding("absent", "not inside a Slurm job")
    return Finding("ok", f"job {job.job_id} on {job.nodes}")
