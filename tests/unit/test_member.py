"""A member's training step against torch's own way of doing the same."""

from __future__ import annotations

import copy
import math
import time
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support import AloneReducer, tiny_config
from wash_hpc.clock import Stopwatch
from wash_hpc.config import OptimizerConfig
from wash_hpc.data.regularize import Mix, mix_pairs, regularization_of
from wash_hpc.data.source import Batch
from wash_hpc.ensemble.flat import to_channels_last
from wash_hpc.errors import ConfigError
from wash_hpc.member import Member, load_weights
from wash_hpc.models import build_model
from wash_hpc.optimizer import learning_rate


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch(torch.randn(8, 3, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator))


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4, fused=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05, weight_decay=1e-4, fused=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=1e-4, fused=True),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_steps_in_the_flat_vector_equal_torchs_steps_on_separate_tensors_bit_for_bit(name):
    torch.manual_seed(0)
    model = build_model("resnet_small", (3, 8, 8), 4, 4)
    twin = copy.deepcopy(model)
    config = tiny_config(f"optimizer.name={name}", "optimizer.schedule=constant")
    member = Member(model, config, member=0, replica=0, num_steps=5, reducer=AloneReducer())
    optimizer = OPTIMIZERS[name](twin.parameters())
    for step in range(5):
        member.step(batch(step), step)
        optimizer.zero_grad()
        F.cross_entropy(twin(batch(step).images), batch(step).labels).backward()
        optimizer.step()
    assert torch.equal(member.flat.values, torch.cat([p.detach().flatten() for p in twin.parameters()]))
    first = "momentum_buffer" if name == "sgd" else "exp_avg"
    assert torch.equal(member.flat.rows[1], torch.cat([optimizer.state[p][first].flatten() for p in twin.parameters()]))


@pytest.mark.parametrize("name", get_args(get_type_hints(OptimizerConfig)["name"]))
def test_all_that_an_optimizer_keeps_for_each_parameter_lies_where_an_exchange_reaches_it(name):
    member = Member(build_model("mlp", (3, 8, 8), 4, 2), tiny_config(f"optimizer.name={name}"), 0, 0, 5, AloneReducer())
    for step in range(2):
        member.step(batch(step), step)
    kept = [state for state in member._optimizer.state.values() if state]
    tensors = [[tensor for key, tensor in state.items() if key != "step"] for state in kept]
    rows = [member.flat.views(row) for row in range(1, len(member.flat.rows))]
    assert len(tensors) == len(member.flat.parameters)
    assert [[tensor.data_ptr() for tensor in state] for state in tensors] == [
        [view.data_ptr() for view in views] for views in zip(*rows, strict=True)
    ]
    assert all(bool(row.any()) for row in member.flat.rows)


def make_member(*overrides: str, model: str = "resnet_small", reducer: AloneReducer | None = None) -> Member:
    config = tiny_config("optimizer.schedule=constant", *overrides)
    torch.manual_seed(0)
    network = build_model(model, (3, 8, 8), 4, 8)
    if config.train.channels_last:
        to_channels_last(network, torch.device("cpu"))
    return Member(network, config, 0, 0, 5, reducer or AloneReducer())


def after_steps(member: Member, num_steps: int = 4, first_step: int = 0) -> Member:
    for step in range(first_step, first_step + num_steps):
        member.step(batch(step), step)
    return member


def test_parameters_in_channels_last_memory_stay_there_and_are_trained_alike():
    member, plain = (after_steps(make_member(f"train.channels_last={kind}")) for kind in ("true", "false"))
    assert not torch.equal(member.flat.values, plain.flat.values)  # another order in memory
    names = dict(plain.model.named_parameters())
    convolutions = 0
    for name, parameter in member.model.named_parameters():
        torch.testing.assert_close(parameter, names[name], rtol=1e-4, atol=1e-5)
        assert parameter.untyped_storage().data_ptr() == member.flat.storage.untyped_storage().data_ptr()
        assert parameter.grad is not None
        strides = zip(parameter.shape, parameter.stride(), parameter.grad.stride(), strict=True)
        assert all(own == of_gradient for size, own, of_gradient in strides if size > 1)
        if parameter.dim() == 4 and parameter.shape[2] > 1 and parameter.shape[1] > 1:
            convolutions += 1
            assert parameter.is_contiguous(memory_format=torch.channels_last)
            assert not parameter.is_contiguous()
    assert convolutions > 2


