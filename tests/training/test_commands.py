"""The commands on real ranks: doctor, evaluate, soup, plan; with and without a launcher."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support import mpirun, train, warm
from wash_hpc.storage.summary import read_summary


def wash_hpc(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command without a launcher."""
    return subprocess.run(
        warm("wash-hpc", *arguments),
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), "run", 3)


def test_the_summary_names_the_members_that_the_greedy_soup_is_the_mean_of(run):
    files = [f"member-{member:04}" for member in read_summary(run).greedy_soup_members]
    assert 1 <= len(set(files)) == len(files) <= 3
    members = [load_file(run / "members" / f"{file}.safetensors") for file in files]
    for name, tensor in load_file(run / "members" / "greedy_soup.safetensors").items():
        if name.endswith(".weight"):
            torch.testing.assert_close(tensor, sum(member[name] for member in members) / len(members))


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_evaluate_says_on_any_number_of_ranks_what_the_run_itself_found(run, num_ranks):
    done = mpirun(num_ranks, "wash-hpc", "evaluate", str(run), "--json")
    assert done.returncode == 0, done.stderr
    accuracies = json.loads(done.stdout)
    summary = read_summary(run)
    assert accuracies["ensemble_accuracy"] == summary.ensemble_accuracy
    assert accuracies["soup_accuracy_raw"] == summary.soup_accuracy_raw
    assert max(accuracies["member_accuracy"]) == summary.best_member_accuracy
    assert len(accuracies["member_accuracy"]) == 3


def test_a_run_is_judged_where_its_training_could_not_be_run(run):
    faster = ["train.cuda_graph=true", "train.channels_last=true", "train.compile=true"]  # no GPU; a narrow network
    done = wash_hpc("evaluate", str(run), "--json", *faster)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ensemble_accuracy"] == read_summary(run).ensemble_accuracy


def test_evaluate_prints_a_table_for_people(run):
    done = wash_hpc("evaluate", str(run), "--split", "held_out", "--greedy", "evaluate.batch_size=5")
    assert done.returncode == 0, done.stderr
    heading, titles, *lines = done.stdout.splitlines()
    assert heading.endswith(": 16 held_out images")
    assert titles.split() == ["accuracy", "top-5", "NLL", "calibration", "error"]
    rows = [line.split()[0] for line in lines]
    assert rows == ["member"] * 3 + ["member,", "ensemble", "ensemble", "soup", "soup,", "greedy", "pairs", "consensus"]
    assert len({line.index("%") for line in lines[:9]}) == 1  # aligned
    assert "100.00%" in lines[0]  # top-5 of four classes


def test_evaluate_gives_a_program_everything(run):
    done = mpirun(2, "wash-hpc", "evaluate", str(run), "--json", "--greedy")
    assert done.returncode == 0, done.stderr
    judged, summary = json.loads(done.stdout), read_summary(run)
    assert judged["metric"] == summary.metric == "accuracy"
    assert len(judged["members"]) == 3
    for name in ("member", "best_member", "ensemble", "ensemble_probabilities", "soup_raw"):
        assert judged["scores"][name] == pytest.approx(summary.scores[name], abs=1e-6), name
    assert judged["disagreement"] == summary.disagreement
    assert judged["greedy_soup_members"]
    assert judged["consensus_distance"] == pytest.approx(summary.consensus_distance, rel=1e-5)
    per_layer = judged["consensus_distance_per_layer"]
    assert math.hypot(*per_layer.values()) == pytest.approx(judged["consensus_distance"])
    assert set(per_layer) <= set(load_file(run / "members" / "soup.safetensors"))


def test_a_greedy_soup_without_held_out_images_is_refused(run):
    done = mpirun(2, "wash-hpc", "evaluate", str(run), "--greedy", "data.held_out=0")
    assert done.returncode == 2
    assert done.stderr.count("data.held_out=0: a greedy soup needs held-out images") == 1


