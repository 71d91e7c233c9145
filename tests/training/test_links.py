"""The link between members, slowed: tools/bench_links.py on real namespaces, real TCP and real runs of two members."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, "tools")  # where it finds its neighbours

import bench_links
from network_probe import Found, probe, require
from private_host import NetworkError
from shaped_network import Network, find_obstacle
from slow_link import Link, parse_link, shaping_commands

from tests.support import started_in_foreground

RATE = 10e6
TOOL = [sys.executable, "tools/bench_links.py"]
SLOW = [*TOOL, "--members", "2", "--seconds", "0", "data.image_size=8", "model.width=8"]


@pytest.fixture(scope="module")
def _may_make_networks() -> None:
    obstacle = find_obstacle([Link(RATE, 0.02)])
    if obstacle:
        pytest.skip(obstacle)


def processes_of(folder: Path) -> list[str]:
    """The command lines of processes that have this folder in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if str(folder).encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def measured(_may_make_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("links")
    command = [*SLOW, "--links", "10mbit", "--methods", "data_parallel", "--json"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.slow_links
def test_a_step_over_a_slow_link_takes_as_long_as_its_bytes(measured):
    (row,) = measured["rows"]
    assert (row["link"], row["method"]) == ("10 Mbit/s", "data_parallel")
    assert row["payload_bytes"] == 4 * (3 * 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10)
    assert row["wire_bytes"] > 0.8 * row["payload_bytes"]
    assert row["seconds"] > 0.95 * 8 * row["payload_bytes"] / RATE
    assert row["waiting_seconds"] > 0.5 * row["seconds"]
    assert row["records"] >= 3
    assert row["over_independent"] is None


@pytest.mark.slow_links
def test_the_link_was_measured_before_it_was_used(measured):
    link = measured["links"]["10 Mbit/s"]
    assert link["rate"] == RATE
    assert 0 < link["found"]["rate"] <= link["found"]["highest_rate"] < 1.05 * RATE


@pytest.mark.slow_links
@pytest.mark.usefixtures("_may_make_networks")
def test_a_link_has_the_delay_that_it_is_called_by_and_nothing_is_left_of_its_network(tmp_path):
    link = Link(RATE, 0.02)
    with Network(2, tmp_path, link.round_trip / 4, has_netem=False) as network:
        network.shape(link)
        found = probe(network, link)
        held = [host.pid for host in (network.switch, *network.hosts)]
    require(link, found)
    assert found.round_trip >= 0.02
    assert found.highest_rate < 1.05 * RATE
    assert [pid for pid in held if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.slow_links
@pytest.mark.usefixtures("_may_make_networks")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_or_killed_benchmark_leaves_no_process(tmp_path, number):
    command = [*SLOW, "--links", "10mbit+20ms", "--methods", "independent"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with started_in_foreground(command, environment) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("10 Mbit/s + 20 ms: ")  # found; now the run starts
        assert len(processes_of(tmp_path)) > 3
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    if number == signal.SIGINT:
        assert "Killed" not in said
        assert said.splitlines()[-1] == "bench_links.py: stopped"
        assert process.returncode == 130
        assert processes_of(tmp_path) == []
        assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 60
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(tmp_path) == []


def test_where_networks_cannot_be_made_it_is_said_in_a_sentence():
    done = subprocess.run(TOOL, capture_output=True, text=True, env={"PATH": "/nowhere"}, check=False)
    assert done.returncode == 2
    sentence = "it needs root, to make networks" if os.geteuid() else "ip is not on PATH (package iproute2)"
    assert done.stderr == f"bench_links.py: {sentence}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--links", "1gbit,fast"], "fast: no link; expected such as none,10gbit,1gbit,100mbit,1gbit+50ms"),
        (
            ["--methods", "wosh"],
            "wosh: there is no such method; there are independent, wash, wash_overlap, wash_every_10, papa,",
        ),
        (["--members", "1"], "expected --members of 2 or more"),
    ],
)
def test_wrong_arguments_are_named(arguments, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench_links.parse(arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "link", "name"),
    [
        ("none", Link(), "not slowed"),
        ("10gbit", Link(10e9), "10 Gbit/s"),
        ("2.5mbit", Link(2.5e6), "2.5 Mbit/s"),
        ("50ms", Link(None, 0.05), "50 ms"),
        ("100mbit+50ms", Link(100e6, 0.05), "100 Mbit/s + 50 ms"),
    ],
)
def test_a_link_is_read_and_named(text, link, name):
    assert parse_link(text) == link
    assert str(link) == name


