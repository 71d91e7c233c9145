"""How `wash-hpc plan` words a prediction: figures, advice, and the calibration that they rest on. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from wash_hpc.draw_cost import DrawCost
from wash_hpc.durations import format_seconds
from wash_hpc.memory import CONTEXT_BYTES, StepMemory
from wash_hpc.parallel.link import Link
from wash_hpc.predict import PAPA_EVERY, Prediction
from wash_hpc.report.columns import format_bytes

if TYPE_CHECKING:
    from wash_hpc.parallel.calibrate import Calibration

Row = tuple[str, str]


def describe(
    prediction: Prediction, as_json: bool, calibration: Calibration | None = None, with_layers: bool = False
) -> str:
    """A prediction in lines, or as one JSON object; with the calibration that it rests on, where there is one.

    Args:
        prediction: of a run.
        as_json: one JSON object, which has the layers of the schedule in any case.
        calibration: what was measured, or None.
        with_layers: the layers of the schedule behind the lines.
    """
    if as_json:
        measured = {} if calibration is None else {"calibration": asdict(calibration)}
        return json.dumps({**asdict(prediction), **measured})
    it = prediction
    rows = [] if calibration is None else describe_calibration(calibration)
    rows += [
        ("members", f"{it.num_members}"),
        ("parameters", f"{it.num_parameters:,} in {it.num_layers} layers"),
        ("steps", f"{it.num_steps:,}, {it.num_exchanges:,} of them with an exchange"),
        *(("p", sentence) for sentence in it.chosen_p),
        ("values moved", f"{it.values_moved_per_exchange:,.0f} by a member in an exchange"),
        ("messages", f"{it.messages_per_exchange:.4g} by a member in an exchange, {it.messages_per_step:.4g} a step"),
        ("sent", f"{format_bytes(it.bytes_sent_per_exchange)} by a member in an exchange"),
        ("", f"{format_bytes(it.wire_bytes_per_step)} a step, with a flag of one value in each message of a shuffle"),
        ("", f"{format_bytes(it.bytes_sent_per_member)} by a member in the run"),
        *(
            ("", f"{cost.num_exchanges:,} times {cost.name}, {cost.values_sent:,.0f} values by a member in the run")
            for cost in it.methods[1:] and it.methods
        ),
        ("  PAPA", f"{format_bytes(it.papa_bytes_per_member)} (an average every {PAPA_EVERY} steps)"),
        ("  data-parallel", f"{format_bytes(it.data_parallel_bytes_per_member)} (gradients at every step)"),
        (
            "time",
            f"{format_short(it.exchange_seconds)} an exchange, {format_short(it.exchange_seconds_per_step)} a step",
        ),
        ("", f"{100 * it.latency_share:.0f} % of it latency and overhead, whatever the bytes"),
        ("", f"{format_seconds(it.exchange_seconds_of_run)} in the run, computing not counted"),
        ("draw and plan", f"{_describe_draw(it.draw)} of one core an exchange, in the background"),
        ("memory", f"{format_bytes(it.memory_bytes)} a rank throughout, activations not counted"),
        *describe_step_memory(it.step_memory),
    ]
    rows += [("advice", sentence) for sentence in advise(it)]
    if it.data_assumed:
        rows.append(("note", "the data set is not here; assumed is its published size (an image folder: ImageNet's)"))
    lines = [f"{name:<16}{text}" for name, text in rows]
    return "\n".join([*lines, "", *describe_layers(it)] if with_layers else lines)


def describe_step_memory(it: StepMemory) -> list[Row]:
    """What a step adds to a rank's memory, and how many ranks fit on a GPU, or why that is not said."""
    activations = it.activations
    if activations.num_bytes is None or it.total_bytes is None:
        return [("", f"activations are left out: the network cannot be tried without memory ({activations.left_out})")]
    saved = f"{format_bytes(activations.num_bytes)} of it a batch of {activations.num_images} and its activations"
    first, *others = (
        f"{size} GB {num_ranks or 'no'} rank{'s' * (num_ranks != 1)}" for size, num_ranks in it.ranks_on_gpu.items()
    )
    fit = ", ".join([f"on a GPU of {first}", *(f"of {other}" for other in others)])
    return [
        ("", f"{format_bytes(it.total_bytes)} in a step, {saved}"),
        ("fit", f"{fit}; about {format_bytes(CONTEXT_BYTES)} of CUDA's own counted for each"),
        ("", "an estimate, without what backward needs for a moment; a GPU for each rank is the usual case"),
    ]


