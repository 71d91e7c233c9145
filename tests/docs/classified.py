"""How each command of the documentation is known to work: new ones are run, or are to be put into a table here.

A command of `wash-hpc` or python that is in no table is run as it stands, by test_docs_commands.py, in a folder that
looks like a clone: on 2 ranks in place of 4, for two steps, with what SMALL and REPLACED say. All others have to be in
a table.
"""

from __future__ import annotations

SMALL = (
    "train.steps=2 train.precision=fp32 data.batch_size=4 log.progress=off evaluate.every_epochs=0 "
    "evaluate.statistics_images=8 evaluate.batch_size=64 parallel.reducer=mpi"
)
"""What is added to each command that trains."""

REPLACED = {
    "/my/images": "data/images",
    "/my/shards": "data/shards",
    "/shards/of/others": "data/shards",
    "mpirun -n 4": "mpirun -n 2",
    "model.name=torchvision.resnet18": "model.name=torchvision.resnet18 data.image_size=32 data.resize=32",
    "data.name=shards": "data.name=shards model.name=resnet_small data.image_size=32 data.resize=32",
    "train.epochs=20": "",
    "summarize.py runs/*": "summarize.py runs/*/",
    "runs/a ": "runs/first ",
}
"""What stands for something of the reader's, or takes long, and what is put in its place."""

RUN_AS = {
    "wash-hpc train --list": "wash-hpc train --list",
    "make demo": f"make -o setup demo DEMO_ARGS='{SMALL}'",
    'DEMO_ARGS="run.seed=1" make demo': "",
    'DEMO_ARGS="run.seed=S" make demo': "",
    "wash-hpc sweep configs/sweeps/digits_p.yaml": "wash-hpc sweep configs/sweeps/digits_p.yaml --only p_0.1-seed_0 "
    f"{SMALL}",
    "wash-hpc sweep configs/sweeps/digits_p.yaml --report": "wash-hpc sweep configs/sweeps/digits_p.yaml --report "
    f"--only p_0.1-seed_0 {SMALL}",
    "wash-hpc completion fish > ~/.config/fish/completions/wash-hpc.fish": "wash-hpc completion fish > wash-hpc.fish",
    "wash-hpc soup a.pt b.safetensors --output mean.safetensors": "wash-hpc soup a.pt c.safetensors "
    "--output of_two.safetensors",
    "python tools/draw_wash.py": "python tools/draw_wash.py --output how_wash_works.png",
    "python tools/landscape.py runs/first": "mpirun -n 2 python tools/landscape.py runs/first --parts lines,distance "
    "--images 8 --points 3 evaluate.statistics_images=8",
    "python tools/summarize.py runs/first --follow": "python tools/summarize.py runs/first --follow </dev/null",
    "python tools/make_dataset.py text data/text.txt": "python tools/make_dataset.py text data/text.txt && "
    "truncate -s 40000 data/text.txt",
    "python tools/make_dataset.py digits data/digits": "",
}
"""A command that is run in another form; empty where another run, or the making of the clone, does it."""

