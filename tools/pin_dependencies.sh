#!/usr/bin/env bash
# Resolves all dependencies anew and writes constraints.txt; `make constraints` runs it. Installs nothing.
#
# The pins must hold for every Python that is supported, so this runs on the oldest: newer releases of numpy and others drop it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

oldest=3.11
found=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[[ $found == "$oldest" ]] || { echo "pin_dependencies: .venv has Python $found; pin with $oldest, the oldest supported" >&2; exit 1; }

report=$(mktemp)
trap 'rm -f "$report"' EXIT
.venv/bin/python -m pip install --dry-run --ignore-installed --quiet --report "$report" \
    pip -r tools/horovod_build_requirements.txt '.[all,test]'
.venv/bin/python - "$report" >constraints.new <<'END'
import json
import sys

packages = [item["metadata"] for item in json.load(open(sys.argv[1]))["install"]]
print("# Every package of the development environment, pinned. Written by `make constraints` (tools/pin_dependencies.sh); do not edit.")
print("# Resolved on Python 3.11 for Linux x86-64; holds for Python 3.12 too.")
for name, version in sorted((p["name"].lower().replace("_", "-"), p["version"]) for p in packages if p["name"] != "wash_hpc"):
    print(f"{name}=={version}")
END
mv constraints.new constraints.txt
echo "pin_dependencies: constraints.txt has $(grep -c '==' constraints.txt) packages"
