#!/usr/bin/env python3
"""What a training step costs beside the same model in a plain PyTorch loop, measured side by side in one run.

Three loops take turns on the same ranks and the same batches, which are in memory already: `plain`, written as the
PyTorch tutorials have it for speed (fused optimizer over the model's own tensors, gradients set to None, autocast and
channels-last memory where asked for, no synchronisation); `independent`, our step; `wash`, our step and its shuffle.
A round times some steps of each, from a barrier to the slowest rank's end, in another order every time; figures are
medians over rounds. Peak memory is measured apart, each loop in processes of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from bench_common import WARM_UP, Figures, Ranks, describe_machine, in_lines, read_peak, reset_peak, start_ranks
from torch import nn
from torch.nn import functional as F

from wash_hpc.clock import Stopwatch
from wash_hpc.config import Config, load_config
from wash_hpc.data.source import Batch
from wash_hpc.ensemble.flat import to_channels_last
from wash_hpc.errors import WashError
from wash_hpc.member import Member
from wash_hpc.methods import Context, Method, make_method
from wash_hpc.models import build_model

LOOPS = ("plain", "independent", "wash")
NUM_BATCHES = 4  # that take turns
NUM_CLASSES = 1000
ON_CPU = {"batch_size": 4, "image_size": 224, "steps": 1, "precision": "fp32"}
ON_GPU = {"batch_size": 256, "image_size": 224, "steps": 20, "precision": "bf16"}

Step = Callable[[Batch, int], None]


def main() -> int:
    """Run the benchmark; as a user's process it starts mpirun, as a rank it measures."""
    arguments = parse()
    if arguments.rank:
        measure_ranks(arguments)
        return 0
    try:
        make_config(arguments, "wash")
        build_model(arguments.model, (3, arguments.image_size, arguments.image_size), NUM_CLASSES)
    except WashError as error:
        print(f"bench_train.py: {error}", file=sys.stderr)
        return 2
    figures: Figures = {"machine": describe_machine(arguments.members, arguments.device)}
    rank = partial(start_ranks, arguments.members, __file__)
    figures |= rank([*sys.argv[1:], "--rank", "time"])
    peaks = {loop: rank([*sys.argv[1:], "--rank", loop]) for loop in ("plain", "wash")}
    figures |= {f"{loop}_peak_bytes": peak["peak_bytes"] for loop, peak in peaks.items()}
    figures["exchange_buffer_bytes"] = peaks["wash"]["exchange_buffer_bytes"]
    figures["peak_bytes_more_than_plain"] = figures["wash_peak_bytes"] - figures["plain_peak_bytes"]
    print(json.dumps(figures) if arguments.json else in_lines(figures))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--members", type=int, default=2, help="ranks, one member each (default 2)")
    parser.add_argument("--model", default="torchvision.resnet50", help="any of `wash-hpc train --list` for images")
    parser.add_argument("--p", type=float, default=0.05, help="base probability of the shuffle (default 0.05)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="ranks share out the GPUs")
    parser.add_argument("--batch-size", type=int, help="images a rank and step (default 4; on a GPU 256)")
    parser.add_argument("--image-size", type=int, help="pixels a side (default 224)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default fp32; on a GPU bf16")
    parser.add_argument("--channels-last", action="store_true", help="train.channels_last, for all three loops")
    parser.add_argument("--cuda-graph", action="store_true", help="train.cuda_graph, for our two loops")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds, 5 or more (default 15)")
    parser.add_argument("--steps", type=int, help="steps of each loop in a round (default 1; on a GPU 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rank", choices=["time", "plain", "wash"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name, value in (ON_GPU if arguments.device == "cuda" else ON_CPU).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.members < 2 or arguments.rounds < 5 or not 0 < arguments.p <= 1:
        parser.error("expected --members of 2 or more, --rounds of 5 or more, --p in (0, 1]")
    if min(arguments.batch_size, arguments.image_size, arguments.steps) < 1:
        parser.error("expected --batch-size, --image-size and --steps of 1 or more")
    if arguments.cuda_graph and arguments.device != "cuda":
        parser.error("--cuda-graph: expected --device cuda beside it")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    return arguments


def make_config(arguments: argparse.Namespace, method: str) -> Config:
    """The configuration of one of our loops."""
    settings = [
        f"method.name={method}",
        *([f"method.p={arguments.p}"] if method == "wash" else []),
        f"model.name={arguments.model}",
        f"data.batch_size={arguments.batch_size}",
        f"train.precision={arguments.precision}",
        f"train.channels_last={arguments.channels_last}",
        f"train.cuda_graph={arguments.cuda_graph}",
    ]
    return load_config(None, settings)


# The loops.


class OurLoop:
    """A member's step and what its method does after it, timed by the loop's stopwatch, as in `train.py`."""

    def __init__(self, config: Config, model: nn.Module, num_steps: int, world: Any, reducer: Any) -> None:
        self.clock = Stopwatch(next(model.parameters()).device)
        number = world.layout.member
        self._member = Member(model, config, number, 0, num_steps, reducer, self.clock)
        source: Any = None  # neither method looks at images
        context = Context(config, world, reducer, model, self._member.flat, source, num_steps, num_steps)
        self.method: Method = make_method(context)

    def step(self, batch: Batch, step: int) -> None:
        """One step of the training loop."""
        with self.clock("compute"):
            self._member.step(batch, step)
        with self.clock("exchange"):
            self.method.after_step(step + 1)

    def finish(self) -> None:
        """End the method's threads."""
        self.method.finish()

    @property
    def num_sent(self) -> int:
        """Bytes that this member has sent."""
        return self.method.bytes_sent


class PlainLoop:
    """The same model, optimizer and learning rate as PyTorch's own tutorials have them."""

    def __init__(self, config: Config, model: nn.Module, num_steps: int) -> None:
        optimizer = config.optimizer
        self._model = model
        self._device_type = next(model.parameters()).device.type
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            lr=optimizer.lr,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, num_steps, optimizer.min_lr)
        self._is_half = config.train.precision == "bf16"
        self._is_channels_last = config.train.channels_last
        self._loss_sum = torch.zeros((), device=next(model.parameters()).device)

    def step(self, batch: Batch, step: int) -> None:
        """One step."""
        images = batch.images
        if self._is_channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._is_half):
            loss = F.cross_entropy(self._model(images), batch.labels)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._schedule.step()
        self._loss_sum += loss.detach() * len(batch.labels)

    def finish(self) -> None:
        """Nothing."""


# On the ranks.


def measure_ranks(arguments: argparse.Namespace) -> None:
    """On every rank: the loops in turns, or the memory of one of them; the root prints."""
    from wash_hpc.parallel import start_mpi
    from wash_hpc.parallel.mpi_reducer import MPIReducer
    from wash_hpc.parallel.world import World

    world = World.open(start_mpi(), arguments.members)
    torch.set_num_threads(max(1, world.num_cores))
    on_gpu = arguments.device == "cuda"
    device = torch.device("cuda", world.local_rank % torch.cuda.device_count()) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    batches = make_batches(arguments, device)
    ranks = Ranks(world, 0.0, on_gpu)
    make = partial(make_loop, arguments, world, MPIReducer(world), device)
    figures = time_loops(arguments, ranks, make, batches) if arguments.rank == "time" else {}
    if arguments.rank != "time":
        figures = measure_memory(ranks, partial(make, arguments.rank), batches)
    if world.is_root:
        print(json.dumps(figures))


def make_batches(arguments: argparse.Namespace, device: torch.device) -> list[Batch]:
    """Random images and labels on the device."""
    random = torch.Generator().manual_seed(0)
    shape = (arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    return [
        Batch(
            torch.randn(shape, generator=random).to(device),
            torch.randint(NUM_CLASSES, shape[:1], generator=random).to(device),
        )
        for _ in range(NUM_BATCHES)
    ]


def make_loop(
    arguments: argparse.Namespace, world: Any, reducer: Any, device: torch.device, name: str
) -> OurLoop | PlainLoop:
    """One of the three, with weights of its own."""
    config = make_config(arguments, "wash" if name == "wash" else "independent")
    torch.manual_seed(world.layout.member)
    model = build_model(arguments.model, (3, arguments.image_size, arguments.image_size), NUM_CLASSES)
    if arguments.channels_last:
        to_channels_last(model, device)
    model = model.to(device)
    num_steps = (arguments.rounds + WARM_UP) * arguments.steps
    return PlainLoop(config, model, num_steps) if name == "plain" else OurLoop(config, model, num_steps, world, reducer)


def time_loops(
    arguments: argparse.Namespace, ranks: Ranks, make: Callable[[str], OurLoop | PlainLoop], batches: list[Batch]
) -> Figures:
    """Seconds of a step of each loop, in turns, and their ratios."""
    loops = {name: make(name) for name in LOOPS}
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    for number in range(arguments.rounds + WARM_UP):
        first = number % len(LOOPS)
        for name in LOOPS[first:] + LOOPS[:first]:
            steps = range(number * arguments.steps, (number + 1) * arguments.steps)
            seconds[name].append(ranks.time(partial(run, loops[name].step, batches, steps)) / arguments.steps)
    sent = [loop.num_sent for loop in loops.values() if isinstance(loop, OurLoop)]
    parts = loops["wash"].clock.read() if isinstance(loops["wash"], OurLoop) else {}
    for loop in loops.values():
        loop.finish()
    by_round = [ranks.world.comm.allgather(seconds[name][WARM_UP:]) for name in LOOPS]
    by_loop = zip(LOOPS, by_round, strict=True)
    slowest = {name: [max(each) for each in zip(*rows, strict=True)] for name, rows in by_loop}
    total = sum(parts.values())
    return {
        "model": arguments.model,
        "members": arguments.members,
        "threads": torch.get_num_threads(),
        **{name: getattr(arguments, name) for name in ("batch_size", "image_size", "precision", "channels_last")},
        **{name: getattr(arguments, name) for name in ("cuda_graph", "p", "rounds", "steps")},
        **{f"{name}_seconds": median(slowest[name]) for name in LOOPS},
        **{f"{name}_images_per_second": arguments.batch_size / median(slowest[name]) for name in LOOPS},
        "ours_over_plain": ratio(slowest["plain"], slowest["independent"]),
        "wash_over_independent": ratio(slowest["independent"], slowest["wash"]),
        "wash_exchange_share": parts.get("exchange", 0.0) / total,
        "bytes_sent_per_step": sent[-1] / ((arguments.rounds + WARM_UP) * arguments.steps),
    }


def run(step: Step, batches: list[Batch], steps: range) -> None:
    """Some steps of a loop."""
    for number in steps:
        step(batches[number % len(batches)], number)


def ratio(seconds: list[float], of_ours: list[float]) -> float:
    """How many times as many images: the median over rounds of the ratio within a round."""
    return median(other / own for other, own in zip(seconds, of_ours, strict=True))


def measure_memory(ranks: Ranks, make: Callable[[], OurLoop | PlainLoop], batches: list[Batch]) -> Figures:
    """The most bytes that any rank holds while a loop is made and takes some steps, beyond what it held before."""
    before = reset_peak(ranks.on_gpu) if ranks.on_gpu else (reset_peak(False), read_peak(False))[1]
    loop = make()
    run(loop.step, batches, range(2 * len(batches)))
    peak = read_peak(ranks.on_gpu) - before
    buffers = buffer_bytes(loop)
    loop.finish()
    return {"peak_bytes": ranks.most(peak), "exchange_buffer_bytes": ranks.most(buffers)}


def buffer_bytes(loop: OurLoop | PlainLoop) -> int:
    """Bytes of an exchange's buffers: values sent and received, and positions of both, of this draw and the next."""
    exchange = getattr(loop.method, "_exchange", None) if isinstance(loop, OurLoop) else None
    if exchange is None:
        return 0
    return sum(buffer.numel() * (buffer.element_size() + 2 * 8) for buffer in (exchange.send, exchange.recv))


if __name__ == "__main__":
    sys.exit(main())
