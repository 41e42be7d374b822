"""Data and loops of a strategy without what costs time and changes nothing, for a replay plugin to hold."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from avalanche.distributed.distributed_helper import DistributedHelper
from avalanche.training.templates.base_sgd import BaseSGDTemplate
from avalanche.training.templates.update_type.sgd_update import SGDUpdate
from torch import Tensor

from avalanche_memplugins.plugins._around import Method, Once, around, remove_leftovers
from avalanche_memplugins.plugins._materialise.cache import TensorCache
from avalanche_memplugins.plugins._materialise.loader import Given, TensorLoader, TorchOrder
from avalanche_memplugins.plugins._materialise.resolve import Unsupported
from avalanche_memplugins.plugins.lean import Dispatch, LeanStepPlugin, eval_epoch, train_epoch
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin, recipe_of

MAX_BYTES: Final = 2**28
_LOG = logging.getLogger(__name__)


class FastPath:
    """Serves batches from tensors and runs the lean loop, where weights and random state stay the same bit by bit.

    Nothing is listed among the strategy's plugins, and while the strategy is at rest nothing of this is left on it.
    Batches are drawn as torch draws them, from torch's global generator, so there is no state to save. Where it cannot
    be told that nothing changes, Avalanche's loader or loop stays: data or transforms that are not known to give the
    same every time, or that have to be read sample by sample; data beyond 256 MB; loaders, loops and collate functions
    of others; persistent workers; worker processes for several data sets at once; distributed training. A
    :class:`~avalanche_memplugins.plugins.TensorLoaderPlugin` or
    :class:`~avalanche_memplugins.plugins.LeanStepPlugin` that the user lists does its part alone.

    :param on: False leaves everything to Avalanche.
    """

    def __init__(self, on: bool) -> None:
        self.on = on
        self._cache = TensorCache(MAX_BYTES, vectorised=True, looks=True)
        self._dispatches: dict[str, Dispatch] = {}
        self._training_loader: TensorLoader | None = None
        self._told: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return FastPath, (self.on,)  # all else can be made again

    # ---------------------------------------------------------------- training

    @contextmanager
    def training(self, strategy: Any) -> Iterator[None]:
        """Around the training on an experience, after all plugins have had their say on the data loader."""
        self._cache.release()
        plain = type(strategy).training_epoch is SGDUpdate.training_epoch and "training_epoch" not in vars(strategy)
        lean = plain and not _lists(strategy, LeanStepPlugin)
        if lean:
            self._tell("training runs in the lean loop")
        loop = around(strategy, training_epoch=functools.partial(self._train, strategy)) if lean else nullcontext()
        with self._serving(strategy, "training"), loop:
            yield

    def _train(self, strategy: Any, epoch: Method, **kwargs: Any) -> None:
        train_epoch(strategy, self._dispatches, **kwargs)

    # ---------------------------------------------------------------- evaluation

    def before_eval(self, strategy: Any) -> None:
        """Take away what an exception in an evaluation has left."""
        remove_leftovers(strategy, "eval_epoch")

    def before_eval_exp(self, strategy: Any) -> None:
        """Take part in the evaluation on an experience, once all plugins have had their say on the data loader."""
        Once(strategy, "eval_epoch", functools.partial(self._evaluate, strategy))

    def _evaluate(self, strategy: Any, epoch: Method, **kwargs: Any) -> None:
        lean = getattr(epoch, "__func__", None) is BaseSGDTemplate.eval_epoch and not _lists(strategy, LeanStepPlugin)
        with self._serving(strategy, "evaluation"):
            if lean:
                eval_epoch(strategy, self._dispatches, **kwargs)
            else:
                epoch(**kwargs)

    # ---------------------------------------------------------------- data

    @contextmanager
    def _serving(self, strategy: Any, phase: str) -> Iterator[None]:
        found = strategy.dataloader
        served = strategy.dataloader = self.serve(strategy, found, phase)
        if phase == "training" and isinstance(served, TensorLoader):
            self._training_loader = served
        try:
            yield
        finally:
            if phase == "training":
                self._training_loader = None
            # Another plugin may have put its own there.
            if strategy.dataloader is served:
                strategy.dataloader = found
            self._cache.drop_changeable()

    def given(self, batch: list[Tensor]) -> Given | None:
        """What is known of the batch that is trained on, if it is one that was served."""
        given = None if self._training_loader is None else self._training_loader.given
        return given if given is not None and given.is_batch(batch) else None

    def serve(self, strategy: Any, loader: Any, phase: str) -> Any:
        """A loader of the same batches in the same order, drawn in the same way; or ``loader`` itself.

        :param strategy: on whose device they are served.
        :param loader: of Avalanche, or torch's over an Avalanche data set.
        :param phase: what it is for, as the note says.
        """
        if _lists(strategy, TensorLoaderPlugin):
            return loader
        try:
            served = self._replacement(loader, strategy.device, phase == "training")
        except Unsupported as reason:
            self._tell(f"the {phase} data stay with Avalanche's loader, because {reason}")
            return loader
        self._tell(f"the {phase} data are served from tensors")
        return served

    def _replacement(self, loader: Any, device: torch.device, pin: bool) -> Any:
        if DistributedHelper.is_distributed:
            raise Unsupported("training is distributed")
        recipe = recipe_of(loader)
        options: dict[str, Any] = getattr(loader, "loader_kwargs", None) or vars(loader)
        if options.get("num_workers", 0) and (options.get("persistent_workers") or len(recipe.datasets) > 1):
            raise Unsupported("its worker processes draw ahead")
        if not all(map(len, recipe.datasets)):
            raise Unsupported("there are none")
        return TensorLoader(
            recipe.groups(self._cache, device, pin=pin),
            TorchOrder(options.get("generator"), recipe.shuffle),
            drop_last=recipe.drop_last,
            main=recipe.main,
            oversample=recipe.oversample,
            room=pin,
        )

    def _tell(self, note: str) -> None:
        if note not in self._told:
            self._told.add(note)
            _LOG.info("MemoryReplayPlugin(fast='auto'): %s", note)


def fast_path_of(strategy: Any) -> FastPath | None:
    """The one that a strategy's replay plugins share, the first; None if one of them has it off, or there are none."""
    paths = [p.fast_path for p in strategy.plugins if isinstance(getattr(p, "fast_path", None), FastPath)]
    return paths[0] if paths and all(path.on for path in paths) else None


def _lists(strategy: Any, kind: type) -> bool:
    return any(isinstance(plugin, kind) for plugin in strategy.plugins)
