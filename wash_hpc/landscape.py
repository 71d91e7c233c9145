"""Basin analysis of a finished run, the logic of `tools/landscape.py`: what is between its members, now or earlier.

Owns the command line, what is looked at, and the files that come of it. Which points of weight space that means is
`basin`'s, what a point is like is `survey`'s, the drawing `report.basin_figures`'.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from wash_hpc.basin import Basin
from wash_hpc.data.source import Shard
from wash_hpc.ensemble.curvature import import_scipy_linalg
from wash_hpc.ensemble.flat import Flat
from wash_hpc.ensemble.landscape import Landscape
from wash_hpc.errors import ConfigError, WashError
from wash_hpc.finished import FinishedRun, open_run
from wash_hpc.parallel import end_command, require_mpi
from wash_hpc.parallel.world import agreed, on_root
from wash_hpc.report.basin_figures import write_figures
from wash_hpc.report.basin_table import in_lines
from wash_hpc.report.figure_files import import_figure
from wash_hpc.storage.checkpoint import checkpoint_folder
from wash_hpc.storage.files import make_folder, write_atomically
from wash_hpc.storage.summary import read_summary
from wash_hpc.survey import Survey, SurveySplit

PARTS = ("averaging", "lines", "plane", "curvature", "eigenvalues", "distance")

_EXAMPLES = """\
examples:
  tools/landscape.py runs/demo-wash
  mpirun -n 4 python tools/landscape.py runs/demo-wash --parts lines,distance --points 21
  tools/landscape.py runs/demo-wash --step 200     as they were in that checkpoint (checkpoint.every_steps, .keep)
  tools/landscape.py runs/big --members 0,1,2 --parts plane --grid 15 --images 500 data.path=/moved/images

It writes RUN/landscape/landscape.json and a figure for each part as PNG and SVG; of a checkpoint, into
RUN/landscape/step-XXXXXXXX. What several looks have in common: tools/basin_condition.py. A line costs, at each of
its points, two passes over the images and one over those by which normalisation statistics are recomputed
(evaluate.statistics_images=N); an eigenvalue some tens of products with the Hessian, each about four passes, with the
memory of training at evaluate.batch_size=N.

exit status: 0 done; 2 wrong input, said in one sentence
"""


@dataclass(frozen=True)
class Options:
    """What is looked at.

    Attributes:
        parts: of `PARTS`.
        members: which members, or None for all.
        split: whose images.
        num_images: how many of them at most.
        num_points: points of a line, both ends included.
        num_grid: points of a side of the plane.
        num_eigenvalues: at each member and the soup.
        to_soup: whether also along the lines from each member to the soup.
        step: of the checkpoint whose members are looked at; None: the run's final weights.
    """

    parts: tuple[str, ...] = PARTS
    members: tuple[int, ...] | None = None
    split: SurveySplit = "test"
    num_images: int = 1000
    num_points: int = 11
    num_grid: int = 9
    num_eigenvalues: int = 5
    to_soup: bool = True
    step: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    parsed = _parser().parse_intermixed_args(arguments)
    options = Options(
        parts=parsed.parts,
        members=parsed.members,
        split=parsed.split,
        num_images=parsed.images,
        num_points=parsed.points,
        num_grid=parsed.grid,
        num_eigenvalues=parsed.eigenvalues,
        to_soup=parsed.soup_lines,
        step=parsed.step,
    )
    try:
        require_mpi()
        text = analyse(parsed.run, parsed.overrides, options)
    except WashError as error:
        return end_command(error)
    if text:
        sys.stdout.write(text + "\n")
    return 0


def analyse(folder: Path, overrides: Sequence[str], options: Options) -> str:
    """Look at what is between a run's members and write tables and figures. Collective over MPI_COMM_WORLD.

    Args:
        folder: the run's.
        overrides: `key=value` arguments over the run's own configuration.
        options: what is looked at.

    Returns:
        What to print; nothing on ranks other than the root.

    Raises:
        WashError: not a finished run, fewer than two members, no such member, image or checkpoint; on all ranks.
    """
    run = open_run(folder, overrides, options.step)
    comm = run.world.comm
    summary = on_root(comm, lambda: read_summary(folder))
    progress = tqdm(desc="points", unit="", disable=None if run.world.is_root else True)
    with agreed(comm):
        members = _choose_members(run, options.members)
        _check(run, options)
        shard = Shard(comm.rank, comm.size)
        survey = Survey(run.config, run.source, run.evaluator, shard, run.reducer, options.split, options.num_images)
        basin = Basin(run.fetch, members, survey, progress.update, options.to_soup)
    parts = options.parts
    landscape = Landscape(
        name=folder.name,
        method=summary.method,
        seed=summary.seed,
        step=summary.steps if options.step is None else options.step,
        members=members,
        split=options.split,
        num_images=survey.num_images,
        num_statistics_images=survey.num_statistics_images,
        num_parameters=summary.num_parameters,
        soup_norm=basin.soup_norm,
        averaging=basin.averaging() if "averaging" in parts else None,
        lines=list(basin.lines(options.num_points)) if "lines" in parts else None,
        plane=basin.plane(options.num_grid) if "plane" in parts else None,
        curvature=list(basin.curvature()) if "curvature" in parts else None,
        eigenvalues=list(basin.eigenvalues(options.num_eigenvalues)) if "eigenvalues" in parts else None,
        layers=basin.distances(Flat(run.model).layers) if "distance" in parts else None,
    )
    progress.close()
    run.reducer.close()
    text = on_root(comm, lambda: _write(landscape_folder(folder, options.step), landscape))
    return text if run.world.is_root else ""


def landscape_folder(folder: Path, step: int | None) -> Path:
    """Where a look at a run lies; at a checkpoint, in a folder that is called as the checkpoint's."""
    return folder / "landscape" / ("" if step is None else checkpoint_folder(folder, step).name)


