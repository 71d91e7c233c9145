"""`wash-hpc doctor`: what this machine can do, each part tried for real. Under mpirun all ranks try together."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

import wash_hpc
from wash_hpc.errors import MissingDependencyError
from wash_hpc.parallel.connections import describe_connections, find_fabric, read_connections, start_and_listen
from wash_hpc.parallel.gpus import View, count_device_files, describe_views, look_at_gpus, number_of_gpu, place_of
from wash_hpc.parallel.placement import Seat, describe_cores, find_crowding
from wash_hpc.slurm import SlurmJob, current_job, find_lone_task, find_misfits

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
        notes: lines below it, warnings among them; those of the root are said.
        gpus: as this rank sees them; of the GPU's finding alone.
    """

    state: State
    text: str
    notes: tuple[str, ...] = ()
    gpus: View | None = None


def examine(say: Callable[[str], object]) -> int:
    """Try every part, and say at once what came of it. Collective over MPI_COMM_WORLD where MPI is there.

    Args:
        say: takes lines; called on the root only.

    Returns:
        0, or 1 where something is broken on any rank.
    """
    comm: Comm | None = None
    try:
        comm, connections = start_and_listen()
    except MissingDependencyError as error:
        mpi = Finding("missing", str(error))
    alone = None if comm is None else find_lone_task(os.environ, comm.size)
    job = current_job()
    if alone and job is not None and job.task > 0:  # task 0 says all of this; the others have no MPI to tell it theirs
        return 0  # a failure here would have srun --kill-on-bad-exit end task 0, too
    if comm is None:
        checks = _list_checks(mpi)
    elif alone:
        checks = _list_checks(Finding("broken", alone))
    else:
        checks = _list_checks_of_ranks(comm, connections)
    broken = False
    for part, check in checks:
        finding = _try(check)
        by_rank = [finding] if comm is None else comm.allgather(finding)
        broken = broken or any(finding.state == "broken" for finding in by_rank)
        if comm is None or comm.rank == 0:
            say("\n".join(_in_lines(part, by_rank)))
    return int(broken)


def _list_checks(mpi: Finding) -> list[tuple[str, Callable[[], Finding]]]:
    """What a process can try without the others, in the order of trying."""
    return [
        ("python", _examine_python),
        ("MPI", lambda: mpi),
        ("Slurm", lambda: _examine_slurm([current_job()], None)),
        ("GPU", lambda: _examine_gpu(0, 1)),
        ("DALI", _examine_dali),
        ("HDF5", _examine_hdf5),
    ]


def _list_checks_of_ranks(comm: Comm, connections: str) -> list[tuple[str, Callable[[], Finding]]]:
    """What ranks try together. Collective over `comm`, as is each of the checks."""
    from wash_hpc.agreement import describe_processor, describe_software, require_same_facts
    from wash_hpc.parallel import selftest

    seats = selftest.take_seats(comm)
    neighbours = [rank for rank, seat in enumerate(seats) if seat.host == seats[comm.rank].host]

    def examine_mpi() -> Finding:
        way, warnings = describe_connections(read_connections(connections), find_fabric())
        return Finding("ok", selftest.try_mpi(seats) + (f"; {way}" if way else ""), _as_warnings(warnings))

    def examine_ways() -> Finding:
        gpu = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
        text, lines = selftest.try_ways(comm, seats, gpu)
        return Finding("ok", text, tuple(lines))

    def examine_versions() -> Finding:
        processor = describe_processor(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        differing = require_same_facts(comm, describe_software(), processor)
        notes = _as_warnings([f"{differing}: they may round otherwise"] if differing else [])
        return Finding("ok", "the same on all ranks, the code of wash_hpc among them", notes)

    return [
        ("python", _examine_python),
        ("MPI", examine_mpi),
        ("Slurm", lambda: _examine_slurm(comm.allgather(current_job()), seats)),
        ("cores", lambda: Finding("ok", describe_cores(seats), _as_warnings(find_crowding(seats)))),
        # Before what follows, which is tried on this rank's GPU.
        ("GPU", lambda: _examine_gpu(neighbours.index(comm.rank), len(neighbours))),
        ("exchange", lambda: Finding("ok", selftest.try_exchange(comm))),
        ("messages", examine_ways),
        ("CUDA-MPI", lambda: Finding("ok", selftest.ask_for_device_buffers())),
        ("Horovod", lambda: Finding("ok", selftest.try_horovod(comm))),
        ("DALI", _examine_dali),
        ("HDF5", _examine_hdf5),
        ("versions", examine_versions),  # last: what the others have imported is looked at
    ]


def _as_warnings(sentences: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"warning: {sentence}" for sentence in sentences)


def _try(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except MissingDependencyError as error:
        return Finding("missing", str(error))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a part is what the doctor is asked to say
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Finding("broken", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")


def _in_lines(part: str, by_rank: list[Finding]) -> list[str]:
    """One line a part; ranks that found something else than the root get one of their own; then the notes."""
    lines = [f"{part:<10}{by_rank[0].state:<9}{by_rank[0].text}"]
    for rank, finding in enumerate(by_rank):
        if finding.state != by_rank[0].state:
            lines.append(f"{'':<10}{finding.state:<9}on rank {rank}: {finding.text}")
    views = [finding.gpus for finding in by_rank if finding.gpus is not None]
    # A rank whose GPU is broken has said so, and has no view: the numbers of the others would not be those of ranks.
    notes = by_rank[0].notes + tuple(describe_views(views) if len(views) == len(by_rank) else ())
    return lines + [f"{'':<19}{note}" for note in notes]


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
    job = current_job()
    num_given, num_present = (job.gpus_on_node or 0) if job else 0, count_device_files()
    if not torch.cuda.is_available():
        view = View(place_of(torch.device("cpu")), (), num_given, num_present)
        return Finding("absent", "torch sees none; training runs on the CPU", gpus=view)
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
    return Finding("ok", text, gpus=View(place_of(device), tuple(gpus), num_given, num_present))


def _examine_slurm(jobs: Sequence[SlurmJob | None], seats: Sequence[Seat] | None) -> Finding:
    """Compare what Slurm gave with the ranks.

    Args:
        jobs: as each rank sees it.
        seats: of all ranks; None where MPI is not there or does not see the other tasks.
    """
    known = [job for job in jobs if job is not None]
    if not known:
        return Finding("absent", "not inside a Slurm job")
    job = next((job for job in known if job.num_tasks is not None), known[0])
    text = f"job {job.job_id} on {job.nodes}"
    if seats is None:
        return Finding("ok", text)
    misfits = find_misfits(job, len(seats), len({seat.host for seat in seats}))
    if job.num_tasks == len(seats):
        text += f", {job.num_tasks} task{'s' * (job.num_tasks != 1)} and as many ranks"
    return Finding("ok", text, _as_warnings(misfits))
