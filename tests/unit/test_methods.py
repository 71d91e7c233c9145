"""Methods by name, and their own part in a combination."""

from __future__ import annotations

import pytest

from tests.support import tiny_config
from wash_hpc.config import Config
from wash_hpc.errors import ConfigError
from wash_hpc.method_kinds import KINDS
from wash_hpc.methods import _MODULES, Method, each_method, method_names, register, require_methods


def test_every_method_that_the_configuration_knows_has_a_class_and_the_other_way_round():
    assert set(_MODULES) == set(KINDS) == set(method_names())


def test_each_method_of_a_combination_gets_its_own_options_and_no_others():
    config = tiny_config("method.p=0.4", "method.stop=9", "method.then=[{name: papa, start: 9}, {name: diloco}]")
    first, second, third = each_method(config)
    assert (first.method.name, first.method.p, first.method.stop, first.method.then) == ("wash", 0.4, 9, [])
    assert (second.method.name, second.method.start, second.method.every) == ("papa", 9, 10)
    assert (third.method.name, third.method.start, third.method.every) == ("diloco", 0, 100)
    assert all(isinstance(one, Config) and one.run == config.run for one in (first, second, third))


def test_a_name_that_is_no_method_is_refused_wherever_it_stands():
    with pytest.raises(ConfigError, match=r"method\.then\[1\]\.name=papaall: .*did you mean papa_all"):
        require_methods(tiny_config("method.then=[{name: papa}, {name: papaall}]"))


def test_a_name_that_is_taken_cannot_be_registered():
    with pytest.raises(ValueError, match="there is a method wash already"):

        @register("wash")
        class Mine(Method):
            def after_step(self, step: int) -> None:
                pass
