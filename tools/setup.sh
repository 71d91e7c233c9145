#!/usr/bin/env bash
# Makes .venv: pinned dependencies, this package (editable), Horovod. `make setup`, `make demo` and `make test` run it; it returns at once when
# nothing changed since the last time. PYTHON=/path/to/python chooses the interpreter, PIP_* variables and pip's configuration are obeyed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$PWD/.venv
log=$venv/setup.log
finished=$venv/setup.finished      # holds the key of what was installed
unfinished=$venv/setup.unfinished  # exists while packages are being changed: what a killed run leaves is not to be trusted

die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# The folder is part of the key because a virtual environment holds absolute paths: a clone that was moved or copied needs a new one.
key=$({ cat pyproject.toml constraints.txt tools/setup.sh tools/install_horovod.sh tools/horovod_build_requirements.txt; echo "$PWD"; } | sha256sum)
is_current() { [[ -x $venv/bin/python && ! -e $unfinished && $(cat "$finished" 2>/dev/null) == "$key" ]]; }

# A step's output goes to the log; here it is one line. A failure is one line too: what, why, where to read more.
step() {
    local title=$1 what=${1#* } started=$SECONDS status=0 first output
    what=${what%% (*}
    shift
    printf '%s ... ' "$title"
    echo "== $title: $*" >>"$log"
    first=$(wc -l <"$log")
    "$@" >>"$log" 2>&1 </dev/null || status=$?
    if ((status == 0)); then printf '%d s\n' $((SECONDS - started)); return; fi
    printf 'failed\n'
    output=$(tail -n "+$((first + 1))" "$log")
    # pip names the packages it is about to change and then those it did: equal numbers mean that the environment is whole.
    if ((status < 128)) && [[ $(grep -c '^Installing collected' <<<"$output") == $(grep -c '^Successfully installed' <<<"$output") ]]; then
        rm -f "$unfinished"
    fi
    die "$what: $(reason "$output") (all output: $log)"
}

# The line of pip's or a script's output that says what is wrong. pip spreads a conflict over several: the indented lines under two headings.
reason() {
    local conflict
    conflict=$(awk '/^(The conflict is caused|Additionally, some packages)/ {part = 1; printf "%s", /^A/ ? "; none of these versions to be had: " : ""; next}
        part && NF == 0 {part = 0; separator = ""} part {sub(/^ +/, ""); printf "%s%s", separator, $0; separator = ", "}' <<<"$1")
    if grep -q 'connection broken by' <<<"$1"; then printf 'the package index cannot be reached; '; fi
    if [[ $conflict ]]; then echo "$conflict"; return; fi
    grep -E '^ERROR|[Ee]rror: ' <<<"$1" | tail -n 1 | sed -E 's/^(ERROR: |[a-z_]+: error: )//; s/  +/ /g' | grep . || grep -v '^ *$' <<<"$1" | tail -n 1 || echo "no output"
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then command -v "$candidate"; return; fi
    done
    die "no Python 3.11 or newer (tried: ${PYTHON:-python3 python3.12 python3.11}); set PYTHON=/path/to/python"
}

check_machine() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null || die "$python has no module 'venv': install the package 'python3-venv'"
    if ! compgen -G "${XDG_CACHE_HOME:-$HOME/.cache}/wash_hpc/horovod/*/*.whl" >/dev/null; then  # else nothing is to be compiled
        command -v g++ >/dev/null || die "no C++ compiler, which Horovod needs: install the package 'g++'"
        local include
        include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
        [[ -f $include/Python.h ]] || die "no Python.h in $include, which Horovod needs: install the package 'python3-dev'"
    fi
    local free
    free=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1000000))
    [[ -d $venv/bin ]] || ((free >= 12)) || die "$free GB free in $PWD; the environment needs 12"
}

venv_is_sound() {
    [[ ! -e $unfinished ]] && grep -qsF "$venv/bin/python" "$venv/bin/pip" && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

make_venv() {
    if venv_is_sound; then echo "kept"; return; fi
    "$python" -m venv "$venv"
}

install_packages() {
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input install --progress-bar off -c constraints.txt)
    "${pip[@]}" --upgrade pip 'setuptools<80' wheel || return
    # Without build isolation the package is built by the pinned setuptools, not by whatever is newest today.
    "${pip[@]}" --no-build-isolation -e '.[all,test]'
}

try_out() {
    # shellcheck source=tools/mpi_env.sh
    source tools/mpi_env.sh
    timeout 300 mpirun -n 2 python -c 'import h5py, mpi4py.MPI, nvidia.dali, torchvision, horovod.torch as hvd; hvd.init(); hvd.shutdown()'
}

is_current && exit
exec 9<tools/setup.sh
flock -n 9 || { echo "setup: waiting for another one in this folder"; flock 9; }
is_current && exit

python=$(find_python)
check_machine
if [[ -e $venv ]] && ! venv_is_sound; then
    echo "setup: .venv is broken, unfinished or was moved: making a new one"
    rm -rf "$venv"
fi
mkdir -p "$venv"
: >"$log"
step "[1/4] Python environment in .venv ($("$python" -V))" make_venv
touch "$unfinished"
step "[2/4] installing torch, DALI, MPI and the rest (about 5 GB, some minutes)" install_packages
step "[3/4] installing Horovod (compiled when it is not in the cache: about 4 minutes)" tools/install_horovod.sh "$venv"
step "[4/4] trying out MPI, Horovod, DALI and HDF5 on 2 ranks" try_out
rm -f "$unfinished"
echo "$key" >"$finished"
