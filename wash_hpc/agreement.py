"""Whether all ranks are alike: their software, code, configuration, parameters and data, and what they compute on.

Owns what is compared and the sentences. One checksum a rank is sent; only where they differ, what they are made of.
"""

from __future__ import annotations

import inspect
import platform
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import nn

import wash_hpc
from wash_hpc.config import Config
from wash_hpc.data import reader_of
from wash_hpc.data.source import Source
from wash_hpc.ensemble.flat import describe_parameters
from wash_hpc.errors import WorldError
from wash_hpc.methods import class_of_method, method_names
from wash_hpc.models import builder_of
from wash_hpc.parallel.placement import list_first, name_ranks
from wash_hpc.parallel.world import Comm, World, mpi_library

Facts = dict[str, str]
"""What is compared, by name, in the order in which it is said."""

_LIBRARIES = {"torchvision": "torchvision", "horovod": "Horovod", "nvidia.dali": "DALI"}
"""Modules that a run may use, by their projects' names; on all ranks or on none."""

_MOST_SAID = 3  # of the facts that differ: one cause may change a hundred parameters


def require_same_software(comm: Comm) -> None:
    """Check that all ranks run the same versions of everything. Collective over `comm`.

    Raises:
        WorldError: on all ranks, naming those that differ from the majority, and in what.
    """
    require_same_facts(comm, describe_software())


def require_alike(config: Config, world: World, model: nn.Module, source: Source, device: torch.device) -> list[str]:
    """Check that all ranks are about to do the same, with the same. Collective over the world.

    Args:
        config: the run's, as this rank knows it.
        world: the ranks.
        model: as this rank has built it.
        source: the images, as this rank has opened them.
        device: this rank's.

    Returns:
        What the user is to be told: hosts that may round otherwise, for which a user may have no remedy.

    Raises:
        WorldError: on all ranks, naming those that differ from the majority, and in what.
    """
    facts = describe_software() | describe_settings() | describe_sources(config, model)
    facts |= {
        f"{section}.{key}": repr(value) for section, keys in asdict(config).items() for key, value in keys.items()
    }
    facts["the number of training images"] = str(source.num_train)
    facts |= {f"parameter {number}": said for number, said in enumerate(describe_parameters(model))}
    differing = require_same_facts(world.comm, facts, describe_processor(device))
    if not differing:
        return []
    if world.layout.num_replicas > 1:
        why = "so that replicas of one member may drift apart; give each member hosts of one kind"
    else:
        why = "so that this run is repeated bit for bit only where each rank is on the same kind of host again"
    return [f"{differing}: they may round otherwise, {why}"]


def require_same_facts(comm: Comm, facts: Mapping[str, str], noted: Mapping[str, str] | None = None) -> str:
    """Check that facts are equal on all ranks; where they are, no more than two checksums are sent.

    Collective over `comm`.

    Args:
        comm: all ranks.
        facts: that have to be equal.
        noted: that may differ.

    Returns:
        How those of `noted` differ, as a sentence without an end; empty where they do not. Equal on all ranks.

    Raises:
        WorldError: on all ranks, naming those that differ from the majority, and in what.
    """
    noted = noted or {}
    digests = comm.allgather((digest_of(repr(facts).encode()), digest_of(repr(noted).encode())))
    if len(set(digests)) == 1:
        return ""
    of_ranks = comm.allgather((dict(facts), dict(noted), socket.gethostname()))
    hosts = [host for _, _, host in of_ranks]
    if said := describe_differences([facts for facts, _, _ in of_ranks], hosts):
        error = WorldError(f"the ranks of this job are not alike: {said}; expected the same on all of them")
        error.agreed = True
        raise error
    return describe_differences([noted for _, noted, _ in of_ranks], hosts)


