#!/usr/bin/env python3
"""What an exchange costs beside the least that it could cost, measured side by side in one run; `--help` says how.

The floor is what no implementation can avoid: plain torch and mpi4py calls on buffers that are there already, one
index_select of the moved values, one Alltoallv, one index_copy_. Ours is `Wash.after_step`, all of it. Before each
timing all ranks pause for as long as a step takes, in which the next draw is made (cores are free meanwhile, as beside
a GPU), and meet at a barrier; what counts is the slowest rank of a round, and of the rounds the median. Ours and the
floor take turns at going first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from bench_common import (
    WARM_UP,
    Figures,
    Ranks,
    describe_machine,
    in_lines,
    read_peak,
    reset_peak,
    seconds_of,
    start_ranks,
    time_calls,
)
from bench_rivals import Floor, MaskAverage, draw_densely

from wash_hpc.config import Config, load_config
from wash_hpc.ensemble.flat import Flat
from wash_hpc.methods.drawing import make_drawer
from wash_hpc.models import build_model
from wash_hpc.shuffle.draw import Draw, Drawer
from wash_hpc.shuffle.plan import make_plan

DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> int:
    """Run the benchmark; as a user's process it starts mpirun, as a rank it measures."""
    arguments = parse()
    if arguments.rank:
        measure_ranks(arguments)
        return 0
    figures: Figures = {"machine": describe_machine(arguments.members, arguments.device), **measure_draw(arguments)}
    figures |= start_ranks(arguments.members, __file__, [*sys.argv[1:], "--rank"])
    figures["dense_draw_over_ours"] = figures["dense_draw_and_plan_seconds"] / figures["draw_and_plan_seconds"]
    print(json.dumps(figures) if arguments.json else in_lines(figures))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--members", type=int, default=4, help="ranks, one member each (default 4)")
    parser.add_argument("--model", default="torchvision.resnet50", help="any of `wash-hpc train --list`")
    parser.add_argument("--p", type=float, default=0.05, help="base probability (default 0.05)")
    parser.add_argument("--schedule", default="decreasing", choices=["decreasing", "constant", "increasing"])
    parser.add_argument("--dtype", default="fp32", choices=DTYPES, help="of the members' parameters")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds, 20 or more (default 30)")
    parser.add_argument("--step-seconds", type=float, default=0.05, help="length of a step (default 0.05)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.members < 2 or arguments.rounds < 20 or not 0 < arguments.p <= 1 or arguments.step_seconds < 0:
        parser.error(
            "expected --members of 2 or more, --rounds of 20 or more, --p in (0, 1], --step-seconds of 0 or more"
        )
    return arguments


def make_config(arguments: argparse.Namespace, *more: str) -> Config:
    """A configuration of WASH as asked for."""
    method = [f"method.p={arguments.p}", f"method.schedule={arguments.schedule}"]
    return load_config(None, ["method.name=wash", f"model.name={arguments.model}", *method, *more])


def make_flat(arguments: argparse.Namespace, device: str) -> Flat:
    """The model's flat parameters, for images of ImageNet's size, or of CIFAR's for networks made for those."""
    torch.manual_seed(0)
    side = 224 if arguments.model.startswith("torchvision.") else 32
    model = build_model(arguments.model, (3, side, side), 1000)
    return Flat(model.to(device, DTYPES[arguments.dtype]))


# Draw and plan: one process, one core.


def measure_draw(arguments: argparse.Namespace) -> Figures:
    """Seconds of a draw and its plan, ours and the dense way, and the memory that ours takes meanwhile."""
    torch.set_num_threads(1)
    flat = make_flat(arguments, "cpu")
    drawer = make_drawer(make_config(arguments), flat, arguments.members)
    ours = seconds_of_draws(drawer.draw, arguments.rounds)
    dense = seconds_of_draws(partial(draw_densely, drawer), arguments.rounds)
    by_size = {}
    for size in (10**6, 10**7, 10**8):  # the same number picked among more and more parameters
        sparse = Drawer(0, arguments.members, [size], np.array([10_000 / size]))
        by_size[size] = median(seconds_of_draws(sparse.draw, 20))
    tracemalloc.start()
    make_plan(drawer.draw(0), 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "model": arguments.model,
        "num_parameters": flat.values.numel(),
        "members": arguments.members,
        "p": arguments.p,
        "schedule": arguments.schedule,
        "dtype": arguments.dtype,
        "rounds": arguments.rounds,
        "step_seconds": arguments.step_seconds,
        "expected_picked": drawer.expected_picked,
        "draw_and_plan_seconds": median(ours),
        "dense_draw_and_plan_seconds": median(dense),
        "draw_and_plan_peak_bytes": peak,
        "seconds_to_pick_10000_by_parameters": by_size,
    }


def seconds_of_draws(draw: Callable[[int], Draw], num_draws: int) -> list[float]:
    """Seconds of each of so many draws with their plans."""

    def draw_and_plan(step: int) -> None:
        make_plan(draw(step), 1)

    return [seconds_of(partial(draw_and_plan, step)) for step in range(num_draws)]


# The exchange: this part runs on every rank.


def measure_ranks(arguments: argparse.Namespace) -> None:
    """All that needs ranks; rank 0 prints one line of JSON."""
    from wash_hpc.parallel import start_mpi
    from wash_hpc.parallel.world import World

    torch.set_num_threads(1)
    world = World.open(start_mpi(), None)
    ranks = Ranks(world, arguments.step_seconds, arguments.device == "cuda")
    device = "cpu"
    if arguments.device == "cuda":
        torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
        device = f"cuda:{torch.cuda.current_device()}"
    flat = make_flat(arguments, device)
    drawer = make_drawer(make_config(arguments), flat, world.layout.num_members)
    floor = Floor(world.exchange_comm, flat.values, int(2 * drawer.most_expected_moved) + 100)
    figures = compare_with_floor(arguments, ranks, flat, drawer, floor)
    figures |= compare_with_masks(arguments, ranks, flat, drawer)
    figures |= measure_overlap(arguments, ranks, flat, drawer)
    figures |= measure_memory(ranks, flat, drawer)
    if world.is_root:
        print(json.dumps(figures))


def make_wash(arguments: argparse.Namespace, ranks: Ranks, flat: Flat) -> Any:
    """The method as a run has it; of a run it needs the configuration, the ranks and the values alone."""
    from wash_hpc.methods import Context, make_method

    nothing: Any = None
    return make_method(Context(make_config(arguments), ranks.world, nothing, nothing, flat, nothing, 10**9, 10**9))


def compare_with_floor(
    arguments: argparse.Namespace, ranks: Ranks, flat: Flat, drawer: Drawer, floor: Floor
) -> Figures:
    """Ours and the floor in turns, and bytes counted where MPI is called."""
    method: Any = make_wash(arguments, ranks, flat)
    counted = count_bytes(method)
    waits = time_calls(method._ahead, "take")
    ours, least = [], []
    for step in range(1, arguments.rounds + WARM_UP + 1):
        prepared = floor.prepare(drawer.draw(10**6 + step))

        def do_ours(step: int = step) -> None:
            ours.append(ranks.time(lambda: method.after_step(step)))

        def do_floor(prepared: tuple[Any, ...] = prepared) -> None:
            least.append(ranks.time(lambda: floor(prepared)))

        for turn in (do_ours, do_floor) if step % 2 else (do_floor, do_ours):
            turn()
    method.finish()
    item, peers = flat.values.element_size(), ranks.world.layout.num_members - 1
    sent = [num_bytes - peers * item for num_bytes in counted]
    expected = drawer.most_expected_moved * item
    all_sent = ranks.world.comm.allreduce(sum(sent)) / len(sent) / ranks.world.comm.size
    # A picked value moves or stays; the variance of their number is at most its mean, whatever the permutations.
    allowed = 3 * item * (drawer.most_expected_moved / len(sent)) ** 0.5
    floor_seconds, wait_seconds = ranks.slowest(least), ranks.slowest(waits)
    return {
        "critical_path_seconds": ranks.slowest(ours),
        "floor_seconds": floor_seconds,
        "critical_path_over_floor": ranks.slowest(ours) / floor_seconds,
        "draw_wait_seconds": wait_seconds,
        "draw_wait_over_floor": wait_seconds / floor_seconds,
        "bytes_sent": all_sent,
        "bytes_predicted": expected,
        "bytes_deviation_allowed": allowed,
        "flag_bytes": peers * item,
        "notes": list(method.notes),
    }


def compare_with_masks(arguments: argparse.Namespace, ranks: Ranks, flat: Flat, drawer: Drawer) -> Figures:
    """The mask-broadcast way: for every tensor a dense mask from rank 0, then the mean of what it picks."""
    tensors = torch.split(flat.values.detach().float().cpu().clone(), [layer.size for layer in flat.layers])
    average = MaskAverage(ranks.world.exchange_comm, tensors, drawer.probabilities)
    seconds: list[float] = []
    ours: list[float] = []
    method = make_wash(arguments, ranks, flat)

    for step in range(1, 21 + WARM_UP):
        ours.append(ranks.time(partial(method.after_step, step)))
        seconds.append(ranks.time(average))
    method.finish()
    return {
        "mask_and_allreduce_seconds": ranks.slowest(seconds),
        "mask_and_allreduce_over_ours": ranks.slowest(seconds) / ranks.slowest(ours),
        "mask_and_allreduce_collectives": 2 * len(tensors),
    }


def measure_overlap(arguments: argparse.Namespace, ranks: Ranks, flat: Flat, drawer: Drawer) -> Figures:
    """How much of the communication is hidden behind a step that computes on the ranks' own cores."""
    from wash_hpc.parallel.exchange import Exchange
    from wash_hpc.parallel.overlap import OverlappedExchange

    exchange = Exchange(ranks.world.exchange_comm.Dup(), flat.storage, drawer.most_expected_moved, flat.values.is_cuda)
    overlapped = OverlappedExchange(exchange)
    alone: list[float] = []
    waits: list[float] = []
    both: list[float] = []
    matrix = torch.randn(256, 256, device=flat.values.device)

    def compute() -> None:
        end = time.perf_counter() + max(arguments.step_seconds, 2 * median(alone or [0.0]))
        while time.perf_counter() < end:
            torch.mm(matrix, matrix)

    for step in range(1, arguments.rounds + WARM_UP + 1):
        transfer = exchange.prepare(make_plan(drawer.draw(step), ranks.world.layout.member))
        exchange.pack(transfer)
        alone.append(ranks.time(partial(exchange.communicate, transfer)))
        ranks.world.comm.Barrier()
        starting = seconds_of(partial(overlapped.start, transfer))
        compute()
        waits.append(seconds_of(overlapped.wait))
        both.append(starting + seconds_of(overlapped.finish))
    overlapped.close()
    communicate, wait = ranks.slowest(alone), ranks.slowest(waits)
    return {
        "communicate_seconds": communicate,
        "overlap_wait_seconds": wait,
        "overlap_hidden_share": 1 - wait / communicate,
        "overlap_critical_path_seconds": ranks.slowest(both),
    }


def measure_memory(ranks: Ranks, flat: Flat, drawer: Drawer) -> Figures:
    """What an exchange needs beside the values: the process's peak while exchanges run, with MPI warm already."""
    from wash_hpc.parallel.exchange import Exchange

    member, item = ranks.world.layout.member, flat.values.element_size()
    staged = flat.values.is_cuda
    beforehand = Exchange(ranks.world.exchange_comm, flat.storage, 0.0, staged)  # positions are counted by themselves
    transfers = [beforehand.prepare(make_plan(drawer.draw(step), member)) for step in range(5)]
    del beforehand
    ranks.world.comm.Barrier()
    before = reset_peak(staged)
    exchange = Exchange(ranks.world.exchange_comm, flat.storage, drawer.most_expected_moved, staged)
    for transfer in transfers:
        exchange(transfer)
    peak = ranks.most(read_peak(staged) - before)
    message = ranks.most(max(transfer.num_moved for transfer in transfers) * item)
    return {
        "peak_extra_bytes": peak,
        "largest_message_bytes": message,
        "peak_extra_over_three_messages": peak / (3 * message),
        "positions_bytes": ranks.most(max(2 * 8 * transfer.length for transfer in transfers)),
    }


def count_bytes(method: Any) -> list[int]:
    """From now on, the bytes handed to each Alltoallv of a method are put into the list."""
    comm, counted = method._exchange.comm, []

    class Counting:
        rank, size = comm.rank, comm.size

        def Alltoallv(self, send: Any, recv: Any) -> None:
            counted.append(int(send[1].sum()) * send[3].Get_size())
            comm.Alltoallv(send, recv)

    method._exchange.comm = Counting()
    return counted


if __name__ == "__main__":
    sys.exit(main())
