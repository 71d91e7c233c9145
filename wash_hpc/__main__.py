# PYTHON_ARGCOMPLETE_OK
"""The command line: train, evaluate, soup, plan, sweep, tune, requeue, doctor. Parses, calls and prints; no more."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size

from wash_hpc import __version__
from wash_hpc.completion import add_completion, complete
from wash_hpc.errors import WashError, printable
from wash_hpc.parallel import end_command, require_mpi, require_ranks, start_mpi, wait_at_exit
from wash_hpc.signals import Signals
from wash_hpc.sweep.options import add_sweep
from wash_hpc.usage import (
    DESCRIPTION,
    EXAMPLES,
    PLAN,
    PLAN_LINK,
    REQUEUE,
    SOUP,
    SOUP_EXAMPLES,
    SOUP_KINDS,
    TRAIN,
    TRAIN_KEYS,
    TUNE,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, as `--help` lists them."""
    parser = _make_parser()
    complete(parser)
    options, rest = parser.parse_known_args(arguments)
    # argparse takes positional arguments in one piece; key=value may also stand behind an option.
    if rest and ("overrides" not in options or any(word.startswith("-") or "=" not in word for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    try:
        status: int = options.run(options)
        return status
    except WashError as error:
        return end_command(error)
    except BrokenPipeError:  # as in `wash-hpc train --list | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _train(options: argparse.Namespace) -> int:
    if options.list:
        return _list_names()
    if options.config is None:
        raise WashError(
            "train needs a configuration: wash-hpc train CONFIG [key=value ...]; there are some in configs/"
        )
    with Signals() as signals:  # from the first moment: MPI and torch may take minutes to start
        require_ranks()
        wait_at_exit(signals)
        from wash_hpc.train import train

        train(options.config, options.overrides, signals)
    return 0


def _list_names() -> int:
    from wash_hpc.data import source_names
    from wash_hpc.methods import method_names
    from wash_hpc.models import model_names

    lines = textwrap.TextWrapper(
        get_terminal_size().columns, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    for key, names in (("method.name", method_names()), ("data.name", source_names()), ("model.name", model_names())):
        print(lines.fill(f"{key}: {' '.join(names)}"))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    require_ranks()
    from wash_hpc.finished import evaluate_run

    return _print(evaluate_run(options.folder, options.overrides, options.split, options.greedy, options.json))


def _soup(options: argparse.Namespace) -> int:
    # A file may have "=" in its name, as in epoch=3.pt.
    overrides = [word for word in options.sources if "=" in word and not Path(word).exists()] + options.overrides
    paths = [Path(word) for word in options.sources if word not in overrides]
    if not paths:
        raise WashError(
            "soup needs a run's folder, or files to average: wash-hpc soup RUN, or FILE FILE ... --output OUT"
        )
    if len(paths) > 1 or paths[0].is_file():
        return _soup_of_files(paths, overrides, options)
    require_mpi()
    from wash_hpc.finished import make_soup

    return _print(make_soup(paths[0], overrides, options.kind or "uniform", options.output))


def _soup_of_files(paths: list[Path], overrides: list[str], options: argparse.Namespace) -> int:
    if overrides:
        raise WashError(
            f"{overrides[0]}: there is no such file, and files have no configuration: key=value is for a run"
        )
    if options.kind not in {None, "uniform"}:
        raise WashError(
            f"--kind {options.kind}: needs a run's model and images; files can only be averaged as they are"
        )
    if options.output is None:
        raise WashError("a soup of files needs --output FILE, ending with .safetensors")
    from wash_hpc.file_soup import make_file_soup

    return _print(make_file_soup(paths, options.output))


def _plan(options: argparse.Namespace) -> int:
    from wash_hpc.parallel.link import Link
    from wash_hpc.plan_report import describe
    from wash_hpc.predict import predict, read_facts

    if options.calibrate:
        return _calibrate(options)
    facts = read_facts(options.config, options.overrides, options.members)
    link = Link(options.latency_us * 1e-6, options.bandwidth_gb * 1e9, options.overhead_us * 1e-6, options.cores)
    return _print(describe(predict(facts, link), options.json, None, options.layers))


def _calibrate(options: argparse.Namespace) -> int:
    """Predict with a link that the ranks of this job measure. Collective over MPI_COMM_WORLD."""
    from wash_hpc.plan_report import describe
    from wash_hpc.predict import calibrate_link, predict, read_facts

    comm = start_mpi()
    from wash_hpc.parallel.world import on_root

    facts = on_root(comm, lambda: read_facts(options.config, options.overrides, options.members, comm.size))
    calibration = calibrate_link(comm, facts)
    if comm.rank > 0:
        return 0
    return _print(describe(predict(facts, calibration.link), options.json, calibration, options.layers))


def _tune(options: argparse.Namespace) -> int:
    from wash_hpc.config import load_config
    from wash_hpc.tune import tune

    for line in tune(load_config(options.config, options.overrides)):
        _print(line)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from wash_hpc.sweep.command import sweep

    return sweep(options, _print)


def _requeue(options: argparse.Namespace) -> int:
    from wash_hpc.requeue import requeue

    lines, status = requeue(options.config, options.overrides, options.status)
    _print("\n".join(lines))
    return status


def _doctor(options: argparse.Namespace) -> int:
    from wash_hpc.doctor import examine

    return examine(_print)


def _print(text: str) -> int:
    """Print what a command came to; ranks other than the root have nothing to say."""
    if text:
        print("\n".join(map(printable, text.split("\n"))), flush=True)
    return 0


def _make_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("wash-hpc", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"wash_hpc {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train", help="train an ensemble", description=TRAIN, epilog=TRAIN_KEYS, formatter_class=raw
    )
    train.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a YAML file, as in configs/")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, the last one wins")
    train.add_argument("--list", action="store_true", help="print the names of methods, data sets and models, and stop")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "evaluate",
        help="judge a finished run's members, ensemble and soups",
        description="Judge the members in RUN/members, their ensemble (by mean of logits and of probabilities) and "
        "their soups on the run's own data, and say how far apart members are in predictions and weights. Each image "
        "counts once. Under mpirun the images are shared out over the ranks, however many there are.",
    )
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as data.path=..., where data have moved"
    )
    evaluate.add_argument("--split", choices=["test", "held_out"], default="test", help="which images (default: test)")
    evaluate.add_argument("--greedy", action="store_true", help="also choose a greedy soup on held-out images")
    evaluate.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table, distances by layer with it"
    )
    evaluate.set_defaults(run=_evaluate)

    _add_soup(commands)
    _add_plan(commands)
    add_sweep(commands).set_defaults(run=_sweep)

    tune = commands.add_parser(
        "tune", help="find how many JPEG files the GPU's own decoder should take here", description=TUNE
    )
    tune.add_argument("config", type=Path, metavar="CONFIG")
    tune.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.path=... data.workers=...")
    tune.set_defaults(run=_tune)

    requeue = commands.add_parser(
        "requeue", help="put a Slurm job back into the queue whose run ended too early", description=REQUEUE
    )
    requeue.add_argument("--status", type=int, required=True, metavar="N", help="exit status of the run's launcher")
    requeue.add_argument("config", type=Path, metavar="CONFIG")
    requeue.add_argument("overrides", nargs="*", metavar="key=value", help="as the run was given")
    requeue.set_defaults(run=_requeue)

    doctor = commands.add_parser(
        "doctor",
        help="say what MPI, Horovod, DALI, HDF5 and the GPUs here can do",
        description="Try each part for real: an exchange, messages between pairs of ranks, a reduction, an image, a "
        "metrics file. Under mpirun or srun it tries them over all ranks, and says where they are, by what they are "
        "connected and how fast, which share cores or a GPU, whether MPS serves it, and what does not fit the Slurm "
        "job. Exit status 1 where something is broken.",
    )
    doctor.set_defaults(run=_doctor)

    add_completion(commands)
    return parser


