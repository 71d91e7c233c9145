"""The whole configuration on one page: what can be set, its default, its range.

A configuration is a YAML file merged over these defaults, with `key=value` arguments merged over both. Types and
spelling are checked by OmegaConf, ranges by `ranges`. Nothing here reads the world or the data: what depends on
them (members and ranks, batch size and replicas) is checked where it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wash_hpc.config_text import explain, merge_overrides, read_yaml, with_short_forms
from wash_hpc.errors import ConfigError
from wash_hpc.method_kinds import DEFAULT, check_options, kind_of, section_of, without_foreign_options
from wash_hpc.ranges import check_ranges

_MOST_NAMES = 20  # in one sentence; torchvision alone has 80 networks


@dataclass(frozen=True)
class RunConfig:
    """Where the run lives and what makes it repeatable."""

    name: str = "run"  # the run's folder is dir/name
    dir: str = "runs"  # folder of runs, made where it is not there
    seed: int = 0  # of weights, order of images, augmentation and shuffles
    deterministic: bool = False  # deterministic kernels where torch has them; slower on a GPU
    threads: int = 0  # torch threads a rank; 0: OMP_NUM_THREADS, or this rank's share of the host's cores


@dataclass(frozen=True)
class EnsembleConfig:
    """Who is trained."""

    members: int | None = None  # null: one member a rank
    same_init: bool = False  # all members start from the same weights


@dataclass(frozen=True)
class ModelConfig:
    """The network; `wash-hpc train --list` says the names."""

    name: str = "resnet_small"  # one of your own: docs/your_model.md
    width: int = 16  # channels (or units / 16, or features / 4) of the first stage; torchvision models ignore it


@dataclass(frozen=True)
class DataConfig:
    """The training, held-out and test images, or text; `wash-hpc train --list` says the names."""

    name: str = "image_folder"  # what each reads, and one of your own: docs/your_data.md
    path: str | None = None  # of the set's folder or file; digits and synthetic need none
    batch_size: int = 64  # images, or windows of text, per step of one member, shared out over its replicas
    workers: int = 2  # DALI threads a rank
    prefetch: int = 3  # of image files: batches that DALI works on ahead
    hw_decoder_share: float | None = None  # of JPEG files, for the GPU's own decoder; null: as `wash-hpc tune` found
    decoder_size_hint: list[int] = field(default_factory=lambda: [0, 0])  # height, width it has memory for at once
    on_bad_file: Literal["stop", "skip"] = "stop"  # image files that cannot be read or decoded; skip: count, go on
    held_out: float = 0.02  # share of train kept for selection, where the set has no validation split of its own
    train_share: float = 1.0  # of what is not held out, what is trained on: a smaller set of the same images
    image_size: int = 224  # of image files: side of a crop, in training and evaluation; of synthetic images
    resize: int = 256  # of image files: shorter side before the centre crop
    augment: bool = True  # images are cropped and mirrored, windows of text moved, at random
    flip: bool = True  # with augment: mirrored, too
    crop_padding: int = 4  # arrays: random crop after padding by so many pixels
    crop_scale: list[float] = field(default_factory=lambda: [0.08, 1.0])  # of image files: area of a random crop
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])  # of image files: by channel, of [0, 1]
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])  # of image files: likewise, deviation
    num_images: int = 2048  # synthetic: training images
    num_classes: int = 10  # synthetic: classes
    context: int = 128  # text: bytes of a window, of each of which the next is predicted


@dataclass(frozen=True)
class TrainConfig:
    """How long, how exactly, and against what overfitting.

    Each regularisation is a number for all members, or a list: each member draws one combination of the lists' values.
    """

    epochs: int = 1  # passes of each member over the training set
    steps: int | None = None  # optimizer updates of each member; wins over epochs where both are given
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # autocast in forward; weights and exchange stay fp32
    channels_last: bool = False  # images and 4-D weights as [B, H, W, C] in memory, which convolutions on a GPU want
    accumulate: int = 1  # a step's batch goes through the network in so many parts, one after the other
    cuda_graph: bool = False  # forward, backward and update are recorded once and replayed; for small networks
    compile: bool = False  # torch.compile: minutes at the start, faster steps
    mixup: list[float] = field(default_factory=lambda: [0.0])  # a: shares are drawn from Beta(a, a); 0: off
    cutmix: list[float] = field(default_factory=lambda: [0.0])  # likewise; where both are on, one or the other a batch
    label_smoothing: list[float] = field(default_factory=lambda: [0.0])  # weight of the uniform distribution
    random_erasing: list[float] = field(default_factory=lambda: [0.0])  # probability that an image loses a rectangle


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimizer over the flat parameter vector of a member."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"  # torch's fused ones
    lr: float = 0.1  # the largest learning rate, after warm-up
    min_lr: float = 1e-4  # where the cosine ends
    schedule: Literal["cosine", "constant"] = "cosine"  # of the learning rate after warm-up
    warmup_steps: int = 0  # in which the learning rate grows in a line from near 0
    momentum: float = 0.9  # SGD; Adam's betas are 0.9, 0.999
    nesterov: bool = False  # Nesterov's momentum, of SGD
    weight_decay: float = 1e-4  # of all parameters; decoupled with adamw


@dataclass(frozen=True)
class SingleMethodConfig:
    """What members do to each other after a step; docs/methods.md says the names, and which options each knows."""

    name: str = DEFAULT  # what each does, and one of your own: docs/methods.md
    p: float | None = 0.001  # share of parameters that a step shuffles (wash) or averages (sparta); auto: by run length
    p_schedule: Literal["constant", "lr", "cosine", "linear"] = "constant"  # of p over the run: lr follows it; to zero
    schedule: Literal["decreasing", "constant", "increasing"] = "decreasing"  # of p over the layers
    layer: Literal["tensor", "module", "block"] = "tensor"  # what counts as a layer; block: residual, transformer
    every: int = 0  # act after every so many steps (papa_all: epochs); 0: the method's own
    start: int = 0  # not in the first `start` steps
    stop: int | None = None  # not after step `stop`; null: until the end
    optimizer_state: bool = False  # WASH+Opt: the optimizer's per-parameter state moves with the values
    permutation: Literal["uniform", "cyclic"] = "uniform"  # any permutation of the members, or a rotation
    overlap: bool = False  # the exchange runs while the next step computes, and is added after it
    topology: Literal["global", "node", "ring"] = "global"  # who meets: all; a node's members; pairs of neighbours
    node_size: int | None = None  # topology node: members a node; null: as many as are on each host
    node_ratio: int = 10  # topology node: every so manieth exchange is between all members
    quarantine: bool = False  # go on without members whose values are not finite, instead of stopping
    alpha: float = 0.99  # papa: what a member keeps of itself at the peak of the learning rate
    repair: bool = True  # papa_all: REPAIR after each average; for batch normalisation, statistics measured anew
    draw: Literal["random", "partitioned"] = "random"  # sparta: partitioned takes each position once in 1/p steps
    outer_lr: float = 0.7  # diloco: of the outer Nesterov SGD
    outer_momentum: float = 0.9  # diloco: likewise

    @property
    def known_p(self) -> float:
        """`p`, where it is a number by now: `auto` (None) is one for a run of so many steps (`methods.drawing`)."""
        assert self.p is not None, "method.p=auto: not yet a number"
        return self.p


@dataclass(frozen=True)
class MethodConfig(SingleMethodConfig):
    """A method, and others beside or after it, each in its own window of steps."""

    then: list[SingleMethodConfig] = field(default_factory=list)  # [{name: papa, start: 300}], with its own options


@dataclass(frozen=True)
class AverageConfig:
    """Averages of one member over its own steps, the cheap rivals of a soup; judged at the end."""

    ema: float = 0.0  # exponential moving average: what of it is kept at a step; 0: none
    last: int = 0  # mean of the last so many snapshots, at least 2; 0: none
    last_every: int | None = None  # steps between snapshots, the last one after the last step; null: one epoch


@dataclass(frozen=True)
class ParallelConfig:
    """How ranks talk."""

    reducer: Literal["horovod", "mpi"] = "horovod"  # who reduces: gradients, averages, metrics
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where torch sees one
    share_gpus: bool = False  # more ranks on a host than GPUs are meant: they take the GPUs in turn; needs reducer mpi
    device_buffers: Literal["auto", "on", "off"] = "auto"  # GPU memory goes to MPI; auto: if faster


@dataclass(frozen=True)
class LogConfig:
    """What is written down, how often, and where besides HDF5."""

    every_steps: int = 10  # steps between two records of the metrics
    consensus_every_steps: int = 100  # costs one average over all parameters; 0: at the end only
    progress: Literal["auto", "bar", "lines", "off"] = "auto"  # auto: a bar on a terminal, else lines
    sinks: list[str] = field(default_factory=list)  # of tensorboard, wandb: copies that they read; docs/ecosystem.md
    stall_seconds: float = 120.0  # without the end of a step, after which it is said which rank is late; 0: never


@dataclass(frozen=True)
class EvaluateConfig:
    """Judging members, ensemble and soup; always done once at the end."""

    every_epochs: int = 1  # passes between two evaluations; 0: at the end only
    batch_size: int = 256  # images a rank judges at once
    statistics_images: int = 10_000  # training images from which a soup's normalisation statistics are recomputed


@dataclass(frozen=True)
class CheckpointConfig:
    """What a restart needs."""

    every_steps: int = 0  # 0: none, unless a signal or a file asks for one
    resume: Literal["never", "auto", "must"] = "never"  # go on from the last one; must: it is an error to have none
    keep: int = 2  # the last so many are kept
    keep_best: bool = False  # one is written after each evaluation that is the best so far, and kept beside the last
    grace_seconds: float = 240.0  # after a signal a run that has not stopped by itself is ended by force; 0: never


@dataclass(frozen=True)
class Config:
    """Everything; the sections are the first part of every key."""

    run: RunConfig = field(default_factory=RunConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    log: LogConfig = field(default_factory=LogConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    @property
    def folder(self) -> Path:
        """The run's folder, `run.dir/run.name`."""
        return Path(self.run.dir) / self.run.name

    @property
    def methods(self) -> list[SingleMethodConfig]:
        """`method`, and those that `method.then` adds."""
        return [self.method, *self.method.then]


