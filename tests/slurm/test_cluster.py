"""The test cluster itself: its hosts, what it says of jobs, its power cuts, and that nothing is left of it."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm import hosts
from tests.slurm.cluster import Cluster, ClusterError, running_cluster
from tests.slurm.configuration import NODES
from tests.slurm.jobs import ROOT
from tests.slurm.processes import find_processes
from tests.slurm.records import parse_records

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ABANDONED = """\
import sys, time
from tests.slurm.cluster import running_cluster
with running_cluster() as cluster:
    cluster.submit(None, options=["--nodes=2", "--wrap=srun sleep 1000"])
    cluster.wait_for_process("sleep", "node2")
    print(cluster.folder, flush=True)
    time.sleep(1000)
"""


def networks() -> set[str]:
    """Those that any process of this machine is in."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found.add(hosts.network_of(int(entry.name)))
        except OSError:  # it has ended
            continue
    return found


def traces() -> list[str]:
    """What a cluster might leave in this machine's own view: wires and bridges, mounts, named networks."""
    links = [path.name for path in Path("/sys/class/net").iterdir()]
    named = [str(path) for path in Path("/run").glob("netns/*")]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted([*links, *named, *mounts, Path("/etc/hosts").read_text()])


def test_each_node_is_a_host_with_a_name_and_an_address_of_its_own_or_none_is(cluster: Cluster) -> None:
    ask = 'srun sh -c "hostname; cat /proc/net/fib_trie; getent hosts node1 node2; true"'
    job = cluster.run(None, options=["--nodes=2", f"--wrap={ask}"], seconds=180)
    assert job.state == "COMPLETED", job.log
    lines = [line.strip() for line in job.log.split("\n")]
    if not cluster.separate_hosts:
        assert lines.count(platform.node()) == len(NODES)
        return
    for node in NODES:
        assert lines.count(node) == 1
        assert f"|-- {hosts.ADDRESSES[node]}" in lines
        assert lines.count(f"{hosts.ADDRESSES[node]:<15} {node}") == len(NODES)


def test_a_job_array_has_a_state_and_a_log_for_each_task(cluster: Cluster) -> None:
    job_id = cluster.submit(
        None, options=["--array=0-2%1", "--wrap=echo task $SLURM_ARRAY_TASK_ID; exit $SLURM_ARRAY_TASK_ID"]
    )
    jobs = cluster.wait_for_tasks(job_id, 180)
    assert [(job.state, job.exit_code) for job in jobs] == [("COMPLETED", "0:0"), ("FAILED", "1:0"), ("FAILED", "2:0")]
    assert [job.log for job in jobs] == ["task 0\n", "task 1\n", "task 2\n"]
    assert cluster.wait_for(f"{job_id}_1", 10) == jobs[1]
    assert cluster.log(job_id) == "task 0\ntask 1\ntask 2\n"


def test_the_users_own_words_in_a_record_are_not_taken_for_fields(cluster: Cluster) -> None:
    odd = ["--job-name=a b JobState=FAILED", "--comment=JobState=TIMEOUT Restarts=x", "--wrap=true"]
    job = cluster.run(None, options=odd, seconds=180)
    assert (job.state, job.num_restarts) == ("COMPLETED", 0)
    [record] = parse_records("JobId=7 JobName=a=b c\n   JobState=RUNNING Reason=words in it Dependency=(null)\n   X=\n")
    assert record == {
        "JobId": "7",
        "JobName": "a=b c",
        "JobState": "RUNNING",
        "Reason": "words",
        "Dependency": "(null)",
        "X": "",
    }


