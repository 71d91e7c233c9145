"""Ask the public databases of vulnerabilities about every pinned package; `make audit` runs it.

    tools/audit.py [--osv-url URL]

What is found fails, unless it is in [tool.wash_hpc.audit] of pyproject.toml with the reason why it does not concern us.
Where no database answers, as on a machine without internet, that is said, and nothing fails: constraints.txt is then
what it was when it was last reviewed. pip-audit lives in an environment of its own, build/audit, because it would bring
thirty packages into the one that it judges.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIP_AUDIT = "pip-audit==2.10.1"
SECONDS = 15  # for one answer
FOLDER = Path("build/audit")


@dataclass(frozen=True)
class Audit:
    """What one database said.

    Attributes:
        num_known: packages of which it said something.
        unknown: names of those of which it said nothing.
        found: `package version: ID, fixed in VERSIONS` of each vulnerability that is not ignored.
        used: ids of those that are ignored.
    """

    num_known: int
    unknown: list[str]
    found: list[str]
    used: set[str]


def judge(report: dict[str, Any], ignored: dict[str, str]) -> Audit:
    """What a report of pip-audit in JSON comes to; a package that was skipped was not audited."""
    known = [package for package in report["dependencies"] if "skip_reason" not in package]
    unknown = [package["name"] for package in report["dependencies"] if "skip_reason" in package]
    found, used = [], set()
    for package in known:
        for vulnerability in package["vulns"]:
            names = {vulnerability["id"], *vulnerability.get("aliases", [])}
            if names & set(ignored):
                used |= names & set(ignored)
                continue
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            found.append(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    return Audit(len(known), unknown, found, used)


def read_ignored(file: Path) -> dict[str, str]:
    """Ids of vulnerabilities that do not concern this package, and why."""
    ignored: dict[str, str] = tomllib.loads(file.read_text())["tool"]["wash_hpc"]["audit"]["ignored"]
    if not all(reason.strip() for reason in ignored.values()):
        sys.exit(f"audit: error: {file}: every id in [tool.wash_hpc.audit.ignored] needs a reason")
    return ignored


def install() -> bool:
    """Install pip-audit, where it is not there; whether it is there now."""
    if (FOLDER / "bin/pip-audit").exists():
        return True
    subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    command = [str(FOLDER / "bin/pip"), "install", "--quiet", PIP_AUDIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"audit: {PIP_AUDIT} cannot be installed: {' '.join(done.stderr.split())[-200:]}")
    return done.returncode == 0


def ask(service: list[str]) -> dict[str, Any] | None:
    """The report of one database on constraints.txt; None where it does not answer."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", str(SECONDS), "--format", "json"]
    command = [str(FOLDER / "bin/pip-audit"), "--requirement", "constraints.txt", *options, *service]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        print(f"audit: {' '.join(service)}: no answer: {said[-1][:200]}")
        return None
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask the databases of vulnerabilities about every pinned package.")
    parser.add_argument("--osv-url", help="of another database in the form of osv.dev")
    options = parser.parse_args()
    ignored = read_ignored(Path("pyproject.toml"))
    if not install():
        return 0
    osv = ["--vulnerability-service", "osv", *(["--osv-url", options.osv_url] if options.osv_url else [])]
    for service in [osv] if options.osv_url else [["--vulnerability-service", "pypi"], osv]:
        report = ask(service)
        audit = judge(report, ignored) if report else None
        if audit is None or audit.num_known == 0:
            print(f"audit: {' '.join(service)}: says nothing of any of the packages")
            continue
        if audit.unknown:
            print(f"audit: not audited, because unknown there: {', '.join(audit.unknown)}")
        for id_ in sorted(set(ignored) - audit.used):
            print(f"audit: {id_} is ignored and was not found; it may be taken out of pyproject.toml")
        for line in audit.found:
            print(f"audit: {line}")
        print(
            f"audit: {audit.num_known} packages audited, {len(audit.found)} vulnerabilities, {len(audit.used)} ignored"
        )
        return 1 if audit.found else 0
    print("audit: NOT AUDITED: no database answers from here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