def load_config(file: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Merge the defaults, a YAML file and `key=value` arguments.

    Args:
        file: path of a YAML file, or None for the defaults.
        overrides: arguments such as `method.p=0.01`; later ones win. `method.name=NAME` forgets what was said of
            another method: options that mean nothing to this one, when it acts (`every`, `start`, `stop`), and `then`.

    Raises:
        ConfigError: an unreadable file, a misspelt key, a wrong type or a value out of its range.
    """
    return _load(read_yaml(Path(file)) if file is not None else {}, overrides)


def load_run_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a run, from its folder, with `key=value` arguments over it.

    Options that its method does not know, of which early versions took no notice, are left out.

    Raises:
        ConfigError: as `load_config`.
    """
    given = read_yaml(folder / "config.yaml")
    section = given.get("method")
    if OmegaConf.is_dict(section):
        given["method"] = without_foreign_options(section, section.get("name", DEFAULT))
    return _load(given, overrides)


def _load(given: Any, overrides: Sequence[str]) -> Config:
    try:
        given = merge_overrides(OmegaConf.create(given), overrides)
        merged = OmegaConf.merge(_defaults(), with_short_forms(given))
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(config, Config)
    config = _with_own_defaults(config)
    check_ranges(config)
    return config


def dump_config(config: Config) -> str:
    """The merged configuration as YAML, the text of a run's `config.yaml`."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def refuse_unknown(key: str, name: str, known: Sequence[str]) -> ConfigError:
    """The error for a name that is not registered: the nearest, and what there is, or which command lists it."""
    near = [other for other in known if other.endswith(f".{name}")] or get_close_matches(name, known, n=1)
    there = f"there are {', '.join(known)}" if len(known) <= _MOST_NAMES else "wash-hpc train --list has them all"
    return ConfigError(
        f"{key}={name}: there is no such name"
        + (f"; did you mean {near[0]}? " if near else "; ")
        + f"{there}; one of your own is known to the script that registers it"
    )


@cache
def _defaults() -> Any:
    """OmegaConf's form of the defaults; to make it takes longer than all else that loading does. Not to be changed."""
    return OmegaConf.structured(Config)


def _with_own_defaults(config: Config) -> Config:
    """The same with each method's own `every` where none is given, and one member where the method has only one.

    Raises:
        ConfigError: a method that is given an option that it does not know.
    """
    methods = [replace(method, every=method.every or kind_of(method.name).every) for method in config.methods]
    for number, method in enumerate(methods):
        check_options(method, section_of(number))
    first, *others = methods
    assert isinstance(first, MethodConfig)
    members = config.ensemble.members
    if first.name == "data_parallel" and members is None:
        members = 1
    return replace(config, method=replace(first, then=others), ensemble=replace(config.ensemble, members=members))
