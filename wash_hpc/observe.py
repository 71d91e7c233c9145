"""What is written down about a run: metrics, progress, evaluations, and at the end weights and summary.

Owns when each is due and the reductions behind them. Every rank makes every call, because most are collective; only the
root writes shared files.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wash_hpc.clock import Stopwatch
from wash_hpc.config import Config
from wash_hpc.data.regularize import describe_regularization
from wash_hpc.data.source import Source, steps_per_epoch
from wash_hpc.ensemble.averages import Averages
from wash_hpc.ensemble.consensus import consensus_distance_per_layer
from wash_hpc.ensemble.judged import Evaluation, Merit
from wash_hpc.ensemble.scores import Scores
from wash_hpc.ensemble.soup import Weights
from wash_hpc.evaluate import Evaluator
from wash_hpc.logs import ProgressReport
from wash_hpc.member import Member
from wash_hpc.methods import Method
from wash_hpc.parallel.reducer import Reducer, Scope
from wash_hpc.parallel.world import World
from wash_hpc.provenance import describe_run
from wash_hpc.rates import PARTS, Rates
from wash_hpc.skipped import SkippedFiles
from wash_hpc.slurm import current_job, describe_restart
from wash_hpc.startup import describe_start, slowest, start_clock
from wash_hpc.storage.metrics import EvaluationRecord, TrainRecord
from wash_hpc.storage.sinks import MetricsWriters
from wash_hpc.storage.summary import Summary, write_summary
from wash_hpc.storage.weights import member_file, save_model, soup_file
from wash_hpc.totals import Totals


class Observer:
    """Watches one run. Every method is collective over the world.

    Args:
        config: the run's configuration.
        source: the images.
        world: the ranks.
        reducer: averages over ranks.
        member: what this rank trains.
        method: counts what was sent.
        averages: of the member over its steps.
        evaluator: judges.
        clock: the loop's; seconds by the names of `rates.PARTS`.
        totals: what the run has come to, earlier starts included.
        num_steps: of the whole run.
        first_step: steps already done.
    """

    def __init__(
        self,
        config: Config,
        source: Source,
        world: World,
        reducer: Reducer,
        member: Member,
        method: Method,
        averages: Averages,
        evaluator: Evaluator,
        clock: Stopwatch,
        totals: Totals,
        num_steps: int,
        first_step: int,
    ) -> None:
        self._config = config
        self._world = world
        self._reducer = reducer
        self._member = member
        self._method = method
        self._averages = averages
        self._evaluator = evaluator
        self._num_steps = num_steps
        self._steps_per_epoch = steps_per_epoch(source.num_train, config.data.batch_size)
        self._last_logged = first_step
        self._totals = totals
        self._rates = Rates(clock, config.data)
        self._num_images = 0  # of this rank in this start
        self._said_sick = False
        hosts = sorted(set(world.comm.allgather(socket.gethostname())))
        names = [layer.name for layer in member.flat.layers]
        start_clock.ended("rest")
        self._start_seconds = slowest(world.comm.allgather(start_clock.read()))
        self._progress = ProgressReport(
            config.log.progress, config.run.name, self._last_logged, num_steps, world.is_root
        )
        self._writer: MetricsWriters | None = None
        if world.is_root:  # describing asks git, which all ranks together need not do
            about = describe_run(config, world.layout, hosts, num_steps, first_step, self._start_seconds)
            self._writer = MetricsWriters(config, world.layout.num_members, names, about, first_step, self.say)
        self._skipped = SkippedFiles(config, source, world, self.say)

    def say(self, sentence: str) -> None:
        """Say something about the run; the root alone speaks."""
        self._progress.say(sentence)

    def close(self) -> None:
        """End what is written; a second call does nothing."""
        if self._writer is not None:
            self._writer.close()
        self._progress.close()

    def say_start(self, notes: list[str]) -> None:
        """Say where and how the run starts: what that took, what members drew, what the method and others note."""
        if self._last_logged:
            self.say(f"continues from step {self._last_logged}{describe_restart(current_job())}")
        self.say(describe_start(self._start_seconds))
        drawn = describe_regularization(self._config, self._world.layout.num_members)
        if drawn:
            self.say(f"regularisation: {drawn}")
        for note in (*self._method.notes, *self._method.warn(self._num_steps), *notes):
            self.say(note)

    def after_step(self, step: int) -> Merit | None:
        """Log and evaluate, each when it is due after update number `step`, from 1.

        Returns:
            How good the soup is, where it has been judged and `checkpoint.keep_best` asks for it.
        """
        last = step == self._num_steps
        if last or step % self._config.log.every_steps == 0:
            self._log(step)
        per_evaluation = self._config.evaluate.every_epochs * self._steps_per_epoch
        if per_evaluation and step % per_evaluation == 0 and not last:  # the last step is judged in `finish`
            self._member.average_statistics()
            evaluation = self._evaluator.evaluate(self._fetch, without=self._method.quarantined)
            self._record(step, evaluation)
            return self._merit(evaluation)
        return None

    def finish(self, end_checkpoints: Callable[[Merit | None], float]) -> Summary:
        """Judge the final members, write their weights, the soups and the summary.

        Args:
            end_checkpoints: is told how good the soup is, as `after_step` says it, and says by how many seconds writing
                checkpoints has held up the loop; collective over the world.
        """
        config, folder = self._config, self._config.folder
        self._member.average_statistics()
        if self._world.layout.replica == 0:  # before judging, which may meet an image that cannot be decoded
            save_model(member_file(folder, self._world.layout.member), self._member.model)
        without = self._method.quarantined
        evaluation = self._evaluator.evaluate(self._fetch, without=without)
        self._record(self._num_steps, evaluation)
        scores = dict(evaluation.scores)
        greedy = self._evaluator.greedy(self._fetch, without) if self._evaluator.can_be_greedy else None
        if greedy is not None:
            scores["greedy_soup"] = greedy.scores
        scores |= self._judge_averages(without)
        held_up_seconds = end_checkpoints(self._merit(evaluation))
        if self._world.is_root:
            self._save_soup("uniform", evaluation.soup)
            if greedy is not None:
                self._save_soup("greedy", greedy.weights)
        _, sent = self._totals.moved_and_sent()
        summary = Summary(
            name=config.run.name,
            method=config.method.name,
            num_members=self._world.layout.num_members,
            num_replicas=self._world.layout.num_replicas,
            seed=config.run.seed,
            steps=self._num_steps,
            epochs=self._num_steps / self._steps_per_epoch,
            samples_seen=self._num_steps * config.data.batch_size,
            num_parameters=self._member.flat.values.numel(),
            mean_member_accuracy=float(np.nanmean(evaluation.member_accuracy)),
            best_member_accuracy=float(np.nanmax(evaluation.member_accuracy)),
            ensemble_accuracy=evaluation.ensemble_accuracy,
            soup_accuracy=evaluation.soup_accuracy,
            soup_accuracy_raw=evaluation.soup_accuracy_raw,
            greedy_soup_accuracy=None if greedy is None else greedy.scores.accuracy,
            consensus_distance=float(self._consensus_distance_per_layer().square().sum().sqrt()),
            bytes_sent_per_member=round(float(sent.mean())),
            wall_seconds=self._totals.wall_seconds(),
            images_per_second_per_member=self._images_per_second(),
            left_out_members=evaluation.left_out,
            metric=self._evaluator.metric,
            disagreement=evaluation.disagreement,
            scores={judged: asdict(found) for judged, found in scores.items()},
            seconds=self._seconds_by_part(held_up_seconds),
            skipped_files=self._skipped.total(),
            member_accuracies=list(evaluation.member_accuracy),
            member_nlls=[scores.nll for scores in evaluation.members],
            greedy_soup_members=[] if greedy is None else list(greedy.members),
        )
        self._world.barrier()  # the summary says that the run has finished: every member's file is there before it
        if self._writer is not None:
            self._writer.end(summary)
            self._writer.close()
            write_summary(folder, summary)
        self.say(f"finished; the results are in {folder}")
        return summary

    def _log(self, step: int) -> None:
        """Reduce what all ranks saw since the last record; the root writes it."""
        progress = self._member.read_progress()
        seconds = list(self._rates.read().values())
        num_steps = step - self._last_logged
        per_step = [part / num_steps for part in seconds]
        rates = [progress.num_images / sum(seconds), float(progress.num_predictions)]
        sums = self._totals.by_member([progress.loss_sum, float(progress.num_correct), *rates, *per_step])
        moved, sent = self._totals.moved_and_sent()
        every = self._config.log.consensus_every_steps
        distances = torch.full((len(self._member.flat.layers),), math.nan, dtype=torch.float64)
        due_before = (step - 1) // self._config.log.every_steps * self._config.log.every_steps  # also in another start
        if step == self._num_steps or (every and step // every > due_before // every):
            distances = self._consensus_distance_per_layer()
        predictions, replicas = sums[:, 3], self._world.layout.num_replicas
        record = TrainRecord(
            step=step,
            epoch=step / self._steps_per_epoch,
            lr=self._member.learning_rate(step - 1),
            loss=sums[:, 0] / predictions,
            accuracy=sums[:, 1] / predictions,
            images_per_second=sums[:, 2],
            data_seconds=sums[:, 4] / replicas,
            compute_seconds=sums[:, 5] / replicas,
            reduce_seconds=sums[:, 6] / replicas,
            exchange_seconds=sums[:, 7] / replicas,
            values_moved=moved,
            bytes_sent=sent,
            skipped_files=self._skipped.by_member(),
            consensus_distance=float(distances.square().sum().sqrt()),
            consensus_distance_per_layer=distances.numpy(),
        )
        if self._writer is not None:
            self._writer.append_train(record)
        self._progress.show_step(step, float(record.loss.mean()), float(record.images_per_second.mean()))
        sick = [str(member) for member, loss in enumerate(record.loss) if not math.isfinite(loss)]
        if sick and not self._said_sick:
            self._said_sick = True
            self.say(f"step {step}: the loss of member {', '.join(sick)} is not finite; lower optimizer.lr?")
        warning = self._rates.warn(record, num_steps)
        if warning is not None:
            self.say(warning)
        self._last_logged = step
        self._num_images += progress.num_images

    def _record(self, step: int, evaluation: Evaluation) -> None:
        """Write down an evaluation."""
        if self._writer is not None:
            self._writer.append_evaluation(
                EvaluationRecord(
                    step=step,
                    member_accuracy=np.array(evaluation.member_accuracy),
                    ensemble_accuracy=evaluation.ensemble_accuracy,
                    soup_accuracy=evaluation.soup_accuracy,
                    member_nll=np.array([scores.nll for scores in evaluation.members]),
                    ensemble_nll=evaluation.scores["ensemble"].nll,
                    soup_nll=evaluation.scores["soup"].nll,
                    disagreement=evaluation.disagreement,
                )
            )
        metric = self._evaluator.metric
        member, ensemble, soup = (evaluation.scores[name].by(metric) for name in ("member", "ensemble", "soup"))
        self._progress.show_evaluation(step, metric, member, ensemble, soup)

    def _judge_averages(self, without: Collection[int]) -> dict[str, Scores]:
        """Scores of the members' averages over steps and of the averages' soups, by their keys in the summary."""
        scores = {}
        for name, values in self._averages.results().items():
            judged = self._evaluator.averages(partial(self._fetch, values=values), without)
            if judged is not None:
                scores[name], scores[f"{name}_soup"] = judged
        return scores

    def _images_per_second(self) -> float | None:
        """Training images of one member in a second of training, in this start, mean over members."""
        rate = self._num_images / sum(self._rates.seconds.values()) if self._num_images else math.nan
        rates = self._totals.by_member([rate])[:, 0]  # of all replicas of a member together
        return float(rates.mean()) if np.isfinite(rates).all() else None

    def _merit(self, evaluation: Evaluation) -> Merit | None:
        return self._evaluator.merit(evaluation) if self._config.checkpoint.keep_best else None

    def _seconds_by_part(self, checkpoint_seconds: float) -> dict[str, float | None]:
        """Of the training steps of this start, and between them of checkpoints, mean over ranks."""
        sums = self._totals.by_member([*self._rates.seconds.values(), checkpoint_seconds]).sum(axis=0)
        return dict(zip((*PARTS, "checkpoint"), (sums / self._world.layout.size).tolist(), strict=True))

    def _consensus_distance_per_layer(self) -> torch.Tensor:
        flat = self._member.flat
        return consensus_distance_per_layer(
            flat.values, flat.layers, lambda tensor: self._reducer.mean_(tensor, Scope.MEMBERS)
        ).cpu()

    def _fetch(self, member: int, values: Tensor | None = None) -> Weights:
        """A member's weights from the rank that trains it, or `values` of that rank in their place.

        Collective over `exchange_comm`.
        """
        own = self._member.weights()
        values = own.values if values is None else values
        fetched = self._reducer.broadcast_(values.clone(), Scope.MEMBERS, root=member)
        return Weights(fetched, self._reducer.broadcast_(own.statistics, Scope.MEMBERS, root=member))

    def _save_soup(self, kind: str, weights: Weights) -> None:
        self._evaluator.load(weights)
        save_model(soup_file(self._config.folder, kind), self._evaluator.model)
