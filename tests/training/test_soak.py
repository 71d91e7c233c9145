"""tools/soak.py in its short form, and that it can fail."""

from __future__ import annotations

import json
import sys

from tests.support import mpirun

# Two members on two replicas each. Checkpoints, records and evaluations come more often than in a long run.
SHORT = ["checkpoint.every_steps=50", "log.every_steps=25", "evaluate.every_epochs=4"]


def soak(*arguments: str) -> tuple[int, dict]:
    """The exit status and the figures of a soak on four ranks."""
    done = mpirun(4, sys.executable, "tools/soak.py", "--json", *arguments, *SHORT, timeout=500)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_a_minute_of_training_keeps_memory_files_threads_replicas_and_the_laws_of_the_shuffle():
    status, figures = soak("--minutes", "1", "--steps", "200", "--check-every", "20")
    assert figures["broken"] == {}
    assert status == 0
    assert figures["shuffles_checked"] >= 10
    assert figures["evaluations"] >= 2
    assert figures["records"] >= 8
    assert sorted(rank["place"] for rank in figures["ranks"]) == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_every_fault_that_is_planted_is_found():
    planted = [word for fault in ("memory", "files", "threads", "drift", "law", "count") for word in ("--plant", fault)]
    cheap = ["parallel.reducer=mpi", "model.name=mlp"]
    status, figures = soak(*planted, "--minutes", "0.1", "--steps", "300", "--check-every", "40", *cheap)
    assert status == 1
    whole = {name: how for name, how in figures["broken"].items() if "step" not in how}
    assert set(whole) == {"memory is flat", "open files stay as many", "threads stay as many"}
    assert {name: how for name, how in figures["broken"].items() if name not in whole} == {
        "a shuffle is the slow reference's, bit for bit": "rank 0: step 40",
        "each position keeps its values": "rank 0: step 40",
        "each position keeps its mean": "rank 0: step 40",
        "as many values move as planned": "rank 0: step 40",
        "replicas are equal, bit for bit": "rank 0: step 80",  # one value, after the first look
    }
