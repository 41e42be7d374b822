"""Joins a memory to a strategy: writes the stream to it, and rehearses from it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from avalanche.core import SupervisedPlugin
from avalanche.models.utils import is_multi_task_module
from avalanche.training.plugins import EvaluationPlugin, GenerativeReplayPlugin, ReplayPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import PeriodicEval
from avalanche.training.templates.problem_type.supervised_problem import SupervisedProblem
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._augment import Augment
from avalanche_memplugins._batch import Keys, keys_of, rows_of_batch, some_rows
from avalanche_memplugins._defaults import REPLAY_WEIGHT, Weight
from avalanche_memplugins._words import OF_A_PLUGIN, names_ours
from avalanche_memplugins.memories import RandomMemory, Recall
from avalanche_memplugins.memories.memory import LearningMemory, WritableMemory
from avalanche_memplugins.plugins._around import Method, Once, around, remove_leftovers
from avalanche_memplugins.plugins._experience import collate_dicts_as_told, has_task_labels, parts_of
from avalanche_memplugins.plugins._fast import FastPath, fast_path_of
from avalanche_memplugins.plugins._latent import LatentTap, in_batch_order
from avalanche_memplugins.plugins._outputs import joined, main_output
from avalanche_memplugins.plugins._step import Step
from avalanche_memplugins.plugins._strategy import (
    check_batch,
    check_strategy,
    fault_of_more_rows,
    has_avalanches_criterion,
    has_mean_cross_entropy,
    listed_once,
    stream_loss,
    sums_rows,
    told_of_another_run,
)
from avalanche_memplugins.plugins._targets import Labels, Targets
from avalanche_memplugins.plugins._weight import Weighing
from avalanche_memplugins.plugins._writing import Epochs, Origin, When, Writing
from avalanche_memplugins.plugins.lean import LeanStepPlugin
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin
from avalanche_memplugins.rehearsal import Amount, Rehearsal

Fast: TypeAlias = Literal["auto", False]


class Replayed(NamedTuple):
    """What was replayed in one iteration.

    ``output`` ``(R, classes)`` without gradient, before the update; ``y`` ``(R,)``: the classes it was trained
    towards; ``t`` ``(R,)``; ``x`` ``(R, *shape)``: rows or codes as the model got them; ``label`` ``(R,)``: the
    memory's own classes.

    >>> import torch
    >>> from avalanche.core import SupervisedPlugin
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins import RandomMemory
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> class Look(SupervisedPlugin):
    ...     def after_forward(self, strategy, **kwargs):
    ...         self.seen = replay.last_replay
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> replay, look = MemoryReplayPlugin(RandomMemory(100), replay_size=8), Look()
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                  plugins=[replay, look], evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[:2])
    >>> look.seen.x.shape, look.seen.output.shape
    (torch.Size([8, 1, 8, 8]), torch.Size([8, 10]))
    """

    output: Tensor
    y: Tensor
    t: Tensor
    x: Tensor
    label: Tensor


def _of_rehearsal(name: str, doc: str) -> Any:
    return property(
        lambda self: getattr(self.rehearsal, name), lambda self, value: setattr(self.rehearsal, name, value), doc=doc
    )


@names_ours(OF_A_PLUGIN)
class MemoryReplayPlugin(SupervisedPlugin):  # type: ignore[misc]
    r"""Writes rows of the stream to a memory and trains on rows from it beside each batch.

    With stream rows :math:`B` and replayed rows :math:`R` of an iteration the loss is

    .. math::
        L = \frac{1}{|B| + |R|} \sum_{B \cup R} \ell \quad\text{(no weight)}, \qquad
        L = (1 - w) \frac{1}{|B|} \sum_B \ell + w \frac{1}{|R|} \sum_R \ell \quad (\text{weight } w),

    where :math:`\ell` is the strategy's own loss, ``strategy.criterion()``, overridden or not. Replay begins with the
    first iteration after which the memory holds anything, and rows are drawn before those of the current batch are
    written.

    Replayed rows are part of the batch inside ``strategy.forward()`` and ``strategy.criterion()`` only: no other plugin
    sees them, wherever in the list it stands. What other plugins add to the loss is added as it is, and metrics get
    the stream's outputs and the stream's loss. What was replayed is at :attr:`last_replay` and in
    :class:`~avalanche_memplugins.metrics.ReplayAccuracy`. After an exception nothing of this is left behind.

    :param memory: a memory that is written row by row, such as
        :class:`~avalanche_memplugins.memories.RandomMemory`; or one with ``consolidate``, which learns from the
        whole experience when it has ended, in batches of ``train_mb_size`` in an order of the plugin's own. If a memory
        that is written at the end has ``check_rows``, the plugin tests one row before training starts, so that wrong
        shapes fail early. If it has ``needs``, a set with ``"loss"`` or ``"logits"`` in it, its ``write`` is given the
        loss of each row ``(B,)`` or the model's outputs ``(B, classes)``, without gradient, as ``loss`` or ``logits``.
    :param replay_size: rows to replay each iteration: a number; None: as many as the stream's rows, or, where
        ``write_at="auto"`` waits for the end of the experience, ``train_mb_size``, beside a last batch of fewer, too;
        ``"growing"``: as many for each experience before; or a function of the number of the experience, from 0,
        and of the iteration in it, from 0, that gives the rows, >= 0.
    :param write_every: write one whole batch every so many iterations (RMA's m), >= 1. A batch that a loop trains on
        several times is written once.
    :param write_at: ``"iteration"``: rows as the model saw them, augmentation included; or
        ``"experience"``: after each experience offer its whole data set once, under its evaluation
        transforms; with ``at`` or logits after a pass through the model in eval mode. ``"auto"``: the second, so
        that rows of earlier experiences are replayed and not those that the stream brings anyway; the first for an
        experience that is a piece of an online stream (``OnlineCLExperience``) or one batch trained on once, and if
        ``write_every`` or ``write_epochs`` are given. A memory with ``consolidate`` knows the second only. What was
        decided is logged once at level INFO, and is part of the ``repr`` and of saved states.
    :param write_epochs: ``"first"``: write during the first epoch of an experience only, since later
        ones bring the same rows again; or ``"all"``.
    :param batch_policy: ``"append"`` the replayed rows; or let them ``"replace"`` the last rows of the
        batch, which keeps its size (with ``replay_size=None`` half of it).
    :param replay_weight: the weight :math:`w`, 0 < w < 1; None: all rows weigh the same; or ``"growing"``:
        :math:`w = 1 - 1/t` at the t-th experience (van de Ven & Tolias 2019), which replays nothing during the first.
        ``"auto"``: where an experience brings only classes not met before, and ``write_at="auto"`` waits for its end,
        :math:`w = m / (m + n)`, with n of its classes and m met before, which is :math:`1 - 1/t` for equal experiences.
        None where it does not, for other memories than :class:`~avalanche_memplugins.memories.RandomMemory`, other
        ``labels`` than ``"memory"``, models of several heads, beside other replay plugins, and where
        the strategy trains on more than the experience. Logged, shown and saved as for ``write_at``.
    :param labels: what replayed rows are trained towards. ``"memory"``: the classes that the memory gives.
        ``"old_model"``: the class that a copy of the model, taken at the end of the last experience, finds most
        likely among the classes seen until then. ``"soft"``: that copy's probabilities :math:`p` of these classes
        at temperature T = 2, with :math:`\ell = T^2 \, \mathrm{KL}(p \| \mathrm{softmax}(o / T))`. ``"logits"``:
        the outputs :math:`o'` that the memory stored, with the mean square of :math:`o - o'` over outputs. With the
        copy, rows of the running experience, which it does not know, keep the memory's class and cross-entropy; so
        do those whose experience the memory does not tell.
    :param augment: random augmentation of the replayed rows, applied to a batch ``(R, ...)`` on the device, for
        example from ``torchvision.transforms.v2``. Torch's random numbers in it come from a generator of the
        plugin's own. The old model sees what the model sees.
    :param at: name of a module of the model, as in ``model.named_modules()``: store and replay its
        output instead of the model's input (latent replay). Layers below get no gradient from replay.
        As they go on learning from the stream, stored outputs grow stale: freeze or slow them down.
        The module has to give one tensor with one row an item.
    :param origin: what the policies mean by "task": ``"experience"``: the running number of the
        experience; or ``"task_label"``.
    :param prefetch: fetch the next iteration's rows while this one computes, if the memory can; see
        :meth:`RandomMemory.prefetch <avalanche_memplugins.memories.RandomMemory.prefetch>`.
    :param fast: ``"auto"``: where that provably changes nothing, not a bit of the weights nor of torch's random state,
        serve the batches from tensors and run the training and evaluation loop without its idle parts, as
        :class:`~avalanche_memplugins.plugins.TensorLoaderPlugin` and
        :class:`~avalanche_memplugins.plugins.LeanStepPlugin` do where they are listed. That is so for data in memory
        (MNIST family, CIFAR, SVHN, tensors, up to 256 MB) with transforms that draw nothing; all else stays with
        Avalanche. What was done is logged once at level INFO. A tensor whose memory NumPy changes between experiences
        is not noticed. Several replay plugins share one; False, in any of them, leaves everything as it is.
    :param seed: of the generator for augmentation and for the order in which a learning memory is fed. None: drawn
        from torch's global generator.
    :raises ValueError: for arguments out of range or that exclude each other, naming the argument; in training, before
        a weight has changed, for batches, labels, outputs or data that cannot be replayed.
    :raises RuntimeError: in training, if the strategy's own loop leaves out ``forward()``, or ``criterion()`` where
        replayed rows have a loss of their own.
    :raises TypeError: for a memory that neither writes nor learns, a class instead of its instance, or an
        ``augment`` that cannot be called.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> replay = MemoryReplayPlugin(RandomMemory(100, seed=0))
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                  plugins=[replay], evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> len(replay.memory)
    100

    Sources: Zeta36, "Random memory adaptation", 2018; Chaudhry et al., "On tiny episodic memories in
    continual learning", 2019; for latent replay Pellegrini et al. 2020, section III; for ``"old_model"`` Shin et al.
    2017; for ``"soft"`` van de Ven & Tolias 2018 (DGR + distill); for ``"logits"`` Buzzega et al. 2020 (DER).
    """

    replay_size = _of_rehearsal("replay_size", "Rows to replay each iteration.")
    batch_policy = _of_rehearsal("batch_policy", "Whether replayed rows come behind the batch or in its place.")
    augment = _of_rehearsal("augment", "Random augmentation of the replayed rows.")
    prefetch = _of_rehearsal("prefetch", "Whether the next iteration's rows are fetched ahead.")
    _generator = _of_rehearsal("_generator", "Of augmentation, and of the order in which a learning memory is fed.")

    def __init__(
        self,
        memory: WritableMemory | LearningMemory,
        *,
        replay_size: Amount = None,
        write_every: int = 1,
        write_at: When | None = "auto",
        write_epochs: Epochs = "first",
        batch_policy: Literal["append", "replace"] = "append",
        replay_weight: float | Literal["auto", "growing"] | None = REPLAY_WEIGHT,
        labels: Labels = "memory",
        augment: Augment | None = None,
        at: str | None = None,
        origin: Origin = "experience",
        prefetch: bool = False,
        fast: Fast = "auto",
        seed: int | None = None,
    ) -> None:
        check.layer("at", at)
        if write_at is None:
            warnings.warn("write_at: None is now 'auto'", DeprecationWarning, stacklevel=3)
            write_at = "auto"
        check.choice("write_at", write_at, ("auto", "iteration", "experience"))
        super().__init__()
        self.rehearsal = Rehearsal(
            memory,
            replay_size=replay_size,
            batch_policy=batch_policy,
            write_every=write_every,
            augment=augment,
            prefetch=prefetch,
            seed=seed,
        )
        self.memory = memory
        self.at = at
        self._tap = None if at is None else LatentTap(at)
        self.writing = Writing(self.rehearsal, self._tap, when=write_at, epochs=write_epochs, origin=origin)
        self.targets = Targets(labels, at)
        self.weighing = self._weighing(replay_weight)
        self.fast_path = FastPath(_is_fast(fast))
        self._check_combination()
        # Avalanche sets it to false in each subclass, so it is said here.
        self.supports_distributed = True
        self.last_replay: Replayed | None = None
        self._step: Step | None = None
        # What stays the same for an experience: replay plugins beside this one, whether the loss has parts of its own,
        # a criterion that gives them in one pass, whether criterion() is overridden, whether the stream's loss is read,
        # whether batches have task labels, the fast path, and whether the memory can put rows behind the stream's.
        self._others: list[MemoryReplayPlugin] = []
        self._path: FastPath | None = None
        self._may_lie_behind = False
        self._apart = self._overridden = self._labelled = False
        self._loss_is_read = True
        self._in_one_pass: object = None
        self._fired = False  # whether before_forward did in this experience
        self._warned_unused = self._warned_small = False

    def _check_combination(self) -> None:
        if self.augment is not None and self.at is not None:
            raise ValueError(
                f"augment: works on inputs, but at={self.at!r} replays a module's outputs; augment the stream instead"
            )
        labels = self.targets.labels
        if labels == "logits" and not getattr(self.memory, "store_logits", False):
            raise ValueError("labels: 'logits' expected a memory that keeps them; make it with store_logits=True")
        if labels in ("old_model", "soft") and self.origin == "task_label":
            raise ValueError(
                f"origin: labels={labels!r} has to tell the running experience's rows from older ones, expected "
                "'experience', got 'task_label'"
            )

    def _check_others(self, others: list[MemoryReplayPlugin]) -> None:
        """See that the rows of several replay plugins can follow each other in one batch, with one loss."""
        for plugin in [self, *others] if others else []:
            if plugin.at is not None:
                what = f"replays at {plugin.at!r}"
            elif plugin.batch_policy == "replace":
                what = "replaces rows of the batch"
            elif plugin._has_own_loss:
                what = "has a loss of its own (replay_weight, labels or dark replay)"
            else:
                continue
            raise ValueError(
                "plugins: several replay plugins on one strategy are expected to append inputs and to use the "
                f"strategy's loss, but {type(plugin).__name__} {what}; use one plugin alone"
            )

    @property
    def write_every(self) -> int:
        """Iterations from one write to the next."""
        return self.rehearsal.write_every

    @property
    def write_at(self) -> When:
        """When rows are written; with ``"auto"``, from the first experience on, what was decided for the last one."""
        return self.writing.when

    @property
    def replay_weight(self) -> Weight:
        """Weight of replayed rows; with ``"auto"``, from the first experience on, what was decided for the last one."""
        return self.weighing.now

    @replay_weight.setter
    def replay_weight(self, value: Weight) -> None:
        self.weighing = self._weighing(value)

    def _weighing(self, weight: Weight) -> Weighing:
        kept = isinstance(self.memory, RandomMemory) and self.targets.labels == "memory"
        return Weighing(self.memory, weight, may_decide=kept and self.writing.asked == "auto")

    @property
    def write_epochs(self) -> Epochs:
        """In which epochs of an experience rows are written."""
        return self.writing.epochs

    @property
    def origin(self) -> Origin:
        """What the policies mean by "task"."""
        return self.writing.origin

    @property
    def fast(self) -> Fast:
        """``"auto"`` or False, see the parameter."""
        return "auto" if self.fast_path.on else False

    @fast.setter
    def fast(self, value: Fast) -> None:
        self.fast_path.on = _is_fast(value)

    @property
    def nbytes_fixed(self) -> int:
        """Bytes that the plugin itself needs, whatever the stream: those of the old model."""
        return self.targets.nbytes

    @property
    def _has_own_loss(self) -> bool:
        return self.weighing.asked not in (None, "auto") or self.targets.have_own_loss

    def __repr__(self) -> str:
        weight = "" if self.weighing.asked is None else f", replay_weight={self.weighing!r}"
        return f"{type(self).__name__}({self.memory!r}, write_at={self.writing!r}{weight})"

    # ---------------------------------------------------------------- callbacks

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Join the strategy: device, checks.

        :raises ValueError: if the plugin is listed more than once, or the strategy cannot train on replayed rows.
        """
        listed_once(self, strategy)
        check_strategy(strategy, self.targets.labels)
        told_of_another_run(self.memory, strategy)
        remove_leftovers(strategy, "_train_exp")
        others = [p for p in strategy.plugins if p is not self and _replays(p)]
        if others:
            names = ", ".join(sorted({type(p).__name__ for p in others}))
            warnings.warn(
                f"two memories replay on one strategy: {type(self).__name__} and {names}; "
                "their rows add up, which is seldom meant",
                stacklevel=2,
            )
        self._check_others([p for p in others if isinstance(p, MemoryReplayPlugin)])
        self.writing.join(strategy)
        if self._tap is not None:
            self._tap.find(strategy.model)
        self.targets.join(strategy.model, strategy.device)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Test what the memory will be given when the experience has ended, and take part in its training.

        :raises ValueError: what the memory has against it.
        """
        self._fired = False
        self._others = [p for p in strategy.plugins if isinstance(p, MemoryReplayPlugin) and p is not self]
        self._overridden = not has_avalanches_criterion(strategy)
        self._labelled = has_task_labels(strategy)
        # The stream's own loss is worked out only if somebody is there to read it.
        idle = (EvaluationPlugin, PeriodicEval, Clock, MemoryReplayPlugin, TensorLoaderPlugin, LeanStepPlugin)
        self._loss_is_read = bool(strategy.evaluator.metrics) or any(not isinstance(p, idle) for p in strategy.plugins)
        if self._tap is not None:
            self._tap.find(strategy.model)  # the model may have grown
        self.targets.check(strategy)
        collate_dicts_as_told(strategy)
        self.writing.begin(strategy)
        alone = not any(p is not self and _replays(p) for p in strategy.plugins)
        self.weighing.begin(strategy, waits=self.writing.waits, alone=alone)
        self._apart = self.weighing.now is not None or self.targets.have_own_loss
        one = not self.targets.have_own_loss and has_mean_cross_entropy(strategy)
        self._in_one_pass = strategy._criterion if one else None
        Once(strategy, "_train_exp", functools.partial(self._take_part, strategy))

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Begin an iteration. The forward pass that follows draws rows, writes the stream's and joins them."""
        self._fired = True
        self.last_replay = None
        self._step = Step(strategy.mbatch) if self._step is None else self._step.followed(strategy)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """See that the forward pass was the strategy's.

        :raises RuntimeError: if it was not, so that nothing could be replayed.
        """
        if self._step is not None and not self._step.begun:
            self._step = None
            raise RuntimeError(
                f"strategy: {type(self).__name__} joins replayed rows to the batch in strategy.forward(), but "
                f"{type(strategy).__name__} ran another forward pass; call self.forward() in its training loop"
            )

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """See that the loss was the strategy's.

        :raises RuntimeError: if it was not, so that replayed rows are not part of it.
        """
        if self._step is not None and not self._step.judged:
            self._step = None
            raise RuntimeError(
                f"strategy: {type(self).__name__} trains on replayed rows in strategy.criterion(), but "
                f"{type(strategy).__name__} works out its loss in another way; call self.criterion() in its training "
                "loop"
            )

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Leave the stream's loss for the metrics."""
        step = self._step
        if step is None:
            return
        step.done = True
        if step.last is not None and strategy.loss is step.last[0]:
            # An update that judges the rows again, and keeps that loss.
            if step.last[1] is not None:
                strategy.loss = step.last[1]
        elif step.loss is not None and step.stream_loss is not None:
            # What other plugins have added to the loss stays.
            strategy.loss = strategy.loss.detach() - step.loss + step.stream_loss

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Let go of the iteration."""
        self._step = None
        if not self._fired:
            self._tell_unused(strategy)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Copy the model, and offer the experience to the memory, if that is when it is written."""
        self.last_replay = self._step = None
        if not any(len(dataset) for _, dataset in parts_of(strategy)):
            return
        if not self._fired and (strategy.clock.train_exp_iterations or strategy.clock.train_exp_epochs):
            self._tell_unused(strategy)
        self.targets.learn(strategy)
        self.writing.end(strategy, self._generator)
        self.weighing.end()

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Take away what an exception in an evaluation has left."""
        self.fast_path.before_eval(strategy)

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Serve the evaluation of the experience, if this plugin has the strategy's fast path."""
        if fast_path_of(strategy) is self.fast_path:
            self.fast_path.before_eval_exp(strategy)

    def _tell_unused(self, strategy: Any) -> None:
        if not self._warned_unused:
            self._warned_unused = True
            written = "" if self.write_at == "experience" else "written or "
            warnings.warn(
                f"{type(self).__name__}: nothing is {written}replayed, because the training loop of "
                f"{type(strategy).__name__} never fires before_forward; it trains as it would without the plugin",
                stacklevel=3,
            )

    # ---------------------------------------------------------------- the forward pass of an iteration

    def _take_part(self, strategy: Any, train: Method, *args: Any, **kwargs: Any) -> None:
        """Train on an experience; nothing of the plugin is left on strategy or model afterwards, whatever happens."""
        self._path = fast_path_of(strategy)
        has_path = self._path is self.fast_path
        sample = type(self.memory).sample
        self._may_lie_behind = sample is RandomMemory.sample and self.at is None and self.batch_policy == "append"
        with (
            around(
                strategy,
                forward=functools.partial(self._forward, strategy),
                criterion=functools.partial(self._criterion, strategy),
            ),
            self.fast_path.training(strategy) if has_path else nullcontext(),
        ):
            try:
                train(*args, **kwargs)
            finally:
                if self._step is not None:
                    self._step.restore(strategy)
                self._step, self._path, self._others = None, None, []
                if self._tap is not None:
                    self._tap.lose()

    def _forward(self, strategy: Any, forward: Method, *args: Any, **kwargs: Any) -> Any:
        """``strategy.forward()`` on the stream's rows and replayed ones."""
        step, writing = self._step, self.writing
        if step is None or step.done or not strategy.is_training:
            return forward(*args, **kwargs)
        if step.begun:
            # An optimiser that looks at the loss more than once, such as L-BFGS or SAM.
            return self._forward_again(strategy, step, forward, *args, **kwargs)
        step.begun = True
        step.given = self._path.given(strategy.mbatch) if self._path is not None else None
        if isinstance(strategy.mbatch, Mapping):
            step.keys = writing.keys = self._checked_keys(strategy)
        elif step.given is None or step.given.first:  # all of one loader are alike
            check_batch(strategy.mbatch, labelled=self._labelled)
            if self.targets.teacher is not None and not isinstance(strategy.mbatch[0], Tensor):
                raise ValueError(
                    f"labels: {self.targets.labels!r} expected x to be one tensor, got a "
                    f"{type(strategy.mbatch[0]).__name__}"
                )
        step.stream = self._stream_of(strategy, step.keys)
        if writing.when == "experience" and not strategy.clock.train_exp_epochs:
            writing.test_batch(*step.stream[:2])
        recall = self._sample(strategy, step)
        # What is written now cannot be replayed before the next iteration.
        writes = not step.repeats and writing.is_due(strategy)
        passed_first = writes and writing.after_forward
        if writes and not passed_first:
            sound = step.given is not None and step.given.is_sound
            writing.write(step.stream[0], step.stream[1:], writing.number, sound=sound)
        if self.prefetch and not passed_first:
            self.rehearsal.fetch_ahead(step.wanted)
        step.begin(strategy, recall, replace=self.batch_policy == "replace")
        batch = strategy.mbatch
        try:
            output, latents = self._run(strategy, step, forward, *args, **kwargs)
            strategy.mbatch = batch
            output = step.part(strategy, output)
            if passed_first:
                rows = min(step.rows, rows_of_batch(step.stream))
                writing.write_passed(strategy, step.stream, rows, output, latents)
                if self.prefetch:
                    self.rehearsal.fetch_ahead(step.wanted)
        except BaseException:
            step.restore(strategy)
            raise
        if recall is not None and step.label is not None:
            replayed = main_output(step.output).detach()
            self.last_replay = Replayed(replayed, recall.y, recall.t, recall.x, step.label)
        return output

    def _forward_again(self, strategy: Any, step: Step, forward: Method, *args: Any, **kwargs: Any) -> Any:
        """Another forward pass of an iteration whose loss is known: the same rows; nothing is drawn or written."""
        if step.judging or not step.judged or step.recall is None:
            return forward(*args, **kwargs)
        step.begin_again(strategy)
        batch = strategy.mbatch
        try:
            output, _ = self._run(strategy, step, forward, *args, **kwargs)
        finally:
            strategy.mbatch = batch
        return step.part(strategy, output)

    def _checked_keys(self, strategy: Any) -> Keys:
        """Where a batch that is a dict has its targets and task labels.

        :raises ValueError: if what is asked of the plugin is not to be had with such batches.
        """
        keys = keys_of(strategy)
        if keys is None:
            raise RuntimeError("the keys of a batch that is a list")
        if type(strategy).mb_x is SupervisedProblem.mb_x and type(strategy).forward is SupervisedProblem.forward:
            raise ValueError(
                f"mbatch: expected a strategy with an mb_x or forward() of its own, which take x out of a dict, got a "
                f"dict with the keys {list(strategy.mbatch)}"
            )
        for name, asked in (("at", self.at is not None), ("labels", self.targets.teacher is not None)):
            if asked:
                raise ValueError(
                    f"{name}: {getattr(self, name, self.targets.labels)!r} expected batches [x, y] or [x, y, t], whose "
                    f"x the model takes by itself, got dicts with the keys {list(strategy.mbatch)}"
                )
        return keys

    def _stream_of(self, strategy: Any, keys: Keys | None) -> list[Any]:
        """The stream's batch, without what another replay plugin has put behind it."""
        batch: list[Any] = strategy.mbatch if keys is None else keys.columns(strategy.mbatch)
        if not self._others:
            return batch
        begun = [p._step.rows for p in self._others if p._step is not None and p._step.begun]
        held = rows_of_batch(batch)
        rows = min([held, *begun])
        if rows < held:
            batch = some_rows(batch, slice(rows))
        return batch

    def _run(self, strategy: Any, step: Step, forward: Method, *args: Any, **kwargs: Any) -> tuple[Any, Tensor | None]:
        """The forward pass on all rows; gives the output, and what passed the tap if there is one."""
        recall, tap, batch = step.recall, self._tap, strategy.mbatch
        if tap is None:
            if recall is not None:
                strategy.mbatch = step.joint_batch(batch, self.memory, recall.x)
            return forward(*args, **kwargs), None
        # A multi-task model splits its input rows by task label, so replayed codes, which have no input rows, need a
        # forward pass of their own.
        apart = bool(is_multi_task_module(strategy.model))
        joint = step.joint_batch(batch, self.memory)
        if not apart:
            strategy.mbatch = joint
        tap.open(strategy.model, None if recall is None or apart else recall.x)
        try:
            output = forward(*args, **kwargs)
        finally:
            latents = tap.close()
        if recall is not None and apart:
            output = joined(output, tap.forward_codes(strategy.model, recall.x, recall.t, batch[0]))
        return output, in_batch_order(latents, strategy.mbatch[-1])

    def _sample(self, strategy: Any, step: Step) -> Recall | None:
        """Rows as the model gets them, with the labels that they are trained towards."""
        step.wanted = self._rows_to_replay(strategy, rows_of_batch(step.stream))
        nothing_yet = self.weighing.now == "growing" and not strategy.clock.train_exp_counter
        recall = None if nothing_yet else self.rehearsal.draw(step.wanted, lambda _: self._draw(strategy, step))
        if recall is None:
            return None
        step.label = recall.y
        if self.targets.teacher is None:
            return recall
        number = self.writing.number if self.writing.when == "iteration" else None
        return self.targets.set(recall, number, step.stream[0])

    def _rows_to_replay(self, strategy: Any, rows: int) -> int:
        if rows == 1 and self.batch_policy == "replace" and not self._warned_small:
            self._warned_small = True
            warnings.warn(
                "batch_policy: 'replace' keeps one row of the stream at least, so batches of 1 row replay nothing",
                stacklevel=4,
            )
        if self.replay_size is None and self.batch_policy == "append" and self.writing.waits:
            return max(rows, int(strategy.train_mb_size))
        clock = strategy.clock
        return self.rehearsal.rows_to_replay(rows, int(clock.train_exp_counter), int(clock.train_exp_iterations))

    def _draw(self, strategy: Any, step: Step) -> Recall:
        """Rows from the memory, as many as the step wants; for plugins that read it in other ways."""
        if self._may_lie_behind and (room := step.take_room()) is not None:
            return cast("RandomMemory", self.memory).sample(step.wanted, into=room)
        return self.memory.sample(step.wanted)

    # ---------------------------------------------------------------- the loss of an iteration

    def _criterion(self, strategy: Any, criterion: Method, *args: Any, **kwargs: Any) -> Tensor:
        """``strategy.criterion()`` of stream and replayed rows."""
        step = self._step
        over = step is None or not step.begun or step.judging or step.done or not strategy.is_training
        # Further looks at the loss of the stream's rows are others' business.
        if over or step is None or (step.judged and not (step.again and step.is_given(strategy.mb_output))):
            loss: Tensor = criterion(*args, **kwargs)
            return loss
        step.judged = step.judging = True
        step.again = False
        try:
            step.check_outputs(strategy)
            if step.recall is None:
                loss = criterion(*args, **kwargs)
                return loss
            return self._judged(strategy, step, functools.partial(criterion, *args, **kwargs))
        finally:
            step.judging = False

    def _judged(self, strategy: Any, step: Step, criterion: Callable[[], Tensor]) -> Tensor:
        """The loss of all rows."""
        own: Tensor | None = None  # the stream's part, if it is known
        try:
            weight = self.weighing.in_training(strategy)
            one = weight is not None and strategy._criterion is self._in_one_pass
            whole = step.whole(strategy) if one else None
            if weight is not None and whole is not None:
                loss, losses = self.weighing.loss(strategy._criterion, *whole, step.rows, weight)
                own = losses.mean() if self._loss_is_read else None
            elif self._apart:
                stream = criterion()
                own = stream.detach()
                loss = self._joined_loss(
                    strategy, stream, step, lambda index: step.loss_of(strategy, criterion, replayed=index)
                )
            else:
                loss = step.loss_of(strategy, criterion)
        except (RuntimeError, ValueError, IndexError) as error:
            fault = fault_of_more_rows(error, self.at, step.rows, step.replayed)
            if fault is None:
                raise
            raise fault from error
        if rows_of_batch(step.stream) < step.rows:
            return loss  # the plugin whose rows stand before these knows the stream's loss
        if own is None and self._loss_is_read:
            own = stream_loss(strategy, loss, overridden=self._overridden)
        step.last = loss, own
        if step.loss is None:
            step.loss, step.stream_loss = loss.detach(), own
        return loss

    def _joined_loss(
        self, strategy: Any, stream: Tensor, step: Step, criterion: Callable[[slice | Tensor], Tensor]
    ) -> Tensor:
        """The loss of an iteration; for plugins that join its parts in other ways.

        :param stream: the loss of the stream's rows.
        :param step: the iteration, with the replayed rows and their outputs.
        :param criterion: the strategy's loss of the replayed rows with an index.
        """
        if step.recall is None:
            return stream
        replay_loss = self.targets.loss(main_output(step.output), step.recall, criterion, strategy)
        weight = self.weighing.in_training(strategy)
        if weight is None:
            if self.targets.labels == "soft" and sums_rows(strategy):
                return stream + replay_loss
            weight = step.replayed / (step.replayed + step.rows)
        return (1 - weight) * stream + weight * replay_loss

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on exactly: the memory, the count of iterations, generator, old model."""
        return {
            "memory": dict(self.memory.state_dict()),
            "iterations": self.rehearsal.iterations,
            "write_at": [self.writing.asked, self.writing.when],
            "replay_weight": self.weighing.state_dict(),
            "generator": self._generator.get_state(),
            "targets": self.targets.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of another kind of memory, or of a plugin with other ``labels``.
        """
        self.targets.load_state_dict(state["targets"])
        self.memory.load_state_dict(state["memory"])
        self.rehearsal.iterations = state["iterations"]
        self.weighing.load_state_dict(state.get("replay_weight"))
        self.writing.take(*state.get("write_at", ("iteration", "iteration")))
        self._generator.set_state(state["generator"].cpu())


def _is_fast(value: Fast) -> bool:
    if value is False or (isinstance(value, str) and value == "auto"):
        return value == "auto"
    raise ValueError(f"fast: expected 'auto' or False, got {check.show(value)}")


def _replays(plugin: object) -> bool:
    return isinstance(plugin, MemoryReplayPlugin | ReplayPlugin | GenerativeReplayPlugin)
