"""The configuration: every file in configs/ loads, what is written reads back, what is wrong is named."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from wash_hpc.config import Config, SingleMethodConfig, dump_config, load_config, load_run_config
from wash_hpc.data import source_names
from wash_hpc.errors import ConfigError
from wash_hpc.method_kinds import KINDS
from wash_hpc.methods import method_names
from wash_hpc.models import model_names

CONFIGS = sorted(Path("configs").glob("*.yaml"))

# ARCHITECTURE's contract with those who write configurations.
CONTRACT = {
    "run": "name dir seed deterministic",
    "ensemble": "members same_init",
    "model": "name",
    "data": "name path batch_size workers",
    "train": "epochs steps",
    "optimizer": "name lr momentum weight_decay",
    "method": "name p schedule every start stop optimizer_state permutation overlap",
    "parallel": "reducer device_buffers",
    "log": "every_steps",
    "evaluate": "every_epochs",
    "checkpoint": "every_steps resume",
}


def test_a_file_that_is_not_there_is_said_with_those_that_are_named_alike(tmp_path):
    for name in ("digits_wash.yaml", "digits_independent.yaml", "imagenet.yaml", "notes.txt"):
        (tmp_path / name).touch()
    for wrong, near in (("digit_wash.yaml", "digits_wash.yaml"), ("digits_independent", "digits_independent.yaml")):
        with pytest.raises(ConfigError, match="there is no such configuration file; did you mean") as refused:
            load_config(tmp_path / wrong)
        assert str(tmp_path / near) in str(refused.value)
        assert "imagenet" not in str(refused.value)
    for alone in (tmp_path / "zzz.yaml", tmp_path / "smoke.yaml", tmp_path / "nowhere" / "digits_wash.yaml"):
        with pytest.raises(ConfigError, match=r"there is no such configuration file$"):
            load_config(alone)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_configuration_loads_and_names_what_exists(file):
    config = load_config(file)
    assert config.run.name == file.stem
    assert config.data.name in source_names()
    assert config.model.name in model_names()
    assert config.method.name in method_names()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_configuration_says_what_it_reproduces_expects_and_costs_and_how_to_run_it(file):
    header = file.read_text().split("\n\n")[0]
    for heading in ("# Reproduces:", "# Expect:", "# Costs:", "# Run:"):
        assert heading in header
    assert f"configs/{file.name}" in header or "sbatch" in header


def test_there_is_a_configuration_with_and_without_wash_for_each_experiment():
    names = {file.stem for file in CONFIGS}
    experiments = ["digits", "fashion_mnist_resnet_small", "cifar10_resnet18", "cifar100_vgg16", "imagenet_resnet50"]
    assert names >= {f"{experiment}_{method}" for experiment in experiments for method in ("independent", "wash")}


def test_a_pair_of_configurations_differs_in_the_method_alone():
    for file in CONFIGS:
        if file.stem.endswith("_wash"):
            wash = OmegaConf.load(file)
            other = OmegaConf.load(file.with_name(file.name.replace("_wash", "_independent")))
            for config in (wash, other):
                del config["method"], config["run"]
            assert wash == other


def test_the_single_long_run_is_one_of_four_independent_members_trained_four_times_longer():
    long, member = (OmegaConf.load(f"configs/digits_{name}.yaml") for name in ("single_long", "independent"))
    assert long.train.steps == 4 * member.train.steps
    for config in (long, member):
        del config["run"], config["train"], config["log"]
    assert long == member


@pytest.mark.parametrize("section", list(CONTRACT))
def test_every_key_of_the_contract_exists(section):
    keys = set(OmegaConf.structured(Config)[section])
    assert keys >= set(CONTRACT[section].split())


def test_later_overrides_win_over_earlier_ones_and_all_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("method: {p: 0.5, name: wash}\nrun: {seed: 3}\n")
    config = load_config(file, ["method.p=0.1", "method.p=1e-3"])
    assert (config.method.p, config.method.name, config.run.seed) == (0.001, "wash", 3)


@given(st.floats(0, 1), st.sampled_from(["on", "off", "auto"]), st.one_of(st.none(), st.integers(1, 10**9)))
def test_what_is_written_reads_back_as_it_was(tmp_path_factory, p, buffers, steps):
    config = load_config(
        None,
        [f"method.p={p!r}", f"parallel.device_buffers={buffers}", f"train.steps={'null' if steps is None else steps}"],
    )
    file = tmp_path_factory.mktemp("config") / "c.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    assert config.parallel.device_buffers == buffers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: {p: 2}", "method.p=2"),
        ("methodd: {p: 1}", "did you mean method?"),
        ("[1, 2]", "expected sections"),
        ("a: [", "not readable as YAML"),
        ("method: 5", "method: expected a key of this section, as in method.KEY=VALUE"),
        ("run: {name: off}", "run.name: YAML reads off, no or false as a truth value; put quotes around a name"),
    ],
)
def test_a_wrong_file_is_refused_with_a_sentence(tmp_path, text, says):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    assert says.lower() in str(raised.value).lower()
    assert "\n" not in str(raised.value)


def test_a_regularisation_is_a_number_for_all_members_or_a_list(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("train: {mixup: 0.2, cutmix: [0, 1], label_smoothing: [0.1]}\n")
    train = load_config(file, ["train.label_smoothing=0", "train.random_erasing=[0.1,1]"]).train
    assert [train.mixup, train.cutmix, train.label_smoothing, train.random_erasing] == [[0.2], [0, 1], [0], [0.1, 1]]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("train.mixup=-0.1", r"train.mixup=\[-0.1\]: expected a number, 0 or more, or a list of such"),
        ("train.cutmix=[0,-1]", r"train.cutmix=\[0.0, -1.0\]: expected a number, 0 or more"),
        ("train.cutmix=[]", r"train.cutmix=\[\]: expected a number"),
        ("train.mixup=.inf", r"train.mixup=\[inf\]: expected a finite number"),
        ("train.mixup=[[1]]", r"train.mixup=\[\[1\]\]: expected a list of numbers"),
        ("train.mixup=[0,often]", r"train.mixup\[1\]: .*'often'"),
        ("train.mixup=null", "train.mixup"),
        ("train.label_smoothing=1", r"train.label_smoothing=\[1.0\]: expected a number in \[0, 1\), or a list of such"),
        ("train.label_smoothing=-0.1", "train.label_smoothing"),
        ("train.random_erasing=1.01", r"train.random_erasing=\[1.01\]: expected a probability in \[0, 1\]"),
        ("train.random_erasing=[]", r"train.random_erasing=\[\]"),
    ],
)
def test_a_regularisation_out_of_its_range_is_refused_with_a_sentence(key, says):
    with pytest.raises(ConfigError, match=says) as raised:
        load_config(None, [key])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["on", "true", "No", "007", "1e3", "1_000", "0x10", "3.10", "plain", "2026-11-28"])
def test_a_name_stays_as_it_was_written_whatever_yaml_would_read_in_it(name, tmp_path):
    config = load_config(None, [f"run.name={name}", f"data.path={name}"])
    assert (config.run.name, config.data.path) == (name, name)
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config


@pytest.mark.parametrize("name", ["", "..", "a/b", "."])
def test_a_run_name_that_would_leave_the_folder_of_runs_is_refused(name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        load_config(None, [f"run.name={name!r}"])


@pytest.mark.parametrize("name", list(KINDS))
def test_each_method_has_its_own_default_of_every_and_is_written_and_read_back(name, tmp_path):
    config = load_config(None, [f"method.name={name}"])
    assert config.method.every == KINDS[name].every
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config


def test_the_options_that_methods_know_are_keys_of_the_configuration():
    keys = {key.name for key in fields(SingleMethodConfig)}
    assert {option for kind in KINDS.values() for option in kind.options} == keys - {"name"}


def test_another_method_forgets_the_window_and_the_options_that_it_does_not_know(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("method: {name: wash, p: 0.5, layer: module, every: 3, start: 7, stop: 9, then: [{name: papa}]}\n")
    papa = load_config(file, ["method.alpha=0.9", "method.p=0.3", "method.name=papa"]).method
    assert papa == load_config(None, ["method.name=papa", "method.alpha=0.9"]).method
    sparta = load_config(file, ["method.every=2", "method.name=sparta"]).method
    assert (sparta.p, sparta.every, sparta.start, sparta.stop) == (0.5, 2, 0, None)
    wash = load_config(file, ["method.name=papa", "method.name=wash", "method.p=0.2"]).method
    assert (wash.p, wash.every, wash.start, wash.layer, wash.then) == (0.2, 1, 0, "tensor", [])
    kept = load_config(file, ["method.name=wash", "method.every=8", "run.seed=1", "method.name=wash"]).method
    assert (kept.p, kept.every, kept.start, kept.layer, kept.then[0].name) == (0.5, 8, 7, "module", "papa")
    scripts = ["method.name=wash", "method.every=8", "method.then=[{name: diloco, start: 400}]"]
    assert load_config(file, [*scripts, "method.name=papa"]).method == load_config(None, ["method.name=papa"]).method


@pytest.mark.parametrize("other", [name for name in KINDS if name != "wash"])
def test_a_runs_own_configuration_with_another_method_is_that_methods(other, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(load_config("configs/digits_wash.yaml")))
    assert load_config(file, [f"method.name={other}"]).method.every == KINDS[other].every


def test_the_configuration_of_a_run_may_hold_options_of_another_method(tmp_path):
    (tmp_path / "config.yaml").write_text("method: {name: independent, p: 0.2, stop: 400}\nrun: {seed: 3}\n")
    with pytest.raises(ConfigError, match="independent does not know"):
        load_config(tmp_path / "config.yaml")
    config = load_run_config(tmp_path, ["run.seed=4"])
    assert config == load_config(None, ["method.name=independent", "run.seed=4"])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method.then={name: papa}"], "method.then={.*}: expected a list of methods, as in 'method.then="),
        (["method.then=[papa]"], r"method.then=\['papa'\]: expected a list of methods"),
        (["method.then=null"], "method.then=None: expected a list of methods"),
        (["method.then.0.start=3"], "method.then=.*: expected a list of methods"),
        (["method.name=[a]"], "method.name=.*: expected one name"),
        (["method.name={a: 1}"], "method.name=.*: expected one name"),
        (["data.mean.0=1"], "data.mean=.*: expected a list of numbers"),
        (["train.mixup.0=1"], "train.mixup: "),
        (["run.name=[a"], r"run.name=\[a: cannot be read: "),
        (["method.p.x=3"], "method.p: "),
        (["method.then=[{name: papa}]", "method.then.x.start=3"], "method.then.x.start=3: "),
        (["data.mean=[1,2,3]", "data.mean.x=1"], "data.mean.x=1: "),
    ],
)
@pytest.mark.parametrize("file", [None, "configs/digits_wash.yaml"])
def test_a_value_of_the_wrong_form_is_refused_with_its_key(file, overrides, says):
    with pytest.raises(ConfigError, match=says) as raised:
        load_config(file, overrides)
    assert "\n" not in str(raised.value)


def test_a_method_of_then_can_be_changed_by_its_number():
    config = load_config(None, ["method.then=[{name: papa}]", "method.then.0.start=3"])
    assert (config.method.then[0].name, config.method.then[0].start) == ("papa", 3)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["method.name=papa", "method.p=0.3"],
            "p=0.3: .*papa does not know .*it knows every, start, stop, alpha",
        ),
        (["method.name=independent", "method.every=3"], "method.every=3: .*independent does not know .*it knows none"),
        (["method.alpha=0.5"], "method.alpha=0.5: method.name=wash does not know"),
        (["method.then=[{name: diloco, alpha: 0.5}]"], r"method.then\[0\].alpha=0.5: .*it knows .*outer_lr"),
        (["method.then=[{name: papa, alpha: 2}]"], r"method.then\[0\].alpha=2.0: expected a share"),
        (["method.then=[{name: papa, every: -1}]"], r"method.then\[0\].every=-1: expected at least 1"),
        (["method.then=[{name: papa, alpha: .nan}]"], r"method.then\[0\].alpha=nan: expected a finite number"),
        (["method.then=[{nam: papa}]"], "nam: .*did you mean name"),
        (["method.then=[{name: data_parallel}]"], "method.then=.*expected no data_parallel"),
        (["method.name=data_parallel", "ensemble.members=2"], "ensemble.members=2: expected 1 or null"),
        (["method.quarantine=true", "method.then=[{name: papa}]"], "method.quarantine=True: expected false with"),
        (["method.then=[{name: wash, overlap: true}]"], "method.overlap=True: expected false with"),
        (["method.name=sparta", "method.draw=partitioned", "method.p_schedule=lr"], "method.p_schedule=lr: expected"),
        (
            ["method.name=sparta", "method.p=auto"],
            "method.p=auto: expected a probability .* auto with method.name=wash",
        ),
        (["method.then=[{name: sparta, p: auto}]"], r"method.then\[0\].p=auto: expected a prob"),
        (["method.p=automatic"], "method.p: Value .automatic. of type .str. could not be converted"),
        (["method.name=sparta", "method.draw=partitioned", "method.p=0"], "method.draw=partitioned: expected random"),
        (["method.name=diloco", "method.outer_lr=0"], "method.outer_lr=0.0: expected above 0"),
        (["method.name=diloco", "method.outer_momentum=1"], "method.outer_momentum=1.0: expected in"),
        (["method.every=-2"], "method.every=-2: expected at least 1"),
    ],
)
def test_an_option_that_the_method_does_not_know_or_cannot_take_is_refused_with_a_sentence(overrides, says):
    with pytest.raises(ConfigError, match=f"(?i){says}") as raised:
        load_config(None, overrides)
    assert "\n" not in str(raised.value)


def test_data_parallel_is_one_member_on_all_ranks():
    assert load_config(None, ["method.name=data_parallel"]).ensemble.members == 1