@pytest.mark.parametrize("text", ["", "fast", "10", "+50ms", "1gbit+", "1gbit50ms", "0mbit", "1..5mbit", "50ms+1gbit"])
def test_what_is_no_link_is_refused(text):
    with pytest.raises(ValueError, match="no link"):
        parse_link(text)


def test_a_long_link_is_one_of_netem_where_the_kernel_has_it_and_of_delayed_wires_elsewhere():
    delayed, *rates = shaping_commands("eth0", Link(1e9, 0.05), has_netem=True)
    assert "root handle 1: netem delay 12500us" in " ".join(delayed)
    (rate,) = rates
    assert "parent 1:1 handle 10: tbf rate 1000000000bit" in " ".join(rate)
    (alone,) = shaping_commands("eth0", Link(1e9, 0.05), has_netem=False)
    assert "root handle 1: tbf rate 1000000000bit" in " ".join(alone)
    assert shaping_commands("eth0", Link(), has_netem=True) == []


@pytest.mark.parametrize(
    "found",
    [Found(1e7, 1.2e7, 0.02, 0.02), Found(1e7, 1e7, 0.01, 0.02), Found(1e7, 1e7, 0.04, 0.04)],
    ids=["too fast", "no delay", "another delay"],
)
def test_a_link_that_is_not_in_force_is_refused(found):
    with pytest.raises(NetworkError, match="it is not in force"):
        require(Link(RATE, 0.02), found)


def test_the_table_has_each_link_with_what_was_found_and_each_method_beside_independent_members():
    half = Link(1e8)
    rows = [
        bench_links.Row("not slowed", "independent", 0.01, 0.0, 0.0, 10.0, 5),
        bench_links.Row("100 Mbit/s", "independent", 0.02, 0.0, 0.0, 10.0, 5),
        bench_links.Row("not slowed", "wash", 0.015, 0.004, 2e5, 2.1e5, 5),
        bench_links.Row("100 Mbit/s", "wash", 0.08, 0.06, 2e5, 2.1e5, 5),
    ]
    rows = bench_links.beside_independent(rows, ["not slowed", "100 Mbit/s"])
    assert [row.over_independent for row in rows] == pytest.approx([1, 1.5, 1, 4])
    found = {Link(): Found(9e9, 1e10, 3e-5, 4e-5), half: Found(5e7, 9e7, 4e-5, 5e-5)}
    lines = bench_links.in_table(found, rows)
    assert "not slowed (found: 9 Gbit/s, 0.03 ms)" in lines
    assert "at most 100 Mbit/s (found: 50 Mbit/s, 0.04 ms)" in lines
    assert lines[-1].split() == ["wash", "80", "ms", "60", "ms", "200", "kB", "210", "kB", "4.00", "5"]


@pytest.mark.parametrize(
    ("method", "record", "batch"),
    [
        ("independent", 5, 16),
        ("wash_overlap", 5, 16),
        ("wash_every_10", 10, 16),
        ("papa", 10, 16),
        ("papa_all", 100, 16),
        ("data_parallel", 5, 32),
    ],
)
def test_a_record_is_from_one_time_that_a_method_acts_to_the_next(method, record, batch):
    config = bench_links.make_config(bench_links.parse(["--members", "2"]), method)
    assert (config.log.every_steps, config.data.batch_size) == (record, batch)
    assert config.parallel.reducer == "mpi"
    assert config.method.overlap == (method == "wash_overlap")