ELSEWHERE = {
    "tests/training/test_evidence.py::test_the_set_is_trained_once_and_its_numbers_are_those_of_the_runs": (
        "make evidence",
        "make evidence EVIDENCE_ARGS=main_3",
        'make evidence EVIDENCE_ARGS="main_3 p"',
        "make evidence EVIDENCE_ARGS=links",
        "python tools/evidence.py --tables",
    ),
    "tests/training/test_compare.py::test_a_failing_row_is_named_and_the_others_are_in_the_table_with_all_columns": (
        "make compare",
        "COMPARE=fashion_mnist make compare",
    ),
    "tests/training/test_commands.py::test_the_exchange_is_measured_beside_its_floor": (
        "python tools/bench_exchange.py --members 2 --p 0.05",
        "python tools/bench_exchange.py --members M --p P [--json]",
    ),
    "tests/training/test_commands.py::test_the_benchmark_of_the_step_compares_the_same_model_three_ways": (
        "python tools/bench_train.py",
        "python tools/bench_train.py --rounds 12",
    ),
    "tests/training/test_commands.py::test_the_data_path_is_measured_beside_torchvisions_loader": (
        "python tools/bench_data.py",
        "python tools/bench_data.py [--data FOLDER] [--device cuda] [--json]",
    ),
    "tests/training/test_commands.py::test_the_start_is_measured_by_part_with_the_files_that_a_rank_opens": (
        "python tools/bench_startup.py",
        "python tools/bench_startup.py [--ranks 2 8 16] [--json]",
    ),
    "tests/training/test_commands.py::test_the_benchmark_of_checkpoints_compares_the_hold_up_with_a_copy_and_a_write": (
        "python tools/bench_checkpoint.py",
        "python tools/bench_checkpoint.py --rounds 3",
    ),
    "tests/training/test_commands.py::test_plan_predicts_the_papers_figures_and_starts_nothing": (
        "wash-hpc plan configs/imagenet_resnet50_wash.yaml --members 4",
    ),
    "tests/training/test_commands.py::test_doctor_tries_every_part_for_real": (
        "wash-hpc doctor",
        "mpirun wash-hpc doctor",
        'mpirun --bind-to none -n "$SLURM_NTASKS" wash-hpc doctor',
    ),
    "tests/parallel/test_calibrate.py::test_the_scaling_benchmark_predicts_what_it_measures": (
        "python tools/bench_scaling.py",
    ),
    "tests/training/test_links.py::test_a_step_over_a_slow_link_takes_as_long_as_its_bytes": (
        "python tools/bench_links.py [key=value ...] [--json]",
        "python tools/bench_links.py --config configs/evidence_fashion_mnist.yaml model.name=mlp model.width=64 "
        "train.channels_last=false data.batch_size=16 optimizer.lr=0.02 method.p=0.05 --json "
        "> docs/evidence/links.json",
    ),
    "tests/parallel/test_calibrate.py::test_calibration_on_two_ranks": ("mpirun wash-hpc plan CONFIG --calibrate",),
    "tests/training/test_soak.py::test_a_minute_of_training_keeps_memory": (
        "mpirun -n 4 python tools/soak.py --minutes 30",
        "nice -n 10 mpirun -n 4 python tools/soak.py --minutes 30",
    ),
    "tests/training/test_landscape.py::test_the_whole_analysis_of_a_run_is_written_as_tables_and_figures": (
        "for run in independent wash; do mpirun -n 2 python tools/landscape.py runs/demo-$run --images 200 "
        "--eigenvalues 3 evaluate.statistics_images=256 evaluate.batch_size=64; done",
    ),
    "tests/training/test_landscape.py::test_members_are_looked_at_as_they_were_in_a_checkpoint": (
        "for run in runs/evidence/basin/*-seed_?; do for step in 100 200 300 400; do python tools/landscape.py $run "
        "--step $step --split held_out --images 600 --points 3 --no-soup-lines "
        "--parts averaging,lines,curvature,distance evaluate.statistics_images=500; done; done",
        "python tools/landscape.py runs/NAME --step 500",
    ),
    "tests/unit/test_basin_condition.py::test_tables_are_written_between_the_comments_of_the_page": (
        "python tools/basin_condition.py runs/evidence/basin --write",
        "python tools/basin_condition.py runs/basin",
    ),
    "tests/training/test_stops.py::test_the_file_stop_ends_a_run": (
        "touch runs/NAME/STOP",
        "touch runs/NAME/SAVE",
    ),
    "tests/training/test_fashion_mnist.py::test_the_fashion_mnist_configuration_trains": (
        "mpirun -n 4 wash-hpc train configs/fashion_mnist_resnet_small_wash.yaml train.steps=1000 method.p=0.2 "
        "run.name=fashion",
        "mpirun -n 2 wash-hpc train configs/fashion_mnist_resnet_small_wash.yaml method.p=0.2 train.steps=500 "
        "evaluate.every_epochs=0 evaluate.statistics_images=4000 run.seed=S method.overlap=O",
        "for method in wash independent; do mpirun -n 4 wash-hpc train configs/fashion_mnist_mlp_$method.yaml; done",
    ),
    "tests/unit/test_reference.py::test_the_check_fails_where_a_page_is_stale_and_writes_nothing": (
        "python tools/make_reference.py",
        "make reference",
    ),
    "tests/unit/test_audit.py::test_a_vulnerability_counts_unless_it_is_ignored_by_any_of_its_names": ("make audit",),
    "tests/unit/test_golden.py::test_draws_have_the_digests_of_the_golden_file": (
        "WASH_REWRITE_GOLDEN=1 tools/run_tests.sh tests/parallel/test_golden.py tests/unit/test_golden.py",
    ),
    "tests/training/test_sinks.py::test_the_program_tensorboard_finds": ("tensorboard --logdir runs",),
    "tests/training/test_sinks.py::test_wandb_sync_sends_each_step_once": (
        "wandb sync runs/seen/wandb/offline-run-*",
        "wandb sync",
    ),
    "tests/slurm/test_slurm_sweep.py::test_a_sweep_trains": (
        "wash-hpc sweep configs/sweeps/digits_p.yaml --slurm",
        'wash-hpc sweep FILE --slurm --sbatch="--time=2:00:00 --gpus-per-node=0" --at-once 4',
        'wash-hpc sweep FILE --slurm --sbatch="--nodes=2 --ntasks-per-node=4 --gpus-per-node=4"',
        'wash-hpc sweep FILE --slurm --sbatch-report="--partition=cpu"',
    ),
    "tests/slurm/test_slurm_sweep.py::test_the_smoke_test_passes_on_two_nodes_and_its_run_can_be_judged_again": (
        "sbatch slurm/smoke.sh",
    ),
    "tests/slurm/test_slurm_jobs.py::test_a_job_on_two_nodes_trains_to_its_summary": (
        "sbatch --export=ALL,DATA=/datasets/imagenet slurm/imagenet_resnet50.sh",
        "sbatch --nodes=1 --ntasks-per-node=4 --export=ALL,CONFIG=configs/digits_wash.yaml,DATA=data/digits "
        "slurm/imagenet_resnet50.sh run.name=first",
        "sbatch slurm/imagenet_resnet50.sh",
        "sbatch --nodes=4 --time=12:00:00 ...",
    ),
    "tests/slurm/test_slurm_jobs.py::test_srun_starts_the_ranks_and_horovod_averages_gradients_between_the_nodes": (
        "srun --mpi=pmix",
    ),
    "tests/slurm/test_slurm_queue.py::test_where_a_job_may_not_be_queued_again_a_chain_goes_on": (
        "sbatch --array=1-10%1 slurm/imagenet_resnet50.sh",
        "sbatch --array=1-10%1 ...",
    ),
    "tests/slurm/test_slurm_queue.py::test_a_job_that_gets_slurms_signal": (
        "scancel --signal=USR2 --batch JOBID",
        "scancel --signal=USR2",
    ),
    "tests/slurm/test_slurm_queue.py::test_a_cancelled_job_leaves_a_folder_that_can_be_read_and_continued": (
        "scancel JOBID",
    ),
}
"""By the test, or how its name begins, that runs them or what they call: commands that are not run again."""

