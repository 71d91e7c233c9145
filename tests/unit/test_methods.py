"""Methods by name, and their own part in a combination."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from tests.support import method_context, tiny_config
from wash_hpc.config import Config
from wash_hpc.ensemble.flat import Flat
from wash_hpc.errors import ConfigError
from wash_hpc.method_kinds import KINDS
from wash_hpc.methods import _MODULES, Method, each_method, make_method, method_names, register, require_methods
from wash_hpc.models import build_model


def test_every_method_that_the_configuration_knows_has_a_class_and_the_other_way_round():
    assert set(_MODULES) == set(KINDS) == set(method_names())


def test_each_method_of_a_combination_gets_its_own_options_and_no_others():
    config = tiny_config("method.p=0.4", "method.stop=9", "method.then=[{name: papa, start: 9}, {name: diloco}]")
    first, second, third = each_method(config, 100)
    assert (first.method.name, first.method.p, first.method.stop, first.method.then) == ("wash", 0.4, 9, [])
    assert (second.method.name, second.method.start, second.method.every) == ("papa", 9, 10)
    assert (third.method.name, third.method.start, third.method.every) == ("diloco", 0, 100)
    assert all(isinstance(one, Config) and one.run == config.run for one in (first, second, third))


def test_each_method_of_a_combination_has_a_p_for_its_own_window():
    config = tiny_config("method.p=auto", "method.stop=400", "method.then=[{name: wash, start: 400, p: auto}]")
    assert [one.p for one in config.methods] == [None, None]
    assert [one.method.p for one in each_method(config, 1200)] == [0.25, 0.125]


def test_a_name_that_is_no_method_is_refused_wherever_it_stands():
    with pytest.raises(ConfigError, match=r"method\.then\[1\]\.name=papaall: .*did you mean papa_all"):
        require_methods(tiny_config("method.then=[{name: papa}, {name: papaall}]"))


def method_of(num_members: int, *overrides: str) -> Method:
    """In a run of eight steps, four an epoch."""
    config = tiny_config(*overrides)
    world = SimpleNamespace(layout=SimpleNamespace(num_members=num_members, size=num_members, replica=0))
    model = build_model("mlp", (3, 8, 8), 4, 1)
    return make_method(method_context(config, world, Flat(model), model=model))


def warnings_of(num_members: int, *overrides: str) -> list[str]:
    return method_of(num_members, *overrides).warn(8)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("local_sgd", [], "method.name=local_sgd, start=0, stop=null, every=100: no exchange is due in the 8 steps"),
        ("papa", ["method.start=8"], "start=8, stop=null, every=10: no exchange is due in the 8 steps"),
        ("papa_all", [], "every=5 epochs of 4 steps, not after the last step: no exchange is due in the 8 steps"),
        ("papa_all", ["method.every=1"], ""),
        ("papa_all", ["method.every=2"], "every=2 epochs of 4 steps"),
        ("sparta", ["method.p=1e-7"], "method.p=1e-07: .* values are expected to be picked in the whole run"),
        ("sparta", ["method.p=1e-7", "method.draw=partitioned"], ""),
        ("sparta", ["method.p=0", "method.start=8"], ""),
        ("independent", [], ""),
    ],
)
@pytest.mark.parametrize("num_members", [1, 3])
def test_members_that_will_train_independently_are_warned_of_unless_it_is_meant(num_members, name, options, says):
    warnings = warnings_of(num_members, f"method.name={name}", *options)
    if not says or num_members == 1:
        assert warnings == []
    else:
        (warning,) = warnings
        assert re.search(f"{says}.*: the members train independently", warning)


@pytest.mark.parametrize(
    ("num_members", "overrides", "is_noted"),
    [
        (1, ["method.name=sparta"], True),
        (1, ["method.name=independent", "method.then=[{name: sparta}]"], True),
        (1, ["method.name=papa", "ensemble.members=1"], False),
        (1, ["method.name=independent"], False),
        (1, ["method.name=data_parallel"], False),
        (2, ["method.name=sparta"], False),
    ],
)
def test_a_rank_that_is_alone_because_mpirun_was_forgotten_is_told(num_members, overrides, is_noted):
    notes = method_of(num_members, *overrides).notes
    assert any("one rank, so one member: method.name=" in note for note in notes) == is_noted


def test_of_several_methods_the_idle_ones_are_named_and_members_are_independent_only_where_all_are():
    late = "method.then=[{name: papa, start: 800}]"
    (warning,) = warnings_of(3, "method.name=sparta", "method.p=0.5", late)
    assert warning.startswith("method.then[0]: method.name=papa, start=800, ")
    assert warning.endswith("no exchange is due in the 8 steps of the run: it does nothing")
    first, second, all_of_them = warnings_of(3, "method.name=local_sgd", late)
    assert first.startswith("method: method.name=local_sgd, start=0, ")
    assert second == warning
    assert all_of_them == "the members train independently, or nearly so"
    assert warnings_of(1, "method.name=local_sgd", late) == []


def test_a_name_that_is_taken_cannot_be_registered():
    with pytest.raises(ValueError, match="there is a method wash already"):

        @register("wash")
        class Mine(Method):
            def after_step(self, step: int) -> None:
                pass
