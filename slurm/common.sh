# shellcheck shell=bash
# Sourced by the job scripts, behind their settings: the site's profile, and how ranks are launched and the job comes back.

set -euo pipefail  # not before a site's modules: they and conda trip over unset variables, so a profile is read without

stop() { echo "${SLURM_JOB_NAME:-${0##*/}}: $*" >&2; exit 2; }

trap 'stop "the signal of the time limit came before the start; ask for more --time"' USR2

[[ -n ${SLURM_JOB_ID:-} && -n ${SLURM_NTASKS:-} ]] || stop "this is a batch script; submit it with: sbatch slurm/${0##*/} [key=value ...]"

profile=slurm/sites/$SITE.sh
[[ -f $profile ]] || stop "SITE=$SITE: there is no $profile; there are $(cd slurm/sites && echo -- *.sh | sed 's/^-- //; s/\.sh//g')"
set +eu
# shellcheck source=slurm/sites/wheel.sh
source "$profile"
set -eu
[[ -x $VENV/bin/wash-hpc ]] || stop "VENV=$VENV has no bin/wash-hpc; name the environment: sbatch --export=ALL,VENV=/path/to/.venv ..."
export PATH=$VENV/bin:$PATH
command -v "${LAUNCHER%% *}" >/dev/null || stop "LAUNCHER=$LAUNCHER: there is no such command on PATH"
unset SRUN_CPUS_PER_TASK  # with it the daemons of mpirun, one a node, would be given the cores of one task
[[ $LAUNCHER != srun* || -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # srun does not take it over from sbatch

# launch COMMAND...: on all ranks. The signal that comes before the time limit (#SBATCH --signal=B:USR2) reaches this shell alone; it goes on to the
# launcher, and by it to all ranks, which stop together with a checkpoint.
launch() {
    local pid status
    # shellcheck disable=SC2086  # the launcher is several words
    $LAUNCHER -n "$SLURM_NTASKS" "$@" &
    pid=$!
    # shellcheck disable=SC2064  # the id as it is now
    trap "kill -USR2 $pid 2>/dev/null || true" USR2
    while true; do
        status=0
        wait "$pid" || status=$?
        if ((status <= 128)) || ! kill -0 "$pid" 2>/dev/null; then break; fi  # else a signal has only ended the waiting
    done
    trap : USR2
    return "$status"
}

# train CONFIG KEY=VALUE...: continues the run of this name if there is one. Where it is stopped or lost, the job goes back into the queue if that
# helps (wash-hpc requeue --help); where a job may not, the next one of a chain goes on: sbatch --array=1-10%1 ...
train() {
    local status=0
    [[ -f $1 ]] || stop "CONFIG=$1: there is no such file; METHOD is the end of a name in configs/"
    [[ -z ${METHOD:-} || $1 == *_"$METHOD".yaml ]] || stop "METHOD=$METHOD and CONFIG=$1 are different: set one of them"
    set -- "$1" checkpoint.resume=auto "${@:2}"
    launch wash-hpc train "$@" || status=$?
    wash-hpc requeue --status "$status" "$@"  # also after 0, with which mpirun may end a run that has lost a node
}
