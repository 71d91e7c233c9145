#!/usr/bin/env bash
# `make demo`: trains four members twice on real images of digits, without and with WASH, and prints and draws what came of it.
# Extra settings for both runs: DEMO_ARGS="run.seed=1 train.steps=200" make demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/mpi_env.sh
source tools/mpi_env.sh

members=4
images=data/digits
read -ra arguments <<<"${DEMO_ARGS:-}"
progress=lines
if [[ -t 2 ]]; then progress=bar; fi  # ranks under mpirun cannot see that somebody is looking

say() { printf '\n[%s/4] %s\n' "$1" "$2"; }

train() {  # number, method, what it shows
    local run=runs/demo-$2
    say "$1" "training $members members, one a rank, $3"
    if [[ -e $run ]]; then
        echo "      (removing $run of the demo before)"
        rm -rf "$run"
    fi
    local command=(mpirun -n "$members" wash-hpc train "configs/digits_$2.yaml" run.dir=runs "run.name=demo-$2" "log.progress=$progress" "${arguments[@]}")
    echo "      ${command[*]}"
    "${command[@]}"
}

started=$SECONDS
if [[ -d $images ]]; then
    say 1 "$images is there already: 1,797 images of handwritten digits as JPEG files"
else
    say 1 "writing scikit-learn's 1,797 images of handwritten digits as JPEG files to $images"
    # By way of another name: a demo that is stopped here leaves no half of a dataset.
    rm -rf "$images.unfinished"
    python tools/make_dataset.py digits "$images.unfinished"
    mv "$images.unfinished" "$images"
fi
train 2 independent "that never communicate: their average is expected to be useless"
train 3 wash "that shuffle a few of their parameters at every step: their average is expected to be as good as their ensemble"
say 4 "comparing"
python tools/summarize.py runs/demo-independent runs/demo-wash --html runs/demo.html
printf '\nThe demo took %d s. The curves are in runs/demo.html, the runs in runs/demo-independent and runs/demo-wash.\n' $((SECONDS - started))