NOT_HERE = {
    "there is no other copy of the repository to clone": ("git clone <this repository> wash_hpc && cd wash_hpc",),
    "it is this gate, or a part of it": (
        "make test",
        "make lint test",
        "make setup",
        "pip install 'wash_hpc[tensorboard,wandb]'",
        "tools/run_tests.sh tests/unit/test_shuffle_draw.py",
        'tools/run_tests.sh tests/parallel -k "exchange and 3"',
        "FUZZ_EXAMPLES=20000 tools/run_tests.sh tests/fuzz",
    ),
    "it resolves all pins anew from the network": ("make constraints",),
    "it needs a GPU": (
        "make test-gpu",
        "python tools/bench_exchange.py --device cuda --members 2",
        "mpirun -n 3 wash-hpc train configs/evidence_fashion_mnist.yaml model.name=resnet18 method.name=METHOD "
        "parallel.device=cuda parallel.share_gpus=true parallel.reducer=mpi train.precision=bf16 "
        "train.cuda_graph=true train.steps=2000 data.train_share=0.2",
        "wash-hpc tune configs/imagenet_resnet50_wash.yaml data.path=/my/images",
        "wash-hpc tune configs/imagenet_resnet50_wash.yaml data.path=... data.workers=...",
        "nvidia-cuda-mps-control -d",
        "trap 'echo quit | nvidia-cuda-mps-control' EXIT",
        "srun --overlap --ntasks-per-node=1 nvidia-cuda-mps-control -f &",
        'mpirun --bind-to none -n "$SLURM_NTASKS" wash-hpc train configs/cifar10_resnet18_wash.yaml '
        "parallel.share_gpus=true parallel.reducer=mpi data.workers=2",
        "export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps-$SLURM_JOB_ID CUDA_MPS_LOG_DIRECTORY=/tmp/mps-log-$SLURM_JOB_ID",
        'mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"',
        "export CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25",
        "export CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=9G",
        "nvidia-smi -q -d COMPUTE",
    ),
    "it follows a run of a job": (
        "python tools/summarize.py runs/imagenet_resnet50_wash --follow",
        "tail -F slurm-smoke-JOBID.out",
    ),
    "it asks for a person": ("editor slurm/smoke.sh",),
    "it needs a container's runtime, which tests have not": (
        "apptainer build wash_hpc.sif slurm/wash_hpc.def",
        "apptainer run --nv wash_hpc.sif doctor",
        "mkdir -p container/bin",
        'printf \'#!/bin/sh\\nexec apptainer exec --nv --bind /datasets %s/wash_hpc.sif wash-hpc "$@"\\n\' "$PWD" '
        ">container/bin/wash-hpc",
        "chmod +x container/bin/wash-hpc",
        'sbatch --export=ALL,VENV=$PWD/container,LAUNCHER="srun --mpi=pmix",DATA=/datasets/imagenet '
        "slurm/imagenet_resnet50.sh",
        "apptainer exec wash_hpc.sif pmix_info",
        "mpirun --bind-to none -n 8 apptainer run --nv wash_hpc.sif train ...",
        "apptainer exec --nv wash_hpc.sif mpirun --bind-to none -n 4 wash-hpc train ...",
        "apptainer exec --sharens",
        "apptainer build --sandbox wash_hpc.dir wash_hpc.sif",
        "mksquashfs wash_hpc.dir wash_hpc.sqsh -all-root",
        "export PMIX_MCA_psec=native PMIX_MCA_gds=hash",
        "export SLURM_PMIX_TMPDIR=/tmp",
        "srun --mpi=pmix --container-image=$PWD/wash_hpc.sqsh --container-mounts=$PWD:$PWD,/datasets:/datasets "
        "--container-workdir=$PWD wash-hpc train configs/imagenet_resnet50_wash.yaml data.path=/datasets/imagenet "
        "run.name=first",
        "enroot create --name wash_hpc wash_hpc.sqsh",
        "enroot start --mount $PWD:$PWD wash_hpc wash-hpc doctor",
        "srun ... sh -c 'wash-hpc doctor && wash-hpc train ...'",
        "sbatch --container-image",
    ),
    "it is Slurm's own, or another site's": (
        "srun --mpi=pmi2",
        "srun --mpi=cray_shasta",
        "srun --mpi=pmix_v5",
        "srun --mpi=list",
        "scontrol show config",
        "scontrol show node",
        "scontrol show job JOBID",
        "sacctmgr show user $USER withassoc",
        "sbatch --dependency=singleton ...",
        "export HDF5_USE_FILE_LOCKING=FALSE",
    ),
    "it says how something was measured once": (
        "strace -f -y -e trace=openat,open,stat,newfstatat,lstat,access,getdents64,execve,readlink,statx",
        "wash-hpc soup runs/demo-independent --kind repair",
    ),
    "it is a launcher without a program": ("mpirun -n 4",),
    "it would leave bytecode beside the source": ("python -m compileall -q wash_hpc",),
}
"""By the reason: commands that no test runs."""

NOT_COMMANDS = {
    "README.md": r"(member|run|demo-\w+) .*",
    "docs/ecosystem.md": r"2026-\d\d-.*",
    "docs/design.md": r"(errors clock|<- |(data|member|method|observer|checkpoints)  |as its|replicas as|write the).*",
}
"""By page: lines of indented blocks that are what a command prints, or a picture."""

IMPORTS_ONLY = ("model.load_state_dict", "runs/NAME")
"""What is in blocks of Python that use names of the reader's: compiled, and their imports tried."""
