"""Joins a memory to a strategy: writes the stream to it, and rehearses from it."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import is_multi_task_module
from avalanche.training.plugins import EvaluationPlugin, GenerativeReplayPlugin, ReplayPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import Tensor

from avalanche_memplugins._pickling import PicklesGenerator
from avalanche_memplugins.memories import Recall
from avalanche_memplugins.memories import _checks as check
from avalanche_memplugins.memories.memory import LearningMemory, WritableMemory
from avalanche_memplugins.plugins._amount import Amount, check_amount, rows_to_replay
from avalanche_memplugins.plugins._augment import Augment, augmented, check_augment, isolated
from avalanche_memplugins.plugins._feed import Batches, HeldBatches, through_the_model
from avalanche_memplugins.plugins._latent import LatentTap, in_batch_order
from avalanche_memplugins.plugins._listed import listed_once
from avalanche_memplugins.plugins._normalise import tell_normalisation
from avalanche_memplugins.plugins._targets import Labels, Targets
from avalanche_memplugins.plugins.lean import LeanStepPlugin
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin


class Replayed(NamedTuple):
    """What was replayed in one iteration.

    ``output`` ``(R, classes)`` without gradient, before the update; ``y`` ``(R,)``: the classes it was trained
    towards; ``t`` ``(R,)``; ``x`` ``(R, *shape)``: rows or codes as the model got them; ``label`` ``(R,)``: the
    memory's own classes.
    """

    output: Tensor
    y: Tensor
    t: Tensor
    x: Tensor
    label: Tensor


class MemoryReplayPlugin(PicklesGenerator, SupervisedPlugin):  # type: ignore[misc]
    r"""Writes rows of the stream to a memory and trains on rows from it beside each batch.

    With stream rows :math:`B` and replayed rows :math:`R` of an iteration the loss is

    .. math::
        L = \frac{1}{|B| + |R|} \sum_{B \cup R} \ell \quad\text{(default)}, \qquad
        L = (1 - w) \frac{1}{|B|} \sum_B \ell + w \frac{1}{|R|} \sum_R \ell \quad (w \text{ given}).

    Replay begins with the first iteration after which the memory holds anything, and rows are drawn
    before those of the current batch are written. From ``before_backward`` on, the strategy's batch,
    outputs and (after the update) loss are those of the stream's rows again, so metrics and other
    plugins listed after this one never see replay; it is at :attr:`last_replay` and in
    :class:`~avalanche_memplugins.metrics.ReplayAccuracy`.

    :param memory: a memory that is written row by row, such as
        :class:`~avalanche_memplugins.memories.RandomMemory`; or one with ``consolidate``, which learns from the
        whole experience when it has ended, in batches of ``train_mb_size`` in an order of the plugin's own. One that
        is given inputs when the experience has ended, and has ``check_rows(x)``, is shown the first row before it is
        trained: rows that do not fit are then told at once.
    :param replay_size: rows to replay each iteration: a number; None: as many as the stream's rows;
        ``"growing"``: as many for each experience before; or a function of the number of the experience, from 0,
        and of the iteration in it, from 0, that gives the rows, >= 0.
    :param write_every: write one whole batch every so many iterations (RMA's m), >= 1.
    :param write_at: ``"iteration"``: rows as the model saw them, augmentation included; or
        ``"experience"``: after each experience offer its whole data set once, under its evaluation
        transforms; with ``at`` or logits after a pass through the model in eval mode. None: the first, or the
        second for a memory with ``consolidate``, which knows no other.
    :param write_epochs: ``"first"``: write during the first epoch of an experience only, since later
        ones bring the same rows again; or ``"all"``.
    :param batch_policy: ``"append"`` the replayed rows; or let them ``"replace"`` the last rows of the
        batch, which keeps its size (with ``replay_size=None`` half of it).
    :param replay_weight: the weight :math:`w`, 0 < w < 1; or ``"growing"``: :math:`w = 1 - 1/t` at the
        t-th experience (van de Ven & Tolias 2019), which replays nothing during the first.
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
    :param seed: of the generator for augmentation and for the order in which a learning memory is fed.
    :raises ValueError: for arguments out of range or that exclude each other, naming the argument.
    :raises TypeError: for a memory that neither writes nor learns, a class in the place of its instance, or an
        ``augment`` that cannot be called.

    Sources: Zeta36, "Random memory adaptation", 2018; Chaudhry et al., "On tiny episodic memories in
    continual learning", 2019; for latent replay Pellegrini et al. 2020, section III; for ``"old_model"`` Shin et al.
    2017; for ``"soft"`` van de Ven & Tolias 2018 (DGR + distill); for ``"logits"`` Buzzega et al. 2020 (DER).
    """

    def __init__(
        self,
        memory: WritableMemory | LearningMemory,
        *,
        replay_size: Amount = None,
        write_every: int = 1,
        write_at: Literal["iteration", "experience"] | None = None,
        write_epochs: Literal["first", "all"] = "first",
        batch_policy: Literal["append", "replace"] = "append",
        replay_weight: float | Literal["growing"] | None = None,
        labels: Labels = "memory",
        augment: Augment | None = None,
        at: str | None = None,
        origin: Literal["experience", "task_label"] = "experience",
        prefetch: bool = False,
        seed: int = 0,
    ) -> None:
        check.layer("at", at)
        check.flag("prefetch", prefetch)
        if write_at is not None:
            check.choice("write_at", write_at, ("iteration", "experience"))
        super().__init__()
        self.memory: Any = memory
        self._learns = callable(getattr(memory, "consolidate", None))
        check.made("memory", memory)
        if not hasattr(memory, "sample") or not (self._learns or hasattr(memory, "write")):
            raise TypeError(f"memory: wants a memory with sample and write or consolidate, got {type(memory).__name__}")
        self.replay_size = check_amount(replay_size)
        self.write_every = check.positive_integer("write_every", write_every)
        self.write_at = check.choice("write_at", write_at or self._usual_time, ("iteration", "experience"))
        self.write_epochs = check.choice("write_epochs", write_epochs, ("first", "all"))
        self.batch_policy = check.choice("batch_policy", batch_policy, ("append", "replace"))
        self.targets = Targets(labels, at)
        self.augment = check_augment(augment)
        self.origin = check.choice("origin", origin, ("experience", "task_label"))
        is_number = isinstance(replay_weight, float | int) and 0 < replay_weight < 1
        if replay_weight not in (None, "growing") and not is_number:
            raise ValueError(f"replay_weight: wants 0 < w < 1, 'growing' or None, got {replay_weight!r}")
        self.replay_weight = replay_weight
        self.at = at
        self.prefetch = prefetch
        self._stores_logits = bool(getattr(memory, "store_logits", False))
        # Avalanche sets it to false in each subclass, so it is said here.
        self.supports_distributed = True
        self._check_combination()
        self.last_replay: Replayed | None = None
        self._iterations = 0  # that were up for writing
        self._recall: Recall | None = None
        self._own_label: Tensor | None = None  # the memory's classes of the rows in _recall
        self._wanted = 0  # rows asked of the memory in this iteration
        self._writes = False  # in this iteration
        self._rows = 0  # of the stream in this iteration
        self._tap = None if at is None else LatentTap(at)
        self._generator = torch.Generator().manual_seed(check.seed(seed))
        self._loss_is_read = True
        self._replay_output: Tensor | None = None
        self._stream_loss: Tensor | None = None

    @property
    def _usual_time(self) -> Literal["iteration", "experience"]:
        return "experience" if self._learns else "iteration"

    def _check_combination(self) -> None:
        if self._learns and self.write_at == "iteration":
            raise ValueError(
                f"write_at: {type(self.memory).__name__} learns from whole experiences, wants 'experience' or None, "
                "got 'iteration'"
            )
        if self.augment is not None and self.at is not None:
            raise ValueError(
                f"augment: works on inputs, but at={self.at!r} replays a module's outputs; augment the stream instead"
            )
        labels = self.targets.labels
        if labels == "logits" and not self._stores_logits:
            raise ValueError("labels: 'logits' wants a memory that keeps them; make it with store_logits=True")
        if self._learns and self._stores_logits:
            raise ValueError("memory: one that learns from batches (x, y, t) is given no logits, got store_logits=True")
        if labels in ("old_model", "soft") and self.origin == "task_label":
            raise ValueError(
                f"origin: labels={labels!r} has to tell the running experience's rows from older ones, wants "
                "'experience', got 'task_label'"
            )

    @property
    def nbytes_fixed(self) -> int:
        """Bytes that the plugin itself needs, whatever the stream: those of the old model."""
        return self.targets.nbytes

    # ---------------------------------------------------------------- callbacks

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Join the strategy: device, checks.

        :raises ValueError: if the plugin is listed more than once.
        """
        listed_once(self, strategy)
        others = [p for p in strategy.plugins if p is not self and _replays(p)]
        if others:
            names = ", ".join(sorted({type(p).__name__ for p in others}))
            warnings.warn(
                f"two memories replay on one strategy: {type(self).__name__} and {names}; "
                "their rows add up, which is seldom meant",
                stacklevel=2,
            )
        self.memory.to(strategy.device)
        if self._tap is not None:
            self._tap.find(strategy.model)
        self.targets.join(strategy.model, strategy.device)
        # The stream's own loss is worked out only if somebody is there to read it.
        idle = (EvaluationPlugin, PeriodicEval, Clock, MemoryReplayPlugin, TensorLoaderPlugin, LeanStepPlugin)
        self._loss_is_read = bool(strategy.evaluator.metrics) or any(not isinstance(p, idle) for p in strategy.plugins)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Show the memory a row of what it will be given when the experience has ended.

        :raises ValueError: what the memory has against it.
        """
        if self._tap is None:
            dataset = strategy.experience.dataset
            tell_normalisation(self.memory, dataset.eval() if self.write_at == "experience" else dataset.train())
        if self.write_at != "experience" or self._tap is not None or not hasattr(self.memory, "check_rows"):
            return
        dataset = strategy.experience.dataset.eval()
        if len(dataset):
            # Transforms may draw random numbers: the run goes on as if nobody had looked.
            with isolated(strategy.device, 0):
                x = dataset[0][0]
            if isinstance(x, Tensor):
                self.memory.check_rows(x.unsqueeze(0).to(strategy.device))

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Draw the rows to replay, write the stream's, put the batch together."""
        batch = strategy.mbatch
        labelled = len(batch) == 3
        if len(batch) not in (2, 3) or (labelled and (batch[2].ndim != 1 or batch[2].is_floating_point())):
            raise ValueError(
                "mbatch: replay knows batches [x, y] and [x, y, t] with integer task labels t (B,), got "
                f"{[tuple(column.shape) for column in batch]} of {[column.dtype for column in batch]}"
            )
        self.last_replay = self._stream_loss = None
        recall = self._recall = self._prepared(strategy, self._sample(strategy, len(batch[0])))
        self._writes = self._is_up_for_writing(strategy)
        if self._writes and not self._writes_after_forward:
            self._write(strategy, batch[0], batch[1:], None)
        if not (self._writes and self._writes_after_forward):
            self._fetch_ahead()
        if recall is not None and self.batch_policy == "replace":
            for i, column in enumerate(batch):
                batch[i] = column[: len(column) - len(recall.y)]
        self._rows = len(batch[0])
        if self._tap is not None:
            follows = recall is not None and not is_multi_task_module(strategy.model)
            self._tap.open(strategy.model, recall.x if recall is not None and follows else None)
        elif recall is not None:
            batch[0] = torch.cat([batch[0], recall.x])
        if recall is not None and not self._runs_apart(strategy):
            batch[1] = torch.cat([batch[1], recall.y])
            if labelled:
                batch[2] = torch.cat([batch[2], recall.t])

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Write what only the forward pass made known; part the outputs if their losses differ."""
        recall, rows = self._recall, self._rows
        latents = self._tap.close() if self._tap is not None else []
        if self._writes and self._writes_after_forward:
            x = strategy.mbatch[0][:rows]
            if latents:
                x = in_batch_order(latents, strategy.mbatch[-1])[:rows].float()
            logits = strategy.mb_output[:rows].detach().float() if self._stores_logits else None
            self._write(strategy, x, [c[:rows] for c in strategy.mbatch[1:]], logits)
            self._fetch_ahead()
        if recall is None:
            return
        if self._tap is not None and self._runs_apart(strategy):
            codes = self._tap.forward_codes(strategy.model, recall.x, recall.t, strategy.mbatch[0])
            strategy.mb_output = torch.cat([strategy.mb_output, codes])
            for i, column in enumerate((recall.y, recall.t)[: len(strategy.mbatch) - 1], start=1):
                strategy.mbatch[i] = torch.cat([strategy.mbatch[i], column])
        if self._has_own_loss:
            self._part(strategy)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Put the loss together, and give the batch and its outputs back to the stream."""
        recall = self._recall
        if recall is None:
            return
        if not self._has_own_loss:
            self._part(strategy)
            return
        if self._replay_output is None:
            raise RuntimeError("a loss of replayed rows without outputs")
        self._stream_loss = strategy.loss.detach()
        strategy.loss = self._joined_loss(strategy, self._replay_output, recall)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Leave the stream's loss for the metrics."""
        if self._recall is None:
            return
        self._recall = self._replay_output = None
        if self._loss_is_read:
            if self._stream_loss is None:
                with torch.no_grad():
                    self._stream_loss = strategy.criterion().detach()
            strategy.loss = self._stream_loss

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Copy the model, and offer the experience to the memory, if that is when it is written."""
        self.last_replay = self._recall = self._replay_output = self._stream_loss = None
        self._own_label = None
        self.targets.learn(strategy)
        if self._learns:
            self.memory.consolidate(self._experience(strategy), origin=_number_of(strategy))
        elif self.write_at == "experience":
            batches: Any = Batches(strategy, strategy.eval_mb_size, None)
            if self._tap is not None or self._stores_logits:
                batches = through_the_model(strategy, batches, self._tap, logits=self._stores_logits)
            for x, y, t, *logits in batches:
                self._write(strategy, x, [y, t], logits[0] if logits else None)

    # ---------------------------------------------------------------- parts of the above

    @property
    def _writes_after_forward(self) -> bool:
        return self._tap is not None or self._stores_logits

    @property
    def _has_own_loss(self) -> bool:
        return self.replay_weight is not None or self.targets.have_own_loss

    def _runs_apart(self, strategy: Any) -> bool:
        # A multi-task model splits its input rows by task label, so replayed codes, which have no
        # input rows, need a forward pass of their own.
        return self._tap is not None and bool(is_multi_task_module(strategy.model))

    def _experience(self, strategy: Any) -> Batches | HeldBatches:
        if self._tap is None:
            return Batches(strategy, strategy.train_mb_size, self._generator)
        # The layers below do not change any more: once through them is enough for all passes.
        rows = list(
            through_the_model(strategy, Batches(strategy, strategy.eval_mb_size, None), self._tap, logits=False)
        )
        return HeldBatches(rows, strategy.train_mb_size, self._generator)

    def _sample(self, strategy: Any, rows: int) -> Recall | None:
        self._wanted = rows_to_replay(self.replay_size, strategy.clock, rows, replace=self.batch_policy == "replace")
        if not self._wanted or not len(self.memory):
            return None
        if self.replay_weight == "growing" and not strategy.clock.train_exp_counter:
            return None
        return self._draw(strategy, self._wanted)

    def _draw(self, strategy: Any, rows: int) -> Recall:
        """Rows from the memory; for plugins that read it in other ways."""
        recall: Recall = self.memory.sample(rows)
        return recall

    def _prepared(self, strategy: Any, recall: Recall | None) -> Recall | None:
        """The rows as the model gets them, with the classes that they are trained towards."""
        if recall is None:
            return None
        self._own_label = recall.y
        if self.augment is not None:
            recall = recall._replace(x=augmented(self.augment, recall.x, self._generator))
        if self.targets.teacher is None:
            return recall
        number = _number_of(strategy) if self.write_at == "iteration" else None
        return self.targets.set(recall, number, strategy.mbatch[0])

    def _fetch_ahead(self) -> None:
        if self.prefetch and self._wanted and hasattr(self.memory, "prefetch"):
            self.memory.prefetch(self._wanted)

    def _is_up_for_writing(self, strategy: Any) -> bool:
        if self.write_at != "iteration" or (self.write_epochs == "first" and strategy.clock.train_exp_epochs):
            return False
        self._iterations += 1
        return (self._iterations - 1) % self.write_every == 0

    def _write(self, strategy: Any, x: Tensor, labels: list[Tensor], logits: Tensor | None) -> None:
        y, t = labels[0], labels[1] if len(labels) > 1 else 0
        origin = t if self.origin == "task_label" else _number_of(strategy)
        if logits is None:
            self.memory.write(x, y, t, origin=origin)
        else:
            self.memory.write(x, y, t, origin=origin, logits=logits)

    def _part(self, strategy: Any) -> None:
        """Split batch and outputs: the stream's rows stay with the strategy, the others come here."""
        rows, output, batch = self._rows, strategy.mb_output, strategy.mbatch
        recall, label = self._recall, self._own_label
        if recall is None or label is None:
            return
        self._replay_output = output[rows:]
        self.last_replay = Replayed(self._replay_output.detach(), recall.y, recall.t, recall.x, label)
        strategy.mb_output = output[:rows]
        for i, column in enumerate(batch):
            batch[i] = column[:rows]

    def _joined_loss(self, strategy: Any, output: Tensor, recall: Recall) -> Tensor:
        """The stream's loss, ``strategy.loss``, and that of replayed rows; for plugins that join them in other ways."""
        replay_loss = self.targets.loss(output, recall, strategy._criterion)
        weight = self._weight(strategy, len(recall.y))
        joined: Tensor = (1 - weight) * strategy.loss + weight * replay_loss
        return joined

    def _weight(self, strategy: Any, replayed: int) -> float:
        if self.replay_weight == "growing":
            return 1 - 1 / (int(strategy.clock.train_exp_counter) + 1)
        return self.replay_weight or replayed / (replayed + self._rows)

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on exactly: the memory, the count of iterations, generator, old model."""
        return {
            "memory": dict(self.memory.state_dict()),
            "iterations": self._iterations,
            "generator": self._generator.get_state(),
            "targets": self.targets.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of another kind of memory, or of a plugin with other ``labels``.
        """
        self.targets.load_state_dict(state["targets"])
        self.memory.load_state_dict(state["memory"])
        self._iterations = state["iterations"]
        self._generator.set_state(state["generator"].cpu())


def _replays(plugin: Any) -> bool:
    return isinstance(plugin, MemoryReplayPlugin | ReplayPlugin | GenerativeReplayPlugin)


def _number_of(strategy: Any) -> int:
    """Number of the experience that the rows come from; of its origin for an online stream that tells it."""
    if getattr(strategy.experience, "access_task_boundaries", False):
        return int(strategy.experience.origin_experience.current_experience)
    return int(strategy.clock.train_exp_counter)
