"""Predictions: the model's fit, what each topology sends, and the advice; each against a slow count."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import TINY
from wash_hpc.draw_cost import DrawCost, measure_draw, scale_drawer
from wash_hpc.errors import ConfigError, WashError
from wash_hpc.parallel.link import Link, Timing, fit_link
from wash_hpc.plan_report import advise, describe, describe_link
from wash_hpc.predict import Prediction, predict, read_facts
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.topology import Topology
from wash_hpc.traffic import advise_batching, predict_traffic

LINK = Link(latency=5e-6, bandwidth=1e9, overhead=20e-6)
BUSY = [(1, 36.0), (1, 2e5), (3, 60.0), (3, 8e4), (3, 3e6)]  # messages and bytes of exchanges to time


def timings(link: Link, num_ranks: int, noise: float = 0.0) -> list[Timing]:
    random = np.random.default_rng(1)
    return [Timing(m, b, link.seconds(m, b, num_ranks) * (1 + noise * random.uniform(-1, 1))) for m, b in BUSY]


def drawer_of(topology: Topology, permutation="uniform", p: float = 0.3) -> Drawer:
    return Drawer(3, topology, [4000, 1000, 5000], np.array([p, p / 2, 0.0]), permutation)


def nodes(num_members: int, size: int) -> tuple[int, ...]:
    return tuple(member // size for member in range(num_members))


def plan(*overrides: str, members: int = 4, link: Link = LINK) -> Prediction:
    config = Path("configs/digits_wash.yaml")
    return predict(read_facts(config, [*TINY, *overrides], members), link)


def test_each_method_of_a_run_moves_optimizer_state_by_its_own_option():
    plain, with_state = "method.optimizer_state=false", "method.optimizer_state=true"
    first, second = plan(with_state, "method.then=[{name: wash, p: 0.01}]").methods
    assert first.values_sent == pytest.approx(2 * plan(plain).methods[0].values_sent)  # parameters and momentum
    assert second.values_sent == plan("method.p=0.01", "method.stop=null").methods[0].values_sent


def test_memory_counts_averages_over_steps_and_what_diloco_keeps():
    plain = plan()
    vector = 4 * plain.num_parameters
    assert plan("average.ema=0.99").memory_bytes == plain.memory_bytes + vector
    assert plan("average.last=2", "average.last_every=1").memory_bytes == plain.memory_bytes + 2 * vector
    both = plan("method.name=diloco", "method.every=4").memory_bytes - plan("method.name=local_sgd").memory_bytes
    assert both == 2 * vector


def test_memory_counts_the_buffers_of_all_methods_in_any_order():
    alone = plan("method.name=papa").memory_bytes - plan("method.name=independent").memory_bytes
    wash, then = plan("method.stop=null"), "method.then=[{name: papa}]"
    assert plan("method.stop=null", then).memory_bytes == wash.memory_bytes + alone
    after_papa = plan("method.name=papa", "method.then=[{name: wash, p: 0.3}]").memory_bytes
    assert after_papa == pytest.approx(plan("method.p=0.3", "method.stop=null", then).memory_bytes, rel=1e-3)
    assert plan("method.stop=null", "method.overlap=true").memory_bytes > wash.memory_bytes


@pytest.mark.parametrize(("cores", "num_ranks"), [(None, 4), (2, 4), (2, 16), (8, 4)])
def test_the_fit_recovers_the_constants_that_made_the_timings(cores, num_ranks):
    link = replace(LINK, cores=cores)
    fitted = fit_link(timings(link, num_ranks), num_ranks, link.overhead, cores)
    assert fitted.latency == pytest.approx(link.latency)
    assert fitted.bandwidth == pytest.approx(link.bandwidth)
    assert (fitted.overhead, fitted.cores) == (link.overhead, cores)


def test_the_fit_comes_near_the_constants_when_timings_scatter_by_a_tenth():
    fitted = fit_link(timings(LINK, 4, noise=0.1), 4, LINK.overhead)
    assert fitted.bandwidth == pytest.approx(LINK.bandwidth, rel=0.15)
    assert fitted.latency == pytest.approx(LINK.latency, rel=0.6)  # of 35 us only 15 are latency


@pytest.mark.parametrize(
    "nonsense",
    [
        [Timing(3, 1e6, 1e-3), Timing(3, 1e3, 2e-3)],  # more bytes in less time
        [Timing(3, 1e6, 1e-3), Timing(3, 1e6, 1e-3)],  # nothing to tell messages from bytes
    ],
)
def test_timings_that_no_link_explains_are_refused(nonsense):
    with pytest.raises(WashError, match="too busy to be measured"):
        fit_link(nonsense, 4)


def test_ranks_that_share_cores_take_turns_and_others_do_not():
    on_two = replace(LINK, cores=2)
    assert on_two.seconds(3, 1e6, 8) == pytest.approx(4 * LINK.seconds(3, 1e6, 8))
    assert on_two.seconds(1, 1e6, 2) == LINK.seconds(1, 1e6, 2)


@pytest.mark.parametrize("permutation", ["uniform", "cyclic"])
@pytest.mark.parametrize(
    "topology",
    [
        Topology(5),
        Topology(6, "ring", every=3),
        Topology(5, "ring"),
        Topology(2, "ring"),
        Topology(8, "node", 2, nodes(8, 4), 3),
        Topology(5, "node", 1, nodes(5, 2), 2),
        Topology(6, "node", 1, nodes(6, 3), 1),
    ],
    ids=lambda it: f"{it.kind}-{it.num_members}",
)
def test_predicted_messages_and_values_are_those_of_real_plans_in_the_mean_over_a_period(topology, permutation):
    drawer = drawer_of(topology, permutation)
    traffic = predict_traffic(drawer, 2, 4, LINK)
    draws = [drawer.draw(step * topology.every) for step in range(1, topology.period * (60 // topology.period) + 1)]
    plans = [make_plan(draw, member, 2, 10_000) for draw in draws for member in range(topology.num_members)]
    assert traffic.messages == pytest.approx(np.mean([len(plan.peers) for plan in plans]))
    # 60 draws of 1,350 positions, each picked independently and moved in two rows
    assert traffic.values == pytest.approx(np.mean([plan.num_moved for plan in plans]), rel=0.02)
    assert traffic.num_bytes == pytest.approx(4 * (traffic.values + traffic.messages))
    assert traffic.most_values == pytest.approx(drawer.most_expected_moved * 2)


def test_an_exchange_takes_as_long_as_its_largest_group():
    uneven = drawer_of(Topology(5, "node", 1, nodes(5, 3), 1000))
    even = drawer_of(Topology(6, "node", 1, nodes(6, 3), 1000))
    assert predict_traffic(uneven, 1, 4, LINK).seconds == pytest.approx(
        predict_traffic(even, 1, 4, LINK).seconds, rel=1e-3
    )


@pytest.mark.parametrize("kind", ["global", "node", "ring"])
@pytest.mark.parametrize("num_members", [4096, 4097])
def test_thousands_of_members_are_counted_at_once(kind, num_members):
    drawer = drawer_of(Topology(num_members, kind, 1, nodes(num_members, 8) if kind == "node" else (), 10))
    begin = time.process_time()
    traffic = predict_traffic(drawer, 1, 4, LINK)
    assert time.process_time() - begin < 2  # going through a ring's period takes ten
    expected = {"global": num_members - 1, "node": (num_members - 1 + 9 * 7) / 10, "ring": 1}
    assert traffic.messages == pytest.approx(expected[kind], rel=1e-3)


@pytest.mark.parametrize(("p", "bound"), [(0.3, False), (1e-4, True)])
def test_batching_is_advised_when_and_only_when_latency_is_more_than_half(p, bound):
    drawer = drawer_of(Topology(4), p=p)
    traffic = predict_traffic(drawer, 1, 4, Link(latency=1e-6, bandwidth=1e9))
    assert (traffic.latency_share > 0.5) == bound
    assert (advise_batching(traffic, 1, p, 10_000) is not None) == bound


@pytest.mark.parametrize("bandwidth", [1e9, 1e7])
@pytest.mark.parametrize(("members", "p", "every"), [(4, "0.001", 1), (4, "0.01", 2), (64, "0.003", 1)])
def test_the_advised_batching_sends_the_same_bytes_in_the_seconds_it_promises(members, p, every, bandwidth):
    overrides = [f"method.p={p}", f"method.every={every}", "train.steps=100000"]
    link = replace(LINK, bandwidth=bandwidth)
    before = plan(*overrides, members=members, link=link)
    then = before.batching
    assert then is not None
    assert then.p <= 1
    after = plan(*overrides, f"method.p={then.p!r}", f"method.every={then.every}", members=members, link=link)
    flags = before.messages_per_exchange * 4
    assert after.bytes_sent_per_exchange / then.every == pytest.approx(before.bytes_sent_per_exchange / every)
    assert after.exchange_seconds_per_step == pytest.approx(then.seconds_per_step_then)
    assert before.wire_bytes_per_exchange == pytest.approx(before.bytes_sent_per_exchange + flags)
    if then.is_enough:
        assert after.latency_share <= 0.2000001
        assert after.batching is None
    else:
        assert then.p + float(p) > 1 or then.every == every * before.num_exchanges  # no room for one exchange more


def test_less_batching_than_advised_would_not_be_enough():
    slow = replace(LINK, bandwidth=1e7)
    before = plan("method.p=0.01", "train.steps=100000", link=slow)
    then = before.batching
    assert then is not None
    assert then.is_enough
    one_less = plan(f"method.p={0.01 * (then.every - 1)}", f"method.every={then.every - 1}", link=slow)
    assert one_less.latency_share > 0.2


def test_a_run_of_few_exchanges_is_not_batched_into_none():
    then = plan("method.p=0.0001", "train.steps=6").batching
    assert then is not None
    assert then.every == 6


def test_where_p_leaves_no_room_for_batching_fewer_messages_are_advised():
    it = plan("method.p=0.9", members=512, link=Link(1e-3, 1e9))
    assert it.batching is None
    assert it.ring_seconds == pytest.approx(1e-3, rel=0.2)
    assert [sentence for sentence in advise(it) if "method.topology=ring sends one" in sentence]


def test_nothing_is_advised_where_all_is_well():
    it = plan("method.p=0.3", link=Link(1e-9, 1e8))
    assert advise(it) == []
    assert "advice" not in describe(it, as_json=False)


def test_a_slow_draw_is_said_with_what_would_make_it_faster():
    slow = replace(plan(), draw=DrawCost(0.2, False), faster_draws={"a=b": DrawCost(0.01), "c=d": DrawCost(0.3)})
    sentences = " ".join(advise(slow))
    assert "the draw takes 200 ms (extrapolated) of a core: a=b 10 ms" in sentences
    assert "c=d" not in sentences


def test_a_draw_is_measured_in_full_up_to_a_budget_and_extrapolated_beyond():
    drawer = drawer_of(Topology(12))
    assert measure_draw(drawer).measured
    beyond = measure_draw(drawer, budget=2000)
    assert not beyond.measured
    assert beyond.seconds > 0
    assert measure_draw(drawer_of(Topology(12), p=0.0)) == DrawCost()


@pytest.mark.parametrize("picked", [10.0, 1350.0, 8000.0, 100_000.0])
def test_a_scaled_drawer_picks_what_is_asked_of_it_with_the_same_schedule(picked):
    drawer = drawer_of(Topology(3))
    scaled = scale_drawer(drawer, picked, Topology(4, "ring"))
    assert scaled.expected_picked == pytest.approx(picked)
    assert scaled.probabilities.max() <= 1
    assert scaled.probabilities / scaled.probabilities.max() == pytest.approx([1, 0.5, 0])
    assert scaled.num_members == 4


def test_a_run_without_exchanges_costs_nothing_and_is_advised_nothing():
    for overrides in (["method.name=independent"], ["method.p=0"]):
        it = plan(*overrides)
        assert (it.num_exchanges, it.messages_per_step, it.exchange_seconds, it.wire_bytes_per_step) == (0, 0, 0, 0)
        assert advise(it) == []
    assert plan(members=1).num_exchanges == 0


def test_nodes_are_to_be_given_to_a_prediction():
    with pytest.raises(ConfigError, match=r"method\.node_size=null: .* give the members a node"):
        plan("method.topology=node")
    it = plan("method.topology=node", "method.node_size=4", "method.node_ratio=5", members=64)
    assert it.messages_per_exchange == pytest.approx((63 + 4 * 3) / 5)


@pytest.mark.parametrize("members", [0, -1, 65_537])
def test_impossible_numbers_of_members_are_refused(members):
    with pytest.raises(ConfigError, match="expected --members from 1 to 65536"):
        plan(members=members)


@pytest.mark.parametrize(
    "link", [Link(-1.0, 1.0), Link(1.0, 0.0), Link(math.nan, 1.0), Link(0.0, 1.0, -1), Link(0, 1.0, 0, 0)]
)
def test_impossible_links_are_refused(link):
    with pytest.raises(ConfigError, match="expected --latency-us"):
        plan(link=link)


def test_a_link_is_said_as_options_that_give_it_again():
    assert describe_link(Link(12.34e-6, 1.5e9, 20e-6, 2)) == (
        "--latency-us 12.34 --bandwidth-gb 1.5 --overhead-us 20 --cores 2"
    )
    assert "--cores" not in describe_link(LINK)


@pytest.mark.parametrize("layer", ["tensor", "block"])
def test_the_layers_of_a_schedule_are_shown_with_what_moves_of_each(layer):
    it = plan("method.optimizer_state=true", f"method.layer={layer}", "method.p_schedule=linear")
    assert sum(one.values_moved for one in it.layers) == pytest.approx(it.values_moved_per_exchange)
    assert sum(one.num_parameters for one in it.layers) == it.num_parameters
    assert len(it.layers) == it.num_layers
    assert (it.layers[0].probability, it.layers[-1].probability) == (0.3, 0)
    first = it.layers[0]  # rows of parameters and momentum, p at half of its peak on average, 3 of 4 members elsewhere
    assert first.values_moved == pytest.approx(2 * first.num_parameters * 0.3 / 2 * 3 / 4, rel=0.15)
    head, line = describe(it, as_json=False, with_layers=True).splitlines()[-it.num_layers - 1 :][:2]
    assert head.split() == ["layer", "parameters", "p_l", "values", "moved"]
    assert line.split()[:3] == [first.name, f"{first.num_parameters:,}", "0.3"]
    assert json.loads(describe(it, as_json=True))["layers"][0] == asdict(first)
    assert "p_l" not in describe(it, as_json=False)


def test_a_method_without_a_schedule_has_no_layers_to_show():
    it = plan("method.name=papa")
    assert it.layers == []
    assert describe(it, as_json=False, with_layers=True).endswith("method.name=papa has no schedule over layers")


def test_the_plan_of_a_run_on_text_reads_the_text_and_says_where_there_is_none(tmp_path):
    keys = ["data.name=text", "model.name=language_model", "data.context=16", "train.steps=null"]
    with pytest.raises(WashError, match="there is no such file"):
        plan(*keys, f"data.path={tmp_path}/text")
    (tmp_path / "text").write_bytes(bytes(2000))
    it = plan(*keys, f"data.path={tmp_path}/text")
    assert it.num_steps == (1350 - 1) // 16 // 8  # a tenth for the test, of the rest a quarter held out, batches of 8
    assert it.layers[0].name == "tokens.weight"
