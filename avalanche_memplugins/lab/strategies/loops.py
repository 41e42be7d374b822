"""Training loops and plugins of Avalanche's kind that recipes need."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.core import SupervisedPlugin
from avalanche.training import JointTraining, Naive

from avalanche_memplugins.plugins import TensorLoaderPlugin


class StopAfter(SupervisedPlugin):  # type: ignore[misc]
    """Ends an experience after a number of steps, in the middle of an epoch if need be.

    :param iterations: how many, >= 1.

    >>> StopAfter(20).iterations
    20
    """

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Count, and stop."""
        if strategy.clock.train_exp_iterations + 1 >= self.iterations:
            strategy.stop_training()


class ServedTests(TensorLoaderPlugin):
    """Serves tests from tensors and leaves training as it is: the same numbers in a fraction of the time.

    Each of torch's loaders takes one number from the global generator when it starts. This plugin does the same;
    otherwise the next experience would be shuffled in another order.

    >>> ServedTests().train
    False
    """

    def __init__(self) -> None:
        super().__init__(train=False, seed=0)  # shuffles nothing, so a run draws no seed for it

    def serve(self, loader: Any, device: torch.device, *, generator: torch.Generator | None = None) -> Any:
        """Leave alone what a learning memory reads, which would come in another order."""
        return loader

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Serve the experience's evaluation data."""
        before = strategy.dataloader
        super().before_eval_exp(strategy, **kwargs)
        if strategy.dataloader is not before:
            torch.empty((), dtype=torch.int64).random_()


class Untrained(Naive):  # type: ignore[misc]
    """Shows the stream to its plugins, once, and trains nothing."""

    def training_epoch(self, **kwargs: Any) -> None:
        """Every batch, as far as its plugins may write it."""
        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)


class WholeStream(JointTraining):  # type: ignore[misc]
    """Joint training within a loop over experiences: all of the stream at the first of them, nothing after.

    :param stream: all of it.
    :param kwargs: as every Avalanche strategy takes them.
    """

    def __init__(self, *, stream: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stream = stream

    def train(self, experiences: Any, eval_streams: Any = None, **kwargs: Any) -> Any:
        """Train, if that has not been done."""
        if self.clock.train_exp_counter:
            return {}
        return super().train(self.stream, eval_streams=[], **kwargs)


class Online(Naive):  # type: ignore[misc]
    """Trains on an experience as a stream of experiences of one batch. Nothing says where the experience ends."""

    def train(self, experiences: Any, eval_streams: Any = None, **kwargs: Any) -> Any:
        """Train on every batch once."""
        pieces = split_online_stream([experiences], experience_size=self.train_mb_size, drop_last=True)
        return super().train(pieces, eval_streams=[], **kwargs)


class Scheduled(SupervisedPlugin):  # type: ignore[misc]
    """Moves the learning rate of one optimiser along a schedule, anew in each experience.

    :param optimizer: whose learning rate it is; other optimisers of a strategy's parts are left alone.
    :param make: the schedule, from the optimiser and the experience's number of steps.
    :param most: steps of an experience at the most; None: whole epochs.
    """

    def __init__(self, optimizer: Any, make: Callable[[Any, int], Any], most: int | None = None) -> None:
        super().__init__()
        self.optimizer, self.make, self.most = optimizer, make, most
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self._schedule: Any = None
        self._left = 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Begin at the learning rate of the run."""
        if strategy.optimizer is not self.optimizer:
            return
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
            group.pop("initial_lr", None)
        steps = math.ceil(len(strategy.adapted_dataset) / strategy.train_mb_size) * strategy.train_epochs
        self._left = steps if self.most is None else min(steps, self.most)
        self._schedule = self.make(self.optimizer, self._left)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Go on by a step."""
        if strategy.optimizer is self.optimizer and self._left:
            self._left -= 1
            self._schedule.step()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Drop the schedule, which ends with the experience."""
        if strategy.optimizer is self.optimizer:
            self._schedule = None