def describe_differences(of_ranks: Sequence[Mapping[str, str]], hosts: Sequence[str]) -> str:
    """What differs, as in `ranks 2, 3 (node2): torch 2.10.0, the others 2.11.0`; empty where nothing does.

    Args:
        of_ranks: the facts of each rank; one that a rank does not have is `none`.
        hosts: the name of each rank's host; said where there are several.
    """
    names = dict.fromkeys(name for facts in of_ranks for name in facts)
    said = []
    for name in names:
        values = [facts.get(name, "none") for facts in of_ranks]
        if len(set(values)) > 1:
            said.append(_describe_difference(name, values, hosts))
    more = [f"and {len(said) - _MOST_SAID} more"] if len(said) > _MOST_SAID else []
    return "; ".join(said[:_MOST_SAID] + more)


def _describe_difference(name: str, values: Sequence[str], hosts: Sequence[str]) -> str:
    usual = max(values, key=values.count)
    others = "the other" if len(values) == 2 else "the others"
    said = []
    for value in dict.fromkeys(value for value in values if value != usual):
        ranks = [rank for rank, found in enumerate(values) if found == value]
        where = list(dict.fromkeys(hosts[rank] for rank in ranks))
        said.append(f"{name_ranks(ranks)}{f' ({list_first(where)})' if len(set(hosts)) > 1 else ''}: {name} {value}")
    return f"{'; '.join(said)}, {others} {usual}"


def describe_software() -> Facts:
    """Versions of Python, of the libraries that are in use so far, and of the files of this package."""
    facts = {
        "Python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "wash_hpc": wash_hpc.__version__,
        "wash_hpc's code": _digest_of_package(),
        "mpi4py": sys.modules["mpi4py"].__version__,
        "MPI library": mpi_library(),
    }
    used = {name: sys.modules.get(module) for module, name in _LIBRARIES.items()}
    return facts | {name: str(library.__version__) for name, library in used.items() if library is not None}


def describe_settings() -> Facts:
    """What torch was told about arithmetic, by us or by the environment of this rank's host."""
    return {
        "torch's deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "torch's precision of products": torch.get_float32_matmul_precision(),
        "torch's TF32 in convolutions": str(torch.backends.cudnn.allow_tf32),
        "torch's use of oneDNN": str(torch.backends.mkldnn.enabled),
    }


def describe_sources(config: Config, model: nn.Module) -> Facts:
    """Checksums of the files in which the methods, the model, its builder and the reader of the data are written."""
    known = [method.name for method in config.methods if method.name in method_names()]  # evaluation need not know it
    written: dict[str, Callable[..., object]] = {f"method {name}": class_of_method(name) for name in known}
    written[f"model {config.model.name}"] = type(model)
    written[f"what builds model {config.model.name}"] = builder_of(config.model.name)
    if (reader := reader_of(config.data.name)) is not None:
        written[f"data {config.data.name}"] = reader
    return {f"the source of {what}": _digest_of_source(code) for what, code in written.items()}


def describe_processor(device: torch.device) -> Facts:
    """What this rank computes with, as far as it decides how results are rounded."""
    facts = {
        "processor": f"{_processor_name()} with {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        facts |= {"GPU": torch.cuda.get_device_name(device), "cuDNN": str(torch.backends.cudnn.version())}
    return facts


def digest_of(*contents: bytes) -> str:
    """A short checksum."""
    digest = blake2b(digest_size=8)
    for content in contents:
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


@cache
def _digest_of_package() -> str:
    """Of all Python files of this package: two hosts may have two versions of a clone that call themselves the same."""
    folder = Path(wash_hpc.__file__).parent
    files = sorted(folder.rglob("*.py"))
    return digest_of(*(part for file in files for part in (str(file.relative_to(folder)).encode(), file.read_bytes())))


def _digest_of_source(code: Callable[..., object]) -> str:
    """Of the file of a class or function; `unknown` where it was typed or made elsewhere."""
    try:
        return digest_of(Path(inspect.getfile(code)).read_bytes())
    except (OSError, TypeError):
        return "unknown"


def _processor_name() -> str:
    """The processor's model where Linux says it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