def _choose_members(run: FinishedRun, wanted: tuple[int, ...] | None) -> list[int]:
    """The members that are looked at.

    Raises:
        ConfigError: one that does not exist, or fewer than two.
    """
    members = list(range(run.num_members)) if wanted is None else sorted(set(wanted))
    missing = [str(member) for member in members if member >= run.num_members]
    if missing:
        raise ConfigError(
            f"--members: {run.folder} has no member {', '.join(missing)}; it has 0 to {run.num_members - 1}"
        )
    if len(members) < 2:
        raise ConfigError(f"{run.folder}: a landscape lies between members, and needs two of them at least")
    return members


def _check(run: FinishedRun, options: Options) -> None:
    """Refuse what would fail after long work.

    Raises:
        WashError: no images, or a library that is not installed.
    """
    if options.split != "train" and run.source.num_images(options.split) == 0:
        raise ConfigError(f"{run.folder}: its data have no {options.split} images (data.held_out=0)")
    import_figure()
    if "eigenvalues" in options.parts:
        import_scipy_linalg()


def _write(folder: Path, landscape: Landscape) -> str:
    """Write tables and figures; returns what to print."""
    make_folder(folder)
    table = json.dumps(_with_nulls(asdict(landscape)), indent=1, allow_nan=False)
    write_atomically(folder / "landscape.json", table + "\n")
    files = [folder / "landscape.json", *write_figures(folder, landscape)]
    return "\n".join([in_lines(landscape), *(str(file) for file in files if file.suffix != ".svg")])


def _with_nulls(value: object) -> object:
    """The same with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(
        prog="landscape.py",
        description="Look at the loss between a finished run's members: along lines, in a plane, its curvature; and at "
        "how far apart they are. On one rank, or under mpirun on as many as you like.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run's folder")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as data.path=..., where data have moved"
    )
    parser.add_argument(
        "--parts", type=_parts, default=PARTS, metavar="A,B", help=f"which parts, of {','.join(PARTS)} (default: all)"
    )
    parser.add_argument("--members", type=_members, metavar="I,J", help="which members (default: all)")
    parser.add_argument(
        "--split",
        choices=["test", "held_out", "train"],
        default=default.split,
        help="whose images; train: augmented as in training (default: test)",
    )
    parser.add_argument(
        "--step", type=partial(_count, 1), metavar="N", help="members as they were in this checkpoint (default: final)"
    )
    parser.add_argument(
        "--soup-lines",
        action=argparse.BooleanOptionalAction,
        default=default.to_soup,
        help="also the lines from each member to the soup (default: yes); without them half of the work for 3 members",
    )
    for name, value, what in (
        ("images", default.num_images, "images, a random choice"),
        ("points", default.num_points, "points of a line"),
        ("grid", default.num_grid, "points of a side of the plane"),
        ("eigenvalues", default.num_eigenvalues, "eigenvalues at each member and the soup"),
    ):
        least = 2 if name in {"points", "grid"} else 1
        parser.add_argument(
            f"--{name}", type=partial(_count, least), default=value, metavar="N", help=f"{what} (default: {value})"
        )
    return parser


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return parts


def _members(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"'{text}': expected numbers of members, as in 0,2")
    return tuple(int(number) for number in numbers)


def _count(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number, at least {least}")
    return int(text)