def test_a_signal_reaches_the_batch_script_and_no_other_process_of_the_job(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\ntrap 'echo script has it; kill $!' USR2\nsrun sleep 1000 &\nwait; wait\n")
    job_id = cluster.submit(script, options=["--nodes=2"])
    for node in NODES:
        cluster.wait_for_process("sleep", node)
    cluster.signal(job_id, "USR2")
    job = cluster.wait_for(job_id, 180)
    assert "script has it" in job.log
    assert "User defined signal" not in job.log


@pytest.mark.parametrize("node", NODES)
def test_a_job_whose_node_lost_its_power_starts_again_when_the_node_is_back(
    cluster: Cluster, tmp_path: Path, node: str
) -> None:
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\necho start ${SLURM_RESTART_COUNT:-0}\nsrun sleep $((SLURM_RESTART_COUNT ? 0 : 1000))\n"
    )
    job_id = cluster.submit(script, options=["--nodes=2", "--open-mode=append"])
    cluster.wait_for_process("sleep", node)
    cluster.kill_node(node)
    assert find_processes(cluster.folder, node) == []
    cluster.wait_until("requeued job", lambda: cluster.states(job_id) == ["PENDING"])
    assert cluster.describe_node(node)["State"].startswith("DOWN")
    cluster.start_node(node)
    job = cluster.wait_for(job_id, 180)
    assert (job.state, job.num_restarts) == ("COMPLETED", 1), job.log
    assert "start 0" in job.log
    assert "start 1" in job.log


def test_a_job_that_may_not_be_requeued_ends_with_its_node(cluster: Cluster) -> None:
    job_id = cluster.submit(None, options=["--nodes=2", "--no-requeue", "--wrap=srun sleep 1000"])
    cluster.wait_for_process("sleep", "node2")
    cluster.kill_node("node2")
    job = cluster.wait_for(job_id, 180)
    cluster.start_node("node2")
    assert (job.state, job.num_restarts) == ("NODE_FAIL", 0)


def test_where_hosts_cannot_be_made_two_nodes_share_one() -> None:
    with running_cluster(separate_hosts=False) as other:
        assert not other.separate_hosts
        job = other.run(None, options=["--nodes=2", "--wrap=srun printenv SLURMD_NODENAME"], seconds=180)
        assert sorted(job.log.split()) == list(NODES)
        assert hosts.network_of(other.daemons["slurmd-node2"].pid) == hosts.network_of(os.getpid())


def test_a_process_without_the_rights_is_told_what_keeps_it_from_making_hosts() -> None:
    ask = "from tests.slurm.hosts import find_obstacle; print(find_obstacle())"
    command = [sys.executable, "-c", ask]
    if os.getuid() == 0:
        command = ["setpriv", "--bounding-set=-sys_admin,-net_admin", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "unshare" in done.stdout


def test_the_end_of_a_cluster_ends_its_jobs_and_leaves_nothing(cluster: Cluster) -> None:
    before = traces()
    with running_cluster() as other:
        other.submit(None, options=["--nodes=2", "--wrap=srun sleep 1000"])
        for node in NODES:
            other.wait_for_process("sleep", node)
        assert len(find_processes(other.folder)) > len(other.daemons)
        its_networks = {hosts.network_of(pid) for pid in find_processes(other.folder)}
        assert len(its_networks) == (4 if other.separate_hosts else 1)
        assert traces() == before
    assert find_processes(other.folder) == []
    assert not other.folder.exists()
    assert networks() & its_networks == {hosts.network_of(os.getpid())}
    assert len(find_processes(cluster.folder)) >= len(cluster.daemons)


def test_tests_that_are_killed_leave_nothing_of_their_cluster() -> None:
    before = traces()
    abandoned = subprocess.Popen([sys.executable, "-c", ABANDONED], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert abandoned.stdout is not None
    folder = Path(abandoned.stdout.readline().strip())
    its_networks = {hosts.network_of(pid) for pid in find_processes(folder)}
    assert len(find_processes(folder)) > 4
    abandoned.send_signal(signal.SIGKILL)
    abandoned.communicate()
    deadline = time.monotonic() + 20
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists()
    assert find_processes(folder) == []
    assert networks() & its_networks <= {hosts.network_of(os.getpid())}
    assert traces() == before


def test_a_daemon_that_ends_by_itself_is_named_and_its_output_shown() -> None:
    with running_cluster() as other:
        other.start("unlucky", ["sh", "-c", "echo no luck today; exit 3"])
        with pytest.raises(ClusterError, match=r"unlucky ended with status 3\n(?s:.*)no luck today"):
            other.wait_until("luck", lambda: False)
    assert not other.folder.exists()
