"""The audit of pinned packages: what is found counts, what is ignored has a reason, what was skipped is not audited."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.audit import judge, read_ignored

REPORT = {
    "dependencies": [
        {"name": "good", "version": "1", "vulns": []},
        {
            "name": "bad",
            "version": "2",
            "vulns": [
                {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"], "description": "x"},
                {"id": "PYSEC-2", "aliases": [], "fix_versions": [], "description": "y"},
            ],
        },
        {"name": "elsewhere", "skip_reason": "Dependency not found on PyPI"},
    ]
}


def test_a_vulnerability_counts_unless_it_is_ignored_by_any_of_its_names():
    audit = judge(REPORT, {"CVE-1": "we do not call it"})
    assert audit.found == ["bad 2: PYSEC-2, fixed in no version yet"]
    assert (audit.num_known, audit.unknown, audit.used) == (2, ["elsewhere"], {"CVE-1"})


def test_what_was_skipped_is_not_audited():
    assert judge({"dependencies": REPORT["dependencies"][2:]}, {}).num_known == 0


def test_what_is_ignored_has_a_reason(tmp_path):
    read_ignored(Path("pyproject.toml"))
    file = tmp_path / "pyproject.toml"
    file.write_text('[tool.wash_hpc.audit.ignored]\n"CVE-1" = " "\n')
    with pytest.raises(SystemExit, match="needs a reason"):
        read_ignored(file)


def test_every_package_is_pinned_to_one_version():
    lines = [line for line in Path("constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[a-z0-9.-]+==[a-zA-Z0-9.+!]+", line) for line in lines)