@pytest.mark.parametrize("kind", ["true", "false"])
def test_a_state_gives_its_weights_to_a_network_in_torchs_own_order(kind):
    member = after_steps(make_member(f"train.channels_last={kind}"))
    torch.manual_seed(1)
    model = build_model("resnet_small", (3, 8, 8), 4, 8)
    state = {**member.state(), "replica_statistics": torch.zeros(2, 1)}  # as a checkpoint of two replicas has
    load_weights(model, state, channels_last=kind == "true")
    expected = member.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ConfigError, match=r"model.name: the weights are of another model"):
        load_weights(build_model("resnet_small", (3, 8, 8), 4, 4), state, channels_last=False)


def test_a_network_that_torch_cannot_train_in_channels_last_memory_on_a_cpu_is_refused():
    narrow = build_model("resnet_small", (3, 8, 8), 4, 4)
    with pytest.raises(ConfigError, match=r"train.channels_last=true: .*stages.1.shortcut.0, a 1x1 convolution"):
        to_channels_last(narrow, torch.device("cpu"))
    to_channels_last(narrow, torch.device("cuda"))


def test_what_the_reducer_gets_is_contiguous_and_the_whole_gradient_whatever_the_order_in_memory():
    class Recording(AloneReducer):
        def start_mean_(self, tensor: Tensor, name: str) -> None:
            assert tensor.is_contiguous()
            assert tensor.dim() == 1
            given[name] = tensor.data_ptr(), tensor.numel()

    given: dict[str, tuple[int, int]] = {}
    member = after_steps(make_member("train.channels_last=true", reducer=Recording()), 1)
    gradients = {name: parameter.grad for name, parameter in member.model.named_parameters()}
    assert given == {name: (gradient.data_ptr(), gradient.numel()) for name, gradient in gradients.items()}


@pytest.mark.parametrize("mixed", [False, True])
def test_a_batch_in_several_parts_gives_the_step_of_the_whole_batch(mixed):
    def trained(parts: int) -> Member:
        member = make_member(f"train.accumulate={parts}", "train.label_smoothing=0.1", model="mlp")
        for step in range(4):
            member.step(mix_pairs(batch(step), Mix(0.7, None), 4) if mixed else batch(step), step)
        return member

    whole, parts = trained(1), trained(4)
    torch.testing.assert_close(parts.flat.rows, whole.flat.rows, rtol=1e-4, atol=1e-6)
    one, several = whole.read_progress(), parts.read_progress()
    assert math.isclose(one.loss_sum, several.loss_sum, rel_tol=1e-5)
    assert (one.num_correct, one.num_images) == (several.num_correct, several.num_images)


def test_gradients_are_reduced_once_a_step_however_many_parts_a_batch_has():
    class Counting(AloneReducer):
        def start_mean_(self, tensor: Tensor, name: str) -> None:
            names.append(name)

    names: list[str] = []
    member = after_steps(make_member("train.accumulate=4", reducer=Counting()), 2)
    assert sorted(names) == sorted(2 * [layer.name for layer in member.flat.layers])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_half_precision_in_forward_trains_nearly_as_full_precision(name, precision):
    half, full = (
        after_steps(make_member(f"train.precision={kind}", f"optimizer.name={name}", "optimizer.lr=0.001", model="mlp"))
        for kind in (precision, "fp32")
    )
    assert half.flat.values.dtype == torch.float32
    assert not torch.equal(half.flat.values, full.flat.values)
    difference = (half.flat.values - full.flat.values).norm() / (full.flat.values - start_of("mlp")).norm()
    assert difference < 0.25


def start_of(model: str) -> Tensor:
    return make_member(model=model).flat.values.detach().clone()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_fp16_leaves_out_an_update_that_overflows_and_continues_from_its_state_bit_for_bit(name):
    overrides = ("train.precision=fp16", f"optimizer.name={name}")
    member = make_member(*overrides, model="mlp")
    before = member.flat.rows.clone()
    member.step(Batch(batch(0).images * 1e6, batch(0).labels), 0)  # beyond what fp16 can hold
    assert torch.equal(member.flat.rows, before)
    after_steps(member, 2, first_step=1)
    assert not torch.equal(member.flat.values, before[0])
    state = {key: tensor.clone() for key, tensor in member.state().items()}
    continued = make_member(*overrides, model="mlp")
    continued.load_state(state, 3)
    for one in (member, continued):
        after_steps(one, 2, first_step=3)
    assert torch.equal(member.flat.rows, continued.flat.rows)
    assert torch.equal(member.state()["scaler"], continued.state()["scaler"])
    scale, _, num_updates = member.state()["scaler"].tolist()
    num_left_out = 16 - math.log2(scale)  # each halves the scale, which was 2^16
    assert num_left_out >= 1
    assert num_updates == (5 - num_left_out if name == "adam" else 0)