def describe_layers(prediction: Prediction) -> list[str]:
    """The schedule, a line for each layer: its parameters, p_l, and the values that a member moves in an exchange."""
    layers = prediction.layers
    if not layers:
        return [f"method.name={prediction.methods[0].name} has no schedule over layers"]
    width = max(len("layer"), *(len(layer.name) for layer in layers))
    head = f"{'layer':<{width}}  {'parameters':>12}  {'p_l':>10}  {'values moved':>14}"
    return [
        head,
        *(
            f"{it.name:<{width}}  {it.num_parameters:>12,}  {it.probability:>10.4g}  {it.values_moved:>14,.1f}"
            for it in layers
        ),
    ]


def advise(prediction: Prediction) -> list[str]:
    """What should be changed, in sentences; none where all is well."""
    it, said = prediction, []
    if it.batching is not None:
        then = it.batching
        before, after = format_short(then.seconds_per_step), format_short(then.seconds_per_step_then)
        rest = ""
        if not then.is_enough:
            rest = f"; {100 * then.latency_share:.0f} % even so, with the largest H that p x H <= 1 and the run allow"
        said.append(
            f"{100 * it.latency_share:.0f} % of an exchange is latency: method.every={then.every} "
            f"method.p={then.p:.12g} sends the same bytes in {after} a step instead of {before}{rest}"
        )
    if it.ring_seconds is not None:
        said.append(
            f"fewer messages: method.topology=ring sends one an exchange, {format_short(it.ring_seconds)} in all"
        )
    if it.draw.is_slow:
        faster = {name: cost for name, cost in it.faster_draws.items() if cost.seconds < it.draw.seconds}
        others = [f"{name} {_describe_draw(cost)}" for name, cost in faster.items()]
        said.append(
            f"the draw takes {_describe_draw(it.draw)} of a core: {', '.join(others) or 'it needs a smaller method.p'}"
        )
    return said


def describe_calibration(calibration: Calibration) -> list[Row]:
    """What was measured, what the fit says of it, and the constants as options that can be given again."""
    link, ranks = calibration.link, calibration.num_ranks
    cores = "" if link.cores is None else f" on {link.cores} core{'s' * (link.cores != 1)}"
    rows = [("calibration", f"{ranks} ranks{cores}, medians of {calibration.rounds} rounds, the slowest rank's")]
    for timing in calibration.timings:
        messages = f"{timing.messages} message{'s' * (timing.messages != 1)}"
        fitted = format_short(link.seconds(timing.messages, timing.num_bytes, ranks))
        rows.append(
            (
                "",
                f"{messages:<12}{format_bytes(timing.num_bytes):>8} {format_short(timing.seconds):>8}, fitted {fitted}",
            )
        )
    return [*rows, ("link", describe_link(link)), ("", "bandwidth of a rank, packing and unpacking included")]


def describe_link(link: Link) -> str:
    """A link as options of `wash-hpc plan`."""
    cores = "" if link.cores is None else f" --cores {link.cores}"
    return (
        f"--latency-us {link.latency * 1e6:.4g} --bandwidth-gb {link.bandwidth / 1e9:.4g} "
        f"--overhead-us {link.overhead * 1e6:.4g}{cores}"
    )


def format_short(seconds: float) -> str:
    """A short duration, three significant digits: `12.3 us`, `4.56 ms`, `7.89 s`."""
    if seconds >= 0.9995:
        return f"{seconds:.3g} s" if seconds < 59.95 else format_seconds(seconds)
    return f"{seconds * 1e3:.3g} ms" if seconds >= 0.9995e-3 else f"{seconds * 1e6:.3g} us"


def _describe_draw(cost: DrawCost) -> str:
    return f"{format_short(cost.seconds)}{'' if cost.measured else ' (extrapolated)'}"
