"""One member as one rank trains it: model, optimizer, flat parameters, and a single training step.

Owns what happens inside a member. What members do to each other is a method's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wash_hpc.config import Config, OptimizerConfig
from wash_hpc.data.regularize import regularization_of
from wash_hpc.data.source import Batch
from wash_hpc.ensemble.flat import Flat, get_statistics, set_statistics
from wash_hpc.ensemble.soup import Weights
from wash_hpc.parallel.reducer import Reducer, Scope
from wash_hpc.seeds import Stream, torch_seed


@dataclass(frozen=True)
class Progress:
    """What a rank saw in its training batches since the last reading; loss and hits are summed over predictions.

    A prediction is that of an image's class, or of one byte of text; an image may also be a window of text.
    """

    loss_sum: float
    num_correct: int
    num_predictions: int
    num_images: int


class Member:
    """The replica of one member that this rank trains.

    The optimizer steps once over the flat vector, and its state lies in the rows behind it, where an exchange can
    reach it.

    Args:
        model: on its device, with this member's initial weights.
        config: the run's configuration.
        member: which member this is.
        replica: which of its replicas.
        num_steps: steps of the whole run; the learning rate depends on it.
        reducer: averages gradients over the replicas.
    """

    def __init__(
        self, model: nn.Module, config: Config, member: int, replica: int, num_steps: int, reducer: Reducer
    ) -> None:
        self.model = model
        self.flat = Flat(model, num_state_rows=num_state_rows(config.optimizer))
        self._config = config
        self._place = (member, replica)
        self._label_smoothing = regularization_of(config, member).label_smoothing
        self._num_steps = num_steps
        self._reducer = reducer
        self._optimizer = _make_optimizer(config.optimizer, self.flat)
        self._device_type = self.flat.values.device.type
        self._loss_sum = torch.zeros((), device=self.flat.values.device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=self.flat.values.device)
        self._num_predictions = 0
        self._num_images = 0
        reducer.broadcast_(self.flat.values, Scope.MEMBER)
        self._average_gradients_as_they_come()

    def step(self, batch: Batch, step: int) -> None:
        """One optimizer update. Collective over `member_comm` where a member has several replicas.

        Args:
            batch: this replica's part of the member's batch.
            step: number of the step, from 0.
        """
        # Dropout and the like draw from torch's own generator: seeded by the step, a restart has nothing to restore.
        torch.manual_seed(torch_seed(self._config.run.seed, Stream.TORCH, *self._place, step))
        self.flat.gradients.zero_()
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._config.train.precision == "bf16"):
            logits = self.model(batch.images).flatten(end_dim=-2)
            loss = F.cross_entropy(logits, batch.targets, label_smoothing=self._label_smoothing)
        torch.autograd.backward(loss)
        self._reducer.finish()
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self._optimizer.step()
        self._loss_sum += loss.detach() * batch.labels.numel()
        self._num_correct += (logits.detach().argmax(dim=1) == batch.labels.flatten()).sum()
        self._num_predictions += batch.labels.numel()
        self._num_images += len(batch.labels)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        return learning_rate(self._config.optimizer, step, self._num_steps)

    def read_progress(self) -> Progress:
        """Loss and hits since the last reading, and start anew. Waits for the device."""
        progress = Progress(float(self._loss_sum), int(self._num_correct), self._num_predictions, self._num_images)
        self._loss_sum.zero_()
        self._num_correct.zero_()
        self._num_predictions = 0
        self._num_images = 0
        return progress

    def average_statistics(self) -> None:
        """Give all replicas the mean of their statistics. Collective over `member_comm`."""
        set_statistics(self.model, self._reducer.mean_(get_statistics(self.model), Scope.MEMBER))

    def weights(self) -> Weights:
        """This member's weights: parameters as they lie in memory (not a copy), statistics as a copy."""
        return Weights(self.flat.values.detach(), get_statistics(self.model))

    def state(self) -> dict[str, Tensor]:
        """All that a restart needs besides the step: parameters and optimizer state (not copies), untrained state."""
        buffers = {f"statistics.{name}": buffer for name, buffer in self.model.named_buffers()}
        return {"rows": self.flat.rows, **buffers}

    def state_shapes(self) -> dict[str, torch.Size]:
        """The shapes in `state`."""
        return {name: tensor.shape for name, tensor in self.state().items()}

    def load_state(self, state: dict[str, Tensor], step: int) -> None:
        """Put back what `state` gave after `step` steps."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        for entry in self._optimizer.state.values():
            if "step" in entry:
                entry["step"].fill_(float(step))

    def _average_gradients_as_they_come(self) -> None:
        """Start averaging each gradient over the replicas as soon as backward has it, while backward goes on."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._start_mean_of(name))

    def _start_mean_of(self, name: str) -> Callable[[Tensor], None]:
        def start(parameter: Tensor) -> None:
            assert parameter.grad is not None
            self._reducer.start_mean_(parameter.grad, name)

        return start


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Linear warm-up, then constant or a cosine from `lr` in the first step to `min_lr` after the last."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1.0 + math.cos(math.pi * done))


def relative_learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """The learning rate of a step as a share of its peak; 0 where there is none."""
    return learning_rate(config, step, num_steps) / config.lr if config.lr > 0 else 0.0


def num_state_rows(config: OptimizerConfig) -> int:
    """How many numbers an optimizer keeps for each parameter."""
    if config.name == "sgd":
        return 1 if config.momentum > 0 else 0
    return 2


def _make_optimizer(config: OptimizerConfig, flat: Flat) -> torch.optim.Optimizer:
    """torch's optimizer over the flat vector as its only parameter, with its state in the rows behind it.

    torch makes the state itself in the first step unless it is there: zeros are what it would start from.
    """
    parameter = nn.Parameter(flat.values)
    parameter.grad = flat.gradients
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        optimizer = torch.optim.SGD(
            [parameter],
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
        if config.momentum > 0:
            optimizer.state[parameter] = {"momentum_buffer": flat.rows[1]}
        return optimizer
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    optimizer = kind([parameter], lr=config.lr, weight_decay=config.weight_decay)
    optimizer.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": flat.rows[1], "exp_avg_sq": flat.rows[2]}
    return optimizer
