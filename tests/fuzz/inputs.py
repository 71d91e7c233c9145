"""What the fuzz tests share: how many examples, and how bytes are damaged."""

from __future__ import annotations

import os
import sys
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st


def examples(usual: int) -> Any:
    """So many examples, or FUZZ_EXAMPLES of them."""
    return settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", usual)))


def batch(usual: int) -> tuple[int, Random]:
    """How many cases a process of its own is given, and where they come from: hypothesis would run it for each.

    They are the same every time, or, with FUZZ_EXAMPLES, so many new ones, whose seed is printed.
    """
    asked = os.environ.get("FUZZ_EXAMPLES")
    seed = Random().randrange(2**32) if asked else 0
    sys.stdout.write(f"seed {seed}\n")
    return int(asked or usual), Random(seed)


def random_damages(random: Random) -> list[tuple[str, float, int, bytes]]:
    """As `damages`, drawn from `random`."""
    kinds = ["flip", "flip", "cut", "insert", "zero", "repeat"]
    return [
        (
            random.choice(kinds),
            random.random() * random.choice([1, 0.02]),
            random.randrange(1, 65),
            random.randbytes(random.randrange(1, 17)),
        )
        for _ in range(random.choice([1, 1, 2, 4]))
    ]


@st.composite
def damages(draw: st.DrawFn, most: int = 4) -> list[tuple[str, float, int, bytes]]:
    """Some damages to a file of any length, for `damaged`: kind, place as a share of the length, size, bytes."""
    kinds = st.sampled_from(["flip", "cut", "insert", "zero", "repeat"])
    places = st.floats(0, 1, exclude_max=True) | st.floats(0, 0.02)  # headers are where most can go wrong
    one = st.tuples(kinds, places, st.integers(1, 64), st.binary(min_size=1, max_size=16))
    return draw(st.lists(one, min_size=1, max_size=most))


def damaged(content: bytes, how: list[tuple[str, float, int, bytes]]) -> bytes:
    """The same with these damages done to it, one after the other."""
    changed = bytearray(content)
    for kind, share, size, others in how:
        place = int(share * len(changed))
        if kind == "flip" and changed:
            changed[place] ^= 1 << size % 8
        elif kind == "cut":
            del changed[place:]
        elif kind == "insert":
            changed[place:place] = others
        elif kind == "zero":
            changed[place : place + size] = bytes(len(changed[place : place + size]))
        elif kind == "repeat":
            changed[place:place] = changed[place : place + size]
    return bytes(changed)
