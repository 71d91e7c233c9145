"""What a basin analysis came to, as lines for a terminal; all of it is in `landscape.json`."""

from __future__ import annotations

import math
from collections.abc import Callable

from wash_hpc.ensemble.landscape import Judgement, Landscape, Line


def in_lines(landscape: Landscape) -> str:
    """The main figures, a line each."""
    members = ", ".join(map(str, landscape.members))
    by = f"recomputed on {landscape.num_statistics_images} images" if landscape.num_statistics_images else "none"
    images = f"{landscape.num_images} {landscape.split} images"
    heading = f"{landscape.name}, step {landscape.step}: members {members}; {images}; statistics: {by}"
    rows = [
        *_averaging_rows(landscape),
        *_barrier_rows(landscape),
        *_curvature_rows(landscape),
        *_distance_rows(landscape),
    ]
    return "\n".join([heading, *(f"  {row}" for row in rows)])


def _averaging_rows(landscape: Landscape) -> list[str]:
    averaging = landscape.averaging
    if averaging is None:
        return []
    members = averaging.members
    mean = Judgement(
        sum(member.loss for member in members) / len(members), sum(member.accuracy for member in members) / len(members)
    )
    judged = (("members, mean", mean), ("ensemble", averaging.ensemble), ("soup", averaging.soup))
    return [f"{name:<42} loss {found.loss:8.4f}   accuracy {100 * found.accuracy:6.2f} %" for name, found in judged]


def _barrier_rows(landscape: Landscape) -> list[str]:
    lines = landscape.lines or []
    kinds: list[tuple[str, Callable[[Line], bool]]] = [
        ("between members", lambda line: line.end != "soup"),
        ("members to soup", lambda line: line.end == "soup"),
    ]
    rows = []
    for kind, chosen in kinds:
        here = [line for line in lines if chosen(line)]
        for what, profiles in (
            ("", [line.recomputed for line in here]),
            (", raw", [line.raw for line in here] if landscape.num_statistics_images else []),
        ):
            if profiles:
                loss = max(profile.loss_barrier for profile in profiles)
                error = max(profile.error_barrier for profile in profiles)
                rows.append(f"{f'highest barrier {kind}{what}':<42} loss {loss:8.4f}   error {100 * error:6.2f} points")
    return rows


def _curvature_rows(landscape: Landscape) -> list[str]:
    rows = []
    for kind, to_soup in (("between members", False), ("members to soup", True)):
        lines = [line for line in landscape.curvature or [] if (line.end == "soup") == to_soup]
        for what, bends in (
            ("", [line.second_derivative for line in lines]),
            (", by differences", [line.second_difference for line in lines]),
        ):
            if bends:
                start, middle, end = (sum(numbers) / len(bends) for numbers in zip(*bends, strict=True))
                rows.append(f"{f'curvature {kind}{what}':<42} {start:9.3g} start {middle:9.3g} middle {end:9.3g} end")
    rows += [
        f"{f'largest eigenvalue at {spectrum.point}':<42} {spectrum.eigenvalues[0]:.4g}"
        for spectrum in landscape.eigenvalues or []
        if spectrum.eigenvalues
    ]
    return rows


def _distance_rows(landscape: Landscape) -> list[str]:
    layers = landscape.layers or []
    if not layers:
        return []
    whole = math.sqrt(sum(layer.distance**2 for layer in layers))
    farthest = max(layers, key=lambda layer: layer.relative)
    return [
        f"{'consensus distance':<42} {whole:.4g}; relatively the farthest: {farthest.name}, {farthest.relative:.2f}"
    ]
