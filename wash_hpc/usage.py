"""What `wash-hpc --help` says: the longer texts of the command line."""

from __future__ import annotations

DESCRIPTION = """\
Train an ensemble that can be averaged into one network (WASH, arXiv 2405.17517).

Each MPI rank, or each group of ranks, trains one member. After every step a small random share of the parameters is
permuted between the members, so that at the end their mean is a network as good as their ensemble."""

EXAMPLES = """\
a first run, on a laptop:
  mpirun -n 4 --oversubscribe --bind-to none wash-hpc train configs/digits_wash.yaml
  wash-hpc evaluate runs/digits_wash
a grid of runs:
  wash-hpc sweep configs/sweeps/digits_p.yaml
on a cluster:
  wash-hpc plan configs/imagenet_resnet50_wash.yaml --members 4
  sbatch slurm/imagenet_resnet50.sh

exit status: 0 done; 1 an internal error, or doctor found something broken; 2 wrong input, said in one sentence;
3 stopped before its end by SIGINT, SIGTERM or the file STOP; 75 by SIGUSR1 or SIGUSR2, to be started again; 130, 143
ended at once by a second SIGINT or SIGTERM, or by force after checkpoint.grace_seconds."""

TRAIN = """\
Train the ensemble that CONFIG describes and leave a run folder (run.dir/run.name) with its configuration, metrics,
weights and summary.json. Under mpirun or srun each rank is a member, or, with ensemble.members=M, each M-th part of the
ranks is one (W ranks = M members x R replicas); without a launcher it is a single member.

While it goes on, SIGUSR1, SIGUSR2, SIGINT, SIGTERM or a file RUN/STOP stop it after a step, with a checkpoint, and a
file RUN/SAVE has it write a checkpoint and go on. checkpoint.resume=auto continues, from the last checkpoint that is
whole. checkpoint.every_steps=N writes one every N steps while the run goes on, checkpoint.keep_best=true the best."""

TRAIN_KEYS = """\
Any key of the configuration can be given as key=value, as in
  method.name=wash method.p=0.01 method.schedule=decreasing train.epochs=10 run.seed=1 run.name=try-1
The keys, their defaults and what they mean are one page: docs/configuration.md; a run's own are in its config.yaml."""

SOUP = """\
Of a run: average the members in RUN/members, recompute normalisation statistics on training images, judge the result
on the test images and write it as safetensors with the model's own state-dict keys.

Of files that any program wrote (state dicts as .safetensors, or as .pt, .pth, .bin of torch.save, there also under
'state_dict' or 'model'): check keys, shapes and dtypes, average each tensor in float64 and write it in its own dtype.
Running statistics are averaged too, counters take the largest; other integers must be equal. No code in a file is run,
and one tensor is in memory at a time. Needs no MPI, no data and no GPU."""

SOUP_EXAMPLES = """\
examples:
  wash-hpc soup runs/digits_wash --kind repair
  mpirun -n 4 wash-hpc soup runs/digits_wash data.path=/elsewhere/digits --output soup.safetensors
  wash-hpc soup a.pt b.pt c.safetensors --output mean.safetensors"""

SOUP_KINDS = """\
of a run: all members; best first and only those that help on held-out images; or all members, each channel's mean and
spread put back to that of the members (REPAIR, arXiv 2211.08403) (default: uniform)"""

PLAN = """\
Predict what a run will send, how long an exchange takes, what memory a rank needs and how many ranks fit on a GPU, from
its configuration alone, for up to 65,536 members, and say what would make exchanges cheaper. No training is started and
nothing is written; data that are not there are assumed and said so."""

TUNE = """\
Run the training pipeline of CONFIG's images on a GPU, nothing else, with several shares of the JPEG files for the GPU's
own decoder (data.hw_decoder_share), print images a second of each, and remember the best for this kind of machine in
~/.config/wash_hpc/machines.json (or below XDG_CONFIG_HOME). Runs take it where data.hw_decoder_share is null, and say
so."""

PLAN_LINK = """\
seconds of an exchange = (O + messages x L + bytes / B) x ranks a core

These constants are a guess unless they are given. To measure them where the run is to be:
  mpirun -n 4 wash-hpc plan CONFIG --calibrate
It prints them as options that can be given again, for any number of members."""

REQUEUE = """\
The last line of a job script: put the job back into the queue where its run was stopped because its time was over, was
preempted, or was lost with a node, and has left a checkpoint beyond the one from which this start began. Not where it
has finished, met wrong input or was stopped by a person. Exits with N, or with 1 where N is 0 and the run has not
finished, as mpirun may leave it."""

SWEEP = """\
Train the runs that FILE describes (docs/sweeps.md), in run.dir/NAME/RUN, one after the other under mpirun, and put
those that have finished into one table, run.dir/NAME.csv and run.dir/NAME.html. Runs that have finished are not trained
again, those that were stopped go on; one that is there with another configuration is refused before anything starts,
and one that fails is named at the end. Ctrl-C stops the run that goes on, with a checkpoint; the same command continues
it."""

SWEEP_EXAMPLES = """\
examples:
  wash-hpc sweep configs/sweeps/digits_p.yaml --list
  wash-hpc sweep configs/sweeps/digits_p.yaml --only 'p_0.1-*' train.steps=50 run.name=look
  wash-hpc sweep FILE --slurm --sbatch="--time=2:00:00 --partition=gpu" --at-once 4

exit status: 0 all runs have finished, or are submitted; 1 some have not, each named; 2 wrong input; 130 interrupted."""
