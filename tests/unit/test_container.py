"""The Apptainer recipe as a text: what it copies is there, and what it runs is shell. Nothing is built."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def sections() -> dict[str, str]:
    """The recipe's sections by name; what stands before the first is the header."""
    parts = re.split(r"^%(\w+)\n", (ROOT / "slurm/wash_hpc.def").read_text(), flags=re.MULTILINE)
    return {"header": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_the_recipe_has_its_sections():
    assert list(sections()) == ["header", "files", "post", "environment", "runscript", "test", "help"]
    assert sections()["header"].startswith("Bootstrap: docker\nFrom: debian:")


def test_each_line_copies_one_thing_that_is_there_to_its_own_name():
    lines = [line.split() for line in sections()["files"].splitlines() if line]
    for source, destination in lines:
        assert (ROOT / source).exists()
        assert destination == f"/opt/wash_hpc/{source}"
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "wash_hpc", "tools"}
    assert needed <= {source for source, _ in lines}


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_the_shell_can_parse_what_is_run(name):
    checked = subprocess.run(["sh", "-n"], input=sections()[name], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_a_setting_of_the_host_wins_over_that_of_the_image():
    script = sections()["environment"] + 'echo "$PMIX_MCA_psec $PMIX_MCA_gds ${PATH%%:*}"'

    def run(**given: str) -> str:
        environment = {"PATH": "/usr/bin:/bin", **given}
        return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True).stdout

    assert run() == "native hash /opt/wash_hpc/.venv/bin\n"
    assert run(PMIX_MCA_psec="munge").startswith("munge hash")
