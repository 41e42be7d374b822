"""Joins a memory to a strategy: writes the stream to it, and rehearses from it."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import torch
from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader
from avalanche.core import SupervisedPlugin
from avalanche.models import avalanche_forward
from avalanche.models.utils import is_multi_task_module
from avalanche.training.plugins import EvaluationPlugin, GenerativeReplayPlugin, ReplayPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import Tensor

from avalanche_memplugins.memories import RandomMemory, Recall
from avalanche_memplugins.memories import _checks as check
from avalanche_memplugins.plugins._latent import LatentTap
from avalanche_memplugins.plugins.lean import LeanStepPlugin
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin


class Replayed(NamedTuple):
    """What was replayed in one iteration: outputs ``(R, classes)`` without gradient, ``y`` and ``t`` ``(R,)``."""

    output: Tensor
    y: Tensor
    t: Tensor


class MemoryReplayPlugin(SupervisedPlugin):  # type: ignore[misc]
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

    :param memory: a :class:`~avalanche_memplugins.memories.RandomMemory`, or what writes and samples alike.
    :param replay_size: rows to replay each iteration; None: as many as the stream's rows.
    :param write_every: write one whole batch every so many iterations (RMA's m), >= 1.
    :param write_at: ``"iteration"``: rows as the model saw them, augmentation included; or
        ``"experience"``: after each experience offer its whole data set once, under its evaluation
        transforms; only rows that the memory keeps are loaded.
    :param write_epochs: ``"first"``: write during the first epoch of an experience only, since later
        ones bring the same rows again; or ``"all"``.
    :param batch_policy: ``"append"`` the replayed rows; or let them ``"replace"`` the last rows of the
        batch, which keeps its size (with ``replay_size=None`` half of it).
    :param replay_weight: the weight :math:`w`, 0 < w < 1; or ``"growing"``: :math:`w = 1 - 1/t` at the
        t-th experience (van de Ven & Tolias 2019), which replays nothing during the first.
    :param at: name of a module of the model, as in ``model.named_modules()``: store and replay its
        output instead of the model's input (latent replay). Layers below get no gradient from replay.
        As they go on learning from the stream, stored outputs grow stale: freeze or slow them down.
        The module has to give one tensor with one row an item.
    :param origin: what the policies mean by "task": ``"experience"``: the running number of the
        experience; or ``"task_label"``.
    :raises ValueError: for arguments out of range, naming the argument.

    Sources: Zeta36, "Random memory adaptation", 2018; Chaudhry et al., "On tiny episodic memories in
    continual learning", 2019; for latent replay Pellegrini et al. 2020, section III.
    """

    def __init__(
        self,
        memory: RandomMemory,
        *,
        replay_size: int | None = None,
        write_every: int = 1,
        write_at: Literal["iteration", "experience"] = "iteration",
        write_epochs: Literal["first", "all"] = "first",
        batch_policy: Literal["append", "replace"] = "append",
        replay_weight: float | Literal["growing"] | None = None,
        at: str | None = None,
        origin: Literal["experience", "task_label"] = "experience",
    ) -> None:
        super().__init__()
        self.memory = memory
        self.replay_size = None if replay_size is None else check.positive_integer("replay_size", replay_size)
        self.write_every = check.positive_integer("write_every", write_every)
        self.write_at = check.choice("write_at", write_at, ("iteration", "experience"))
        self.write_epochs = check.choice("write_epochs", write_epochs, ("first", "all"))
        self.batch_policy = check.choice("batch_policy", batch_policy, ("append", "replace"))
        self.origin = check.choice("origin", origin, ("experience", "task_label"))
        is_number = isinstance(replay_weight, float | int) and 0 < replay_weight < 1
        if replay_weight not in (None, "growing") and not is_number:
            raise ValueError(f"replay_weight: wants 0 < w < 1, 'growing' or None, got {replay_weight!r}")
        self.replay_weight = replay_weight
        self.at = at
        if at is not None and write_at == "experience":
            raise ValueError("write_at: outputs of a module are written as they pass, wants 'iteration' with at=...")
        if memory.store_logits and write_at == "experience":
            raise ValueError("write_at: outputs are written as they pass, wants 'iteration' with store_logits=True")
        self.last_replay: Replayed | None = None
        self._iterations = 0  # that were up for writing
        self._recall: Recall | None = None
        self._writes = False  # in this iteration
        self._rows = 0  # of the stream in this iteration
        self._tap = None if at is None else LatentTap(at)
        self._loss_is_read = True
        self._replay_output: Tensor | None = None
        self._stream_loss: Tensor | None = None

    # ---------------------------------------------------------------- callbacks

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Join the strategy: device, checks."""
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
        # The stream's own loss is worked out only if somebody is there to read it.
        idle = (EvaluationPlugin, PeriodicEval, Clock, MemoryReplayPlugin, TensorLoaderPlugin, LeanStepPlugin)
        self._loss_is_read = bool(strategy.evaluator.metrics) or any(not isinstance(p, idle) for p in strategy.plugins)

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
        recall = self._recall = self._sample(strategy, len(batch[0]))
        self._writes = self._is_up_for_writing(strategy)
        if self._writes and not self._writes_after_forward:
            self._write(strategy, batch[0], batch[1:], None)
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
        """Write what only the forward pass made known; part the outputs if they are weighted."""
        recall, rows = self._recall, self._rows
        latents = self._tap.close() if self._tap is not None else []
        if self._writes and self._writes_after_forward:
            x = strategy.mbatch[0][:rows]
            if latents:
                x = _in_batch_order(latents, strategy.mbatch)[:rows].float()
            logits = strategy.mb_output[:rows].detach().float() if self.memory.store_logits else None
            self._write(strategy, x, [c[:rows] for c in strategy.mbatch[1:]], logits)
        if recall is None:
            return
        if self._runs_apart(strategy):
            strategy.mb_output = torch.cat([strategy.mb_output, self._forward_codes(strategy, recall)])
            for i, column in enumerate((recall.y, recall.t)[: len(strategy.mbatch) - 1], start=1):
                strategy.mbatch[i] = torch.cat([strategy.mbatch[i], column])
        if self.replay_weight is not None:
            self._part(strategy)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Put the loss together, and give the batch and its outputs back to the stream."""
        recall = self._recall
        if recall is None:
            return
        if self.replay_weight is None:
            self._part(strategy)
            return
        weight = self._weight(strategy)
        self._stream_loss = strategy.loss.detach()
        replay_loss = strategy._criterion(self._replay_output, recall.y)
        strategy.loss = (1 - weight) * strategy.loss + weight * replay_loss

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
        """Offer the experience to the memory, if that is when it is written."""
        self.last_replay = self._recall = self._replay_output = self._stream_loss = None
        if self.write_at == "experience":
            data = strategy.experience.dataset.eval()
            # Every pass of a torch DataLoader draws a seed: from the global generator, unless it has its own.
            loader = SingleDatasetDataLoader(data, batch_size=strategy.eval_mb_size, generator=torch.Generator())
            for plugin in strategy.plugins:
                if isinstance(plugin, TensorLoaderPlugin):
                    loader = plugin.serve(loader, strategy.device)
            for batch in loader:
                x, *labels = (column.to(strategy.device) for column in batch)
                self._write(strategy, x, labels, None)

    # ---------------------------------------------------------------- parts of the above

    @property
    def _writes_after_forward(self) -> bool:
        return self._tap is not None or self.memory.store_logits

    def _runs_apart(self, strategy: Any) -> bool:
        # A multi-task model splits its input rows by task label, so replayed codes, which have no
        # input rows, need a forward pass of their own.
        return self._tap is not None and bool(is_multi_task_module(strategy.model))

    def _sample(self, strategy: Any, rows: int) -> Recall | None:
        if not len(self.memory) or (self.replay_weight == "growing" and not strategy.clock.train_exp_counter):
            return None
        size = self.replay_size
        if self.batch_policy == "replace":
            size = rows // 2 if size is None else min(size, rows - 1)
            if not size:
                return None
        return self.memory.sample(rows if size is None else size)

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
        recall = self._recall
        if recall is None:
            return
        self._replay_output = output[rows:]
        self.last_replay = Replayed(self._replay_output.detach(), recall.y, recall.t)
        strategy.mb_output = output[:rows]
        for i, column in enumerate(batch):
            batch[i] = column[:rows]

    def _weight(self, strategy: Any) -> float:
        if self.replay_weight == "growing":
            return 1 - 1 / (int(strategy.clock.train_exp_counter) + 1)
        return self.replay_weight or 0.0

    def _forward_codes(self, strategy: Any, recall: Recall) -> Tensor:
        """Outputs for stored codes under a multi-task model, task by task."""
        tap, x = self._tap, strategy.mbatch[0]
        parts: list[Tensor] = []
        places: list[Tensor] = []
        if tap is None:
            raise RuntimeError("stored codes without a module to replay them at")
        for task in torch.unique(recall.t).tolist():
            place = (recall.t == task).nonzero().flatten()
            # The layers below want input rows; what they make of them is put aside for the codes.
            filler = x[torch.arange(len(place), device=x.device) % len(x)]
            tap.open(strategy.model, recall.x[place], instead=True)
            try:
                parts.append(avalanche_forward(strategy.model, filler, recall.t[place]))
            finally:
                tap.close()
            places.append(place)
        return torch.cat(parts)[torch.cat(places).argsort()]

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on exactly: the memory and the count of iterations."""
        return {"memory": dict(self.memory.state_dict()), "iterations": self._iterations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of another kind of memory.
        """
        self.memory.load_state_dict(state["memory"])
        self._iterations = state["iterations"]


def _replays(plugin: Any) -> bool:
    return isinstance(plugin, MemoryReplayPlugin | ReplayPlugin | GenerativeReplayPlugin)


def _number_of(strategy: Any) -> int:
    """Number of the experience that the rows come from; of its origin for an online stream that tells it."""
    if getattr(strategy.experience, "access_task_boundaries", False):
        return int(strategy.experience.origin_experience.current_experience)
    return int(strategy.clock.train_exp_counter)


def _in_batch_order(latents: list[Tensor], batch: list[Tensor]) -> Tensor:
    if len(latents) == 1:
        return latents[0]
    # A multi-task model runs once a task, in ascending order of the task labels.
    return torch.cat(latents)[batch[-1].argsort(stable=True).argsort()]