def test_soup_writes_the_mean_of_the_members(run, tmp_path):
    done = wash_hpc("soup", str(run), "--output", str(tmp_path / "soup.safetensors"))
    assert done.returncode == 0, done.stderr
    again, first = load_file(tmp_path / "soup.safetensors"), load_file(run / "members" / "soup.safetensors")
    assert again.keys() == first.keys()
    for name in first:  # statistics are measured in other batches on one rank than on three
        exact = "running" not in name
        assert (
            torch.equal(again[name], first[name])
            if exact
            else torch.allclose(again[name], first[name], rtol=0.5, atol=0.2)
        )


def test_a_soup_that_cannot_be_written_is_said_in_a_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    done = wash_hpc("soup", str(run), "--output", str(tmp_path / "file" / "soup.safetensors"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"wash_hpc: error: {tmp_path}/file: cannot be made")


def test_greedy_soup_says_which_members_are_in_it(run):
    done = mpirun(2, "wash-hpc", "soup", str(run), "--kind", "greedy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(run / "members" / "greedy_soup.safetensors") + ": greedy soup of members")


def test_a_repaired_soup_is_written_beside_the_others_with_the_members_keys(run):
    done = mpirun(2, "wash-hpc", "soup", str(run), "--kind", "repair")
    assert done.returncode == 0, done.stderr
    file = run / "members" / "repair_soup.safetensors"
    assert done.stdout.startswith(f"{file}: repair soup of members 0, 1, 2; test accuracy")
    repaired, plain = load_file(file), load_file(run / "members" / "soup.safetensors")
    # Batch normalisation follows all its hidden layers: REPAIR leaves those alone, and recomputes the statistics.
    assert repaired.keys() == plain.keys()
    assert all(torch.equal(repaired[name], plain[name]) for name in plain if "running" not in name)
    assert all(torch.isfinite(tensor).all() for tensor in repaired.values())


@pytest.mark.parametrize("command", ["evaluate", "soup"])
def test_commands_refuse_what_is_no_finished_run(tmp_path, command):
    done = mpirun(2, "wash-hpc", command, str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("not a run's folder") == 1


def test_a_damaged_member_is_named(run, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    file = copy / "members" / "member-0001.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    done = wash_hpc("evaluate", str(copy))
    assert done.returncode == 2
    assert "member-0001.safetensors: not readable as safetensors" in done.stderr


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_doctor_tries_every_part_for_real(num_ranks):
    done = mpirun(num_ranks, "wash-hpc", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    states = {line[:10].strip(): line[10:].split()[0] for line in done.stdout.splitlines() if line[:1].strip()}
    parts = ("python", "MPI", "cores", "exchange", "messages", "Horovod", "DALI", "HDF5", "versions")
    assert {part: states[part] for part in parts} == dict.fromkeys(parts, "ok")
    assert f"{num_ranks} rank{'s' * (num_ranks > 1)} on 1 host ({num_ranks} on {platform.node()})" in done.stdout
    assert ("; sm in a host" in done.stdout) == (num_ranks > 1)
    assert ("in a host: " in done.stdout and "GB/s" in done.stdout) == (num_ranks > 1)
    assert "across" not in done.stdout
    assert done.stdout.startswith("python")  # Open MPI's own words are not shown
    assert "CUDA-MPI  ok       this MPI" in done.stdout
    assert "built with MPI, NCCL" in done.stdout


def test_doctor_says_where_the_ranks_do_not_fit_the_slurm_job():
    few = len(os.sched_getaffinity(0))
    job = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "8", "SLURM_JOB_NUM_NODES": "2"}
    done = mpirun(2, "wash-hpc", "doctor", **job, SLURM_CPUS_PER_TASK=str(few + 1))
    assert done.returncode == 0, done.stdout + done.stderr  # a warning is no fault
    for said in (
        "Slurm     ok       job 42 on node[1-2]\n",
        "warning: ranks: 2, tasks: 8; to start as many: mpirun -n 8",
        "warning: the ranks are on 1 host, and the job has 2",
        f"warning: ranks 0, 1 may run on {few} core",
    ):
        assert said in done.stdout
    assert "2 tasks and as many ranks" in mpirun(2, "wash-hpc", "doctor", **job | {"SLURM_NTASKS": "2"}).stdout


def test_doctor_in_tasks_of_srun_that_do_not_see_each_other_says_so_once():
    job = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
    with ThreadPoolExecutor(2) as tasks:
        first, second = tasks.map(lambda task: wash_hpc("doctor", **job, SLURM_PROCID=str(task)), range(2))
    assert (first.returncode, second.returncode) == (1, 0)  # srun --kill-on-bad-exit must not end task 0 by the other
    assert "MPI       broken   this is task 0 of 2 that srun started, and MPI sees one rank" in first.stdout
    assert "DALI      ok" in first.stdout
    assert "warning: ranks:" not in first.stdout
    assert second.stdout == second.stderr == ""


BROKEN = """
import os, platform, sys
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    platform.python_version = lambda: "3.9.9"  # what another host might have
sys.modules["nvidia.dali"] = None  # not installed
import wash_hpc.parallel.device as device
device.shuffle_members = lambda values, draw: values + 1  # an MPI that delivers wrong values
from wash_hpc.__main__ import main
raise SystemExit(main(["doctor"]))
"""


def test_doctor_exits_with_one_where_something_is_broken_and_says_what_is_missing():
    done = mpirun(2, sys.executable, "-c", BROKEN)
    assert done.returncode == 1
    assert "exchange  broken" in done.stdout
    assert (
        "versions  broken   WorldError: the ranks of this job are not alike: rank 1: Python 3.9.9, the " in done.stdout
    )
    assert (
        "DALI      missing  NVIDIA DALI is not installed; install it with: pip install 'wash_hpc[dali]'" in done.stdout
    )


ON_ONE_GPU = """
import sys
import wash_hpc.requirements as requirements
from wash_hpc.parallel.gpus import Place
requirements.place_of = lambda device: Place("node07", "the GPU")  # what all ranks of a host with one GPU would find
from wash_hpc.__main__ import main
raise SystemExit(main(["train", *sys.argv[1:]]))
"""


def test_ranks_that_would_share_a_gpu_unasked_are_refused_once_and_nothing_is_written(tmp_path):
    from tests.support import TINY

    config = tmp_path / "c.yaml"
    config.write_text("{}\n")
    where = [str(config), *TINY, f"run.dir={tmp_path}", "run.name=crowd", "parallel.reducer=mpi"]
    done = mpirun(2, sys.executable, "-c", ON_ONE_GPU, *where)
    assert done.returncode == 2
    assert done.stderr.count("parallel.share_gpus=false: on host node07 2 ranks have 1 GPU;") == 1
    assert not (tmp_path / "crowd").exists()
    done = mpirun(2, sys.executable, "-c", ON_ONE_GPU, *where, "parallel.share_gpus=true")
    assert done.returncode == 0, done.stderr
    assert read_summary(tmp_path / "crowd").num_members == 2


def test_plan_predicts_the_papers_figures_and_starts_nothing(tmp_path):
    """ResNet-18 on CIFAR, five members: METHOD's 1/438 of PAPA by the papers' count, which is d / 10 for PAPA."""
    done = wash_hpc(
        "plan", "configs/cifar10_resnet18_wash.yaml", "--members", "5", "--json", f"run.dir={tmp_path}/runs"
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["num_parameters"] == 11_173_962
    # p / 2 nominal becomes 0.228 p for this network: picked are 0.228 p d, four fifths of which move.
    assert plan["values_moved_per_exchange"] / (11_173_962 * 0.001 * 0.8) == pytest.approx(0.228, abs=0.005)
    assert (11_173_962 / 10) / (plan["values_moved_per_exchange"] / 0.8) == pytest.approx(438, rel=0.02)
    assert plan["data_parallel_bytes_per_member"] == pytest.approx(10 * plan["papa_bytes_per_member"], rel=0.01)
    assert plan["data_assumed"]
    assert list(tmp_path.iterdir()) == []


def test_plan_counts_the_steps_that_a_run_would_do():
    done = wash_hpc("plan", "configs/imagenet_resnet50_wash.yaml", "--json")
    plan = json.loads(done.stdout)
    assert plan["num_steps"] == 90 * ((1_281_167 - round(0.02 * 1_281_167)) // 256)


@pytest.mark.parametrize("name", ["torchvision.regnet_y_400mf", "torchvision.vit_b_16", "torchvision.inception_v3"])
def test_plan_knows_every_family_of_networks(name):
    size = ["data.image_size=299", "data.resize=342"] if "inception" in name else []
    done = wash_hpc("plan", "configs/imagenet_resnet50_wash.yaml", f"model.name={name}", *size)
    assert done.returncode == 0, done.stderr


def test_plan_explains_itself_to_people():
    done = wash_hpc("plan", "configs/imagenet_resnet50_wash.yaml", "--members", "4")
    assert done.returncode == 0, done.stderr
    for word in ("25,557,032 in 161 layers", "by a member in the run", "memory", "assumed is"):
        assert word in done.stdout


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["soup"], ["plan"], ["doctor"]])
def test_help_says_what_a_command_does(command):
    done = wash_hpc(*command, "--help")
    assert done.returncode == 0
    assert len(done.stdout) > 200


def test_key_value_arguments_may_stand_behind_options_and_a_wrong_option_is_refused():
    done = wash_hpc("plan", "configs/digits_wash.yaml", "--members", "2", "method.p=2", "data.name=synthetic")
    assert done.returncode == 2
    assert "method.p=2.0: expected a probability" in done.stderr
    done = wash_hpc("plan", "configs/digits_wash.yaml", "--member", "2", "--fast")
    assert done.returncode == 2
    assert "unrecognized arguments: --fast" in done.stderr


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_tasks_of_srun_that_do_not_see_each_other_stop_with_one_sentence(command, tmp_path):
    what = ["configs/digits_wash.yaml", f"run.dir={tmp_path}"] if command == "train" else [str(tmp_path)]
    job = {"SLURM_JOB_ID": "42", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3"}
    with ThreadPoolExecutor(3) as tasks:
        done = list(tasks.map(lambda task: wash_hpc(command, *what, **job, SLURM_PROCID=str(task)), range(3)))
    assert [task.returncode for task in done] == [2, 2, 2]
    assert "".join(task.stdout for task in done) == ""
    said = "".join(task.stderr for task in done)
    assert said.count("\n") == 1
    assert said.startswith("wash_hpc: error: this is task 0 of 3 that srun started, and MPI sees one rank")
    assert list(tmp_path.iterdir()) == []


def test_names_of_methods_data_sets_and_models_are_listed():
    done = wash_hpc("train", "--list", COLUMNS="60")
    assert done.returncode == 0
    for name in ("independent wash", "image_folder shards", "torchvision.resnet50", "resnet_small"):
        assert name in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60


def test_without_a_launcher_a_run_is_one_member(tmp_path):
    from tests.support import TINY

    config = tmp_path / "c.yaml"
    config.write_text("{}\n")
    done = wash_hpc("train", str(config), *TINY, f"run.dir={tmp_path}", "run.name=alone")
    assert done.returncode == 0, done.stderr
    assert read_summary(tmp_path / "alone").num_members == 1


def test_the_exchange_is_measured_beside_its_floor():
    """That it runs and says all that it promises; figures are for a quiet machine (docs/results.md)."""
    small = ["--model", "mlp", "--members", "2", "--rounds", "20", "--step-seconds", "0", "--json"]
    done = subprocess.run(
        [sys.executable, "tools/bench_exchange.py", *small], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    promised = (
        "critical_path_over_floor draw_wait_over_floor draw_and_plan_seconds dense_draw_over_ours bytes_sent "
        "bytes_predicted mask_and_allreduce_over_ours peak_extra_bytes"
    )
    assert set(promised.split()) <= set(figures)
    assert abs(figures["bytes_sent"] - figures["bytes_predicted"]) < figures["bytes_deviation_allowed"]


def test_the_benchmark_of_the_step_compares_the_same_model_three_ways():
    """That it runs and says all that it promises; figures are for a quiet machine (docs/results.md)."""
    small = ["--model", "mlp", "--batch-size", "4", "--image-size", "8", "--rounds", "5", "--json"]
    done = subprocess.run([sys.executable, "tools/bench_train.py", *small], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    for loop in ("plain", "independent", "wash"):
        assert figures[f"{loop}_images_per_second"] == pytest.approx(4 / figures[f"{loop}_seconds"])
    assert figures["ours_over_plain"] > 0
    assert figures["wash_over_independent"] > 0
    assert 0 < figures["wash_exchange_share"] < 1
    assert figures["bytes_sent_per_step"] > 0
    assert figures["peak_bytes_more_than_plain"] == figures["wash_peak_bytes"] - figures["plain_peak_bytes"]
    assert figures["exchange_buffer_bytes"] > 0


def test_the_benchmark_of_the_step_refuses_a_model_that_does_not_exist_in_a_sentence():
    command = [sys.executable, "tools/bench_train.py", "--model", "resnet51"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("bench_train.py: model.name=resnet51: there is no such name")


def test_the_start_is_measured_by_part_with_the_files_that_a_rank_opens():
    small = ["--ranks", "2", "--files", "200", "--reducer", "mpi", "--json"]
    done = subprocess.run(
        [sys.executable, "tools/bench_startup.py", *small], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["num_files"] == 200
    (row,) = figures["rows"]
    assert row["num_ranks"] == 2
    parts = ["imports", "mpi", "configuration", "device", "data", "model", "reducer", "optimizer", "rest"]
    for part in (*parts, "first_batch"):
        assert 0 <= row[f"{part}_seconds"] < row["seconds_to_first_step"]
    assert sum(row[f"{part}_seconds"] for part in parts) > row["seconds_to_first_step"] - row["launch_seconds"] - 0.1
    assert row["files_opened_by_a_rank"] > 1000
    assert row["folders_listed_by_root"] == 2 + 2 * 100  # two splits of a hundred classes
    assert row["folders_listed_by_others"] == 0
    assert row["by_all_over_once"] == pytest.approx(row["listed_by_all_seconds"] / row["listed_once_seconds"])


def test_the_benchmark_of_checkpoints_compares_the_hold_up_with_a_copy_and_a_write():
    small = ["--parameters", "100000", "--rounds", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "tools/bench_checkpoint.py", *small], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["bytes_a_member"] == 2 * 4 * 100_000
    seconds = {way: figures[f"{way}_seconds"] for way in ("background", "synchronous", "copy")}
    assert all(spent > 0 for spent in seconds.values())
    assert figures["background_over_copy"] == pytest.approx(seconds["background"] / seconds["copy"])
    assert figures["synchronous_over_background"] == pytest.approx(seconds["synchronous"] / seconds["background"])


def bench_data(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/bench_data.py", "--batch-size", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_data_path_is_measured_beside_torchvisions_loader():
    done = bench_data("--images", "32", "--rounds", "1", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["num_images"], figures["workers"], figures["batch_size"], figures["rounds"]) == (32, 1, 2, 1)
    assert figures["mean_file_bytes"] > figures["mean_file_bytes_shrunk"] > 1000
    for suffix in ("", "_sequential", "_shrunk"):
        ours, rival = (figures[f"{name}_images_per_second{suffix}"] for name in ("dali", "torchvision"))
        assert ours > 0
        assert figures[f"dali_over_torchvision{suffix}"] == pytest.approx(ours / rival)


def test_a_measurement_of_the_data_path_refuses_wrong_input_in_a_sentence(tmp_path):
    done = bench_data("--data", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"bench_data.py: data.path={tmp_path}/nowhere: there is no such")
    for file in (tmp_path / "train/a/1.jpg", tmp_path / "val/a/1.jpg"):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"\xff\xd8\xff")
    done = bench_data("--images", "48", "--data", str(tmp_path), "--workers", "1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"bench_data.py: {tmp_path}/train/a/1.jpg: this image cannot be decoded"
    assert "at least 16 batches, which are 32: 6 of a round" in bench_data("--images", "31", "--workers", "1").stderr
    assert "at least 45 batches, which are 90: 35 of a round" in bench_data("--images", "89", "--workers", "16").stderr