def test_a_compiled_network_takes_the_steps_of_the_plain_one():
    compiled, plain = (after_steps(make_member(f"train.compile={kind}", model="mlp"), 2) for kind in ("true", "false"))
    torch.testing.assert_close(compiled.flat.rows, plain.flat.rows, rtol=1e-4, atol=1e-6)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())


def test_waiting_for_the_mean_of_gradients_is_not_counted_as_computing():
    class Slow(AloneReducer):
        def finish(self) -> None:
            time.sleep(0.05)

    clock = Stopwatch(torch.device("cpu"))
    member = Member(build_model("mlp", (3, 8, 8), 4, 2), tiny_config(), 0, 0, 5, Slow(), clock)
    with clock("compute"):
        member.step(batch(0), 0)
    seconds = clock.read()
    assert seconds["reduce"] >= 0.05
    assert set(seconds) == {"compute", "reduce"}


def test_gradients_are_handed_to_the_reducer_while_backward_goes_on():
    """The last layer's gradient is given away when the first layer's is not there yet."""
    first_layer_had_none: dict[str, bool] = {}

    class Recording(AloneReducer):
        def start_mean_(self, tensor: Tensor, name: str) -> None:
            first = member.flat.layers[0]
            first_layer_had_none[name] = dict(member.model.named_parameters())[first.name].grad is None

    member = Member(build_model("resnet_small", (3, 8, 8), 4, 4), tiny_config(), 0, 0, 5, Recording())
    member.step(batch(0), 0)
    assert next(iter(first_layer_had_none)).startswith("classifier")
    assert list(first_layer_had_none)[-1] == member.flat.layers[0].name
    assert set(first_layer_had_none) == {layer.name for layer in member.flat.layers}
    assert [name for name, had_none in first_layer_had_none.items() if not had_none] == [member.flat.layers[0].name]


def test_progress_counts_loss_and_hits_and_starts_anew():
    member = Member(build_model("mlp", (3, 8, 8), 4, 2), tiny_config(), 0, 0, 5, AloneReducer())
    expected = [member.model(batch(step).images).detach() for step in range(1)]
    member.step(batch(0), 0)
    progress = member.read_progress()
    assert progress.num_images == progress.num_predictions == 8
    assert math.isclose(progress.loss_sum / 8, float(F.cross_entropy(expected[0], batch(0).labels)), rel_tol=1e-5)
    assert progress.num_correct == int((expected[0].argmax(dim=1) == batch(0).labels).sum())
    assert member.read_progress().num_images == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_member_learns_the_shares_of_mixed_images_with_its_own_label_smoothing(precision):
    config = tiny_config("train.label_smoothing=[0,0.1,0.3]", "run.seed=3", f"train.precision={precision}")
    mixed = mix_pairs(batch(0), Mix(0.7, None), num_classes=4)
    losses = {}
    for number in range(3):
        torch.manual_seed(0)
        member = Member(build_model("mlp", (3, 8, 8), 4, 2), config, number, 0, 5, AloneReducer())
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), torch.no_grad():
            logits = member.model(mixed.images).float()
        member.step(mixed, 0)
        progress = member.read_progress()
        assert mixed.shares is not None
        smoothing = regularization_of(config, number).label_smoothing
        targets = (1 - smoothing) * mixed.shares + smoothing / 4
        losses[smoothing] = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
        assert math.isclose(progress.loss_sum / 8, losses[smoothing], rel_tol=1e-2 if precision == "bf16" else 1e-5)
        assert progress.num_correct == int((logits.argmax(dim=1) == mixed.labels).sum())
    assert len(set(map(float, losses.values()))) == 3


def test_dropout_depends_on_seed_member_and_step_alone():
    def losses(member_number: int, steps: list[int]) -> list[float]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(192, 4))
        member = Member(model, tiny_config("optimizer.lr=0", "optimizer.min_lr=0"), member_number, 0, 5, AloneReducer())
        result = []
        for step in steps:
            member.step(batch(0), step)
            result.append(member.read_progress().loss_sum)
        return result

    assert losses(0, [0, 1, 2])[1:] == losses(0, [1, 2])
    assert len(set(losses(0, [0, 1, 2]))) == 3
    assert losses(0, [0]) != losses(1, [0])


def test_learning_rate_warms_up_and_follows_a_cosine_to_its_end():
    config = tiny_config("optimizer.lr=0.1", "optimizer.min_lr=0.001", "optimizer.warmup_steps=4").optimizer
    rates = [learning_rate(config, step, 104) for step in range(105)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    assert rates[54] == pytest.approx((0.1 + 0.001) / 2)
    assert rates[104] == pytest.approx(0.001)
    assert all(a >= b for a, b in pairwise(rates[4:]))