def _add_soup(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    soup = commands.add_parser(
        "soup",
        help="average a finished run's members, or any files of weights, into one network",
        description=SOUP,
        epilog=SOUP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    soup.add_argument(
        "sources",
        nargs="+",
        metavar="RUN | FILE | key=value",
        help="a run's folder and overrides of its configuration, such as data.path=... where data have moved; or files",
    )
    soup.add_argument("--kind", choices=["uniform", "greedy", "repair"], help=SOUP_KINDS)
    soup.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="safetensors; of a run default: RUN/members/[greedy_|repair_]soup.safetensors",
    )
    soup.set_defaults(run=_soup, overrides=[])


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser(
        "plan",
        help="predict bytes, messages, time and memory; starts nothing",
        description=PLAN,
        epilog=PLAN_LINK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument("config", type=Path, metavar="CONFIG")
    plan.add_argument("overrides", nargs="*", metavar="key=value")
    plan.add_argument(
        "--members", type=int, metavar="M", help="default: ensemble.members, or 4, or the ranks that calibrate"
    )
    plan.add_argument("--latency-us", type=float, default=5.0, metavar="L", help="of a message, us (default: 5)")
    plan.add_argument("--bandwidth-gb", type=float, default=10.0, metavar="B", help="of one rank, GB/s (default: 10)")
    plan.add_argument(
        "--overhead-us", type=float, default=0.0, metavar="O", help="of an exchange besides, us (default: 0)"
    )
    plan.add_argument("--cores", type=int, metavar="C", help="that all ranks share (default: each has its own)")
    plan.add_argument(
        "--calibrate", action="store_true", help="measure the four between the ranks of this job; under mpirun or srun"
    )
    plan.add_argument("--layers", action="store_true", help="print p of every layer, too, and what of it moves")
    plan.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    plan.set_defaults(run=_plan)


if __name__ == "__main__":
    sys.exit(main())
