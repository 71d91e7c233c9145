"""One member as one rank trains it: model, optimizer, flat parameters, and a single training step.

Owns what happens inside a member. What members do to each other is a method's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F

from wash_hpc.clock import Stopwatch
from wash_hpc.config import Config
from wash_hpc.cuda_graph import Replayed
from wash_hpc.data.regularize import regularization_of
from wash_hpc.data.source import Batch
from wash_hpc.ensemble.flat import Flat, get_statistics, set_statistics, trainable_parameters
from wash_hpc.ensemble.soup import Weights
from wash_hpc.errors import ConfigError
from wash_hpc.optimizer import learning_rate, make_optimizer, num_state_rows
from wash_hpc.parallel.reducer import Reducer, Scope
from wash_hpc.seeds import Stream, torch_seed

_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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

    The optimizer's state lies in the rows of the flat vector behind the parameters, where an exchange can reach it.
    Gradients lie where autograd makes them, so that none is ever set to zero or copied.

    Args:
        model: on its device, with this member's initial weights.
        config: the run's configuration.
        member: which member this is.
        replica: which of its replicas.
        num_steps: steps of the whole run; the learning rate depends on it.
        reducer: averages gradients over the replicas.
        clock: counts the wait for that average under `reduce`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        member: int,
        replica: int,
        num_steps: int,
        reducer: Reducer,
        clock: Stopwatch | None = None,
    ) -> None:
        self.model = model
        self.flat = Flat(model, num_state_rows=num_state_rows(config.optimizer))
        self._config = config
        self._place = (member, replica)
        self._label_smoothing = regularization_of(config, member).label_smoothing
        self._num_steps = num_steps
        self._reducer = reducer
        device = self.flat.values.device
        self._clock = clock or Stopwatch(device)
        self._optimizer, self._learning_rate = make_optimizer(config.optimizer, self.flat)
        # What fp16 needs lest small gradients vanish; it passes everything on unchanged in the other precisions.
        self._scaler = GradScaler(device.type, enabled=config.train.precision == "fp16")
        self._forward: Callable[[Tensor], Tensor] = torch.compile(model) if config.train.compile else model
        self._loss_sum = torch.zeros((), device=device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self._num_predictions = 0
        self._num_images = 0
        self._batch: Batch | None = None
        self._is_last_part = True
        self._compute: Callable[[], None] = self._forward_and_backward
        self._update: Callable[[], None] = self._step_optimizer
        reducer.broadcast_(self.flat.values, Scope.MEMBER)
        if config.train.cuda_graph:
            self._compute, self._update = Replayed(self._compute), Replayed(self._update)
        else:
            self._average_gradients_as_they_come()

    def step(self, batch: Batch, step: int) -> None:
        """One optimizer update. Collective over `member_comm` where a member has several replicas.

        Does not wait for the device, other than in a reduction.

        Args:
            batch: this replica's part of the member's batch.
            step: number of the step, from 0.
        """
        # Dropout and the like draw from torch's own generator: seeded by the step, a restart has nothing to restore.
        torch.manual_seed(torch_seed(self._config.run.seed, Stream.TORCH, *self._place, step))
        self._learning_rate.fill_(self.learning_rate(step))
        self._take(batch)
        self._compute()
        if self._config.train.cuda_graph:  # no reduction may be recorded: all begin behind the graph
            for parameter, layer in zip(self.flat.parameters, self.flat.layers, strict=True):
                if parameter.grad is not None:  # as of one that forward does not use
                    self._start_mean(parameter, layer.name)
        with self._clock("reduce"):
            self._reducer.finish()
        self._update()
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
        return {"rows": self.flat.rows, **buffers, **self._scaler_state()}

    def state_shapes(self) -> dict[str, torch.Size]:
        """The shapes in `state`."""
        return {name: tensor.shape for name, tensor in self.state().items()}

    def load_state(self, state: dict[str, Tensor], step: int) -> None:
        """Put back what `state` gave after `step` steps."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        num_updates = float(step)
        if self._scaler.is_enabled():
            scale, num_good, num_updates = state["scaler"].tolist()
            held = {"scale": scale, "_growth_tracker": int(num_good)}
            self._scaler.load_state_dict(self._scaler.state_dict() | held)
        for entry in self._optimizer.state.values():
            if "step" in entry:
                entry["step"].fill_(num_updates)

    def _scaler_state(self) -> dict[str, Tensor]:
        """Of fp16: the factor of the loss, steps since it grew, and updates that were not left out."""
        if not self._scaler.is_enabled():
            return {}
        held = self._scaler.state_dict()
        num_updates = max(
            (float(entry["step"]) for entry in self._optimizer.state.values() if "step" in entry), default=0
        )
        numbers = [held["scale"], held["_growth_tracker"], num_updates]
        return {"scaler": torch.tensor(numbers, dtype=torch.float64)}

    def _take(self, batch: Batch) -> None:
        """Have the batch where forward looks for it; a graph looks for it in the same memory in every step."""
        if self._batch is None or not self._config.train.cuda_graph:
            self._batch = batch.clone() if self._config.train.cuda_graph else batch
        else:
            self._batch.copy_(batch)

    def _forward_and_backward(self) -> None:
        """The gradients of the batch, and what it adds to the progress."""
        assert self._batch is not None
        self._optimizer.zero_grad(set_to_none=True)
        parts = self._batch.split(self._config.train.accumulate)
        for number, part in enumerate(parts, 1):
            self._is_last_part = number == len(parts)
            with self._autocast():
                logits = self._forward(self._in_memory_order(part.images)).flatten(end_dim=-2)
                loss = F.cross_entropy(logits, part.targets, label_smoothing=self._label_smoothing)
            torch.autograd.backward(self._scaler.scale(loss / len(parts) if len(parts) > 1 else loss))
            self._loss_sum += loss.detach() * part.labels.numel()
            self._num_correct += (logits.detach().argmax(dim=1) == part.labels.flatten()).sum()

    def _step_optimizer(self) -> None:
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def _autocast(self) -> AbstractContextManager[None]:
        precision = self._config.train.precision
        # A graph records the casts of weights, and must record them in every part.
        return torch.autocast(
            self.flat.values.device.type,
            _AUTOCAST[precision],
            enabled=precision != "fp32",
            cache_enabled=not self._config.train.cuda_graph,
        )

    def _in_memory_order(self, images: Tensor) -> Tensor:
        if self._config.train.channels_last and images.dim() == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def _average_gradients_as_they_come(self) -> None:
        """Start averaging each gradient over the replicas as soon as backward has it, while backward goes on."""
        for parameter, layer in zip(self.flat.parameters, self.flat.layers, strict=True):
            parameter.register_post_accumulate_grad_hook(partial(self._start_mean_of_last_part, name=layer.name))

    def _start_mean_of_last_part(self, parameter: Tensor, name: str) -> None:
        if self._is_last_part:
            self._start_mean(parameter, name)

    def _start_mean(self, parameter: Tensor, name: str) -> None:
        """Hand a gradient to the reducer, as a vector in the order in which it lies in memory."""
        assert parameter.grad is not None
        self._reducer.start_mean_(parameter.grad.as_strided((parameter.numel(),), (1,)), name)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], channels_last: bool) -> None:
    """Put parameters and statistics out of a `Member.state`, of its first replica, into a model; leave the rest.

    Args:
        model: of the member's architecture, its parameters in torch's own order.
        state: as it was.
        channels_last: whether the member's parameters lay in that order.

    Raises:
        ConfigError: it is of another architecture.
    """
    named = trainable_parameters(model)
    values = state["rows"][0]
    shapes = {f"statistics.{name}": buffer.shape for name, buffer in model.named_buffers()}
    sizes = [parameter.numel() for _, parameter in named]
    if values.numel() != sum(sizes) or any(state[name].shape != shape for name, shape in shapes.items()):
        raise ConfigError("model.name: the weights are of another model")
    with torch.no_grad():
        for (_, parameter), part in zip(named, values.split(sizes), strict=True):
            if channels_last and parameter.dim() == 4:
                outputs, inputs, height, width = parameter.shape
                parameter.copy_(part.view(outputs, height, width, inputs).permute(0, 3, 1, 2))
            else:
                parameter.copy_(part.view(parameter.shape))
        for name, buffer in model.named_buffers():
            buffer.copy_(state[f"statistics.{name}"])
