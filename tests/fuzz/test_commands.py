"""A run's folder in which files are damaged, given to the commands: each does its work, or ends with a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.fuzz.inputs import batch, damaged, random_damages
from tests.support import TINY

COMMANDS = [["train", "checkpoint.resume=auto"], ["evaluate"], ["soup"], ["soup", "--kind", "greedy"], ["summarize"]]

RUNNER = """
import json, shutil, signal, sys, traceback
from pathlib import Path
from wash_hpc.__main__ import main
from wash_hpc.report.summarize import main as summarize
signal.alarm(500)
always = sys.argv[1:]
for number, (command, folder) in enumerate(json.load(sys.stdin)):
    print(number, "began", *command, folder, file=sys.stderr, flush=True)
    kind, *options = command
    name = [f"run.name={Path(folder).name}", f"run.dir={Path(folder).parent}"]
    try:
        if kind == "train":
            status = main([kind, *always, *name, *options])
        else:
            status = summarize([folder]) if kind == "summarize" else main([kind, folder, *options])
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        traceback.print_exc()
        status = "FAILED"
    print(number, status, folder, flush=True)
    shutil.rmtree(folder)
print("all")
"""


def test_a_command_on_a_damaged_run_does_its_work_or_ends_with_a_sentence(tmp_path: Path) -> None:
    tiny, run = tmp_path / "tiny.yaml", tmp_path / "run"
    tiny.write_text("{}\n")
    always = [str(tiny), *TINY, "model.name=mlp", "train.steps=4", "checkpoint.every_steps=2", "parallel.reducer=mpi"]
    command = [sys.executable, "-m", "wash_hpc", "train", *always, f"run.dir={tmp_path}", "run.name=run"]
    subprocess.run(command, check=True, capture_output=True)
    files = sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file())
    num_cases, random = batch(40)
    cases = []
    for number in range(num_cases):
        name, what = random.choice(files), COMMANDS[number % len(COMMANDS)]
        spoilt = tmp_path / f"spoilt-{number}"
        shutil.copytree(run, spoilt)
        (spoilt / name).write_bytes(damaged((run / name).read_bytes(), random_damages(random)))
        if what[0] == "train" and name != "summary.json":
            (spoilt / "summary.json").unlink()  # as if it had not finished
        cases.append([what, str(spoilt)])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, *always],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    ends = [line.split()[1] for line in done.stdout.splitlines() if line.split()[-1].startswith(str(tmp_path))]
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    assert done.stdout.endswith("all\n"), f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert set(ends) == {"0", "2"}, f"{set(ends)}: {done.stderr[-4000:]}"
