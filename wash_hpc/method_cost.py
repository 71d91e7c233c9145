"""What each method sends, by the formulas in its docstring: scalars, messages and seconds of one time that it acts.

Owns which vector a method averages and how often. How an average or a shuffle travels is `traffic`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

from wash_hpc.config import Config, SingleMethodConfig
from wash_hpc.methods.drawing import mean_p_factor
from wash_hpc.methods.due import counted_in_steps, due_steps
from wash_hpc.parallel.link import Link
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.partition import Partition
from wash_hpc.traffic import Traffic, predict_average, predict_traffic


@dataclass(frozen=True)
class Sizes:
    """Of a run, as far as methods care.

    Attributes:
        num_parameters: P.
        num_statistics: S, numbers of untrained state.
        num_channels: C, of the hidden layers, which REPAIR measures.
        num_rows_kept: rows of the flat vector: parameters and optimizer state.
        item_size: bytes of a value.
        num_steps: of the run.
        steps_per_epoch: of a pass over the training set.
    """

    num_parameters: int
    num_statistics: int
    num_channels: int
    num_rows_kept: int
    item_size: int
    num_steps: int
    steps_per_epoch: int

    def num_rows_moved(self, method: SingleMethodConfig) -> int:
        """Rows that a method shuffles: 1, or with `method.optimizer_state` all."""
        return self.num_rows_kept if method.optimizer_state else 1


@dataclass(frozen=True)
class MethodCost:
    """What one method sends.

    Attributes:
        name: `method.name`.
        traffic: one time that it acts.
        num_exchanges: how often it acts.
        values_sent: scalars that a member sends in the run.
    """

    name: str
    traffic: Traffic
    num_exchanges: int
    values_sent: float


@dataclass(frozen=True)
class LayerShare:
    """One layer of WASH's schedule.

    Attributes:
        name: of the parameter, module or block, as `method.layer` says.
        num_parameters: d_l.
        probability: p_l, at the peak of `method.p_schedule`.
        values_moved: by a member in an exchange, in the mean.
    """

    name: str
    num_parameters: int
    probability: float
    values_moved: float


def predict_method(config: Config, drawer: Drawer, sizes: Sizes, link: Link) -> MethodCost:
    """Predict what `config.method` alone sends, without `method.then`.

    Args:
        config: of the run.
        drawer: of `make_drawer` for this method.
        sizes: of the run.
        link: of each rank; ranks are members.
    """
    name = config.method.name
    due = due_steps(counted_in_steps(config.method, sizes.num_steps, sizes.steps_per_epoch), sizes.num_steps)
    factor = mean_p_factor(config, sizes.num_steps)
    if name == "wash":
        traffic = predict_traffic(drawer.scaled(factor), sizes.num_rows_moved(config.method), sizes.item_size, link)
    else:
        values = values_averaged(config, sizes) * (factor if name == "sparta" else 1.0)
        traffic = predict_average(values, drawer.num_members, sizes.item_size, link)
    num_exchanges = len(due) if traffic.messages else 0
    first_anchor = traffic.values if name == "diloco" and config.method.start < sizes.num_steps else 0.0
    return MethodCost(name, traffic, num_exchanges, traffic.values * num_exchanges + first_anchor)


def values_averaged(config: Config, sizes: Sizes) -> float:
    """The length of what a method averages each time that it acts; 0 for one that averages nothing, or is not ours."""
    method = config.method
    share = method.p or 0.0
    if method.draw == "partitioned":
        share = 1 / Partition(config.run.seed, sizes.num_parameters, method.known_p).num_parts
    return {
        "papa": sizes.num_parameters + sizes.num_statistics,
        "papa_all": sizes.num_parameters + sizes.num_statistics + 3 * sizes.num_channels * method.repair,
        "sparta": share * sizes.num_parameters,
        "local_sgd": sizes.num_parameters,
        "diloco": sizes.num_parameters,
        "data_parallel": sizes.num_parameters,
    }.get(method.name, 0.0)


def share_out(traffic: Traffic, drawer: Drawer, layer_names: list[str]) -> list[LayerShare]:
    """What a member moves in an exchange, shared out over the layers as the positions picked are, in the mean."""
    moved = drawer.probabilities * drawer.layer_sizes * (traffic.values / (drawer.expected_picked or 1.0))
    columns = (layer_names, drawer.layer_sizes.tolist(), drawer.probabilities.tolist(), moved.tolist())
    return [LayerShare(*row) for row in zip(*columns, strict=True)]
