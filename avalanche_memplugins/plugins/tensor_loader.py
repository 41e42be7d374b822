"""Serves batches by indexing tensors instead of reading and transforming samples one by one."""

from __future__ import annotations

import re
import warnings
from typing import Any, NamedTuple

import torch
from avalanche.benchmarks.utils.data import AvalancheDataset
from avalanche.benchmarks.utils.data_loader import (
    GroupBalancedDataLoader,
    MultiDatasetDataLoader,
    ReplayDataLoader,
    SingleDatasetDataLoader,
    TaskBalancedDataLoader,
)
from avalanche.core import SupervisedPlugin
from avalanche.distributed.distributed_helper import DistributedHelper
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, default_collate

from avalanche_memplugins import _checks as check
from avalanche_memplugins._augment import Augment, check_augment

from ._materialise.cache import TensorCache
from ._materialise.loader import Group, OwnOrder, TensorLoader
from ._materialise.resolve import Unsupported

GROUPED = (
    TaskBalancedDataLoader,
    SingleDatasetDataLoader,
    GroupBalancedDataLoader,
    ReplayDataLoader,
)


class TensorLoaderPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg, misc]
    """Materialises deterministic data on the strategy's device once, and feeds batches by index.

    Avalanche reads every sample of every batch through a tree of subsets and transforms. Most experiments
    repeat the same result each time. This plugin runs the transforms once (in one vectorised pass for the
    MNIST family, CIFAR, SVHN and tensor data sets, sample by sample for others), keeps the tensors, and
    replaces ``strategy.dataloader`` in training and evaluation by one that indexes them. The model sees
    what it saw before: same batch sizes, labels, task labels and layout, same grouping where an experience
    mixes tasks, another random order (from its own generator).

    What is deterministic is decided by what the code is, not by looking at samples: known are the data sets of
    torchvision, Avalanche and this package that only look a row up (and classes derived from them that leave the
    reading alone), and the transforms of torchvision and Avalanche that draw nothing. Functions, lambdas, classes of
    one's own and whatever has ``set_epoch`` are not known; ``assume_deterministic=True`` vouches for them.

    Where that is not possible it says why, once, and leaves Avalanche's loader alone: data or transforms that are not
    known (use ``augment`` for random ones), data beyond ``max_bytes``, samples of different shapes, a custom
    ``collate_fn`` or sampler, a data loader of another plugin, distributed training.

    List it **after** plugins that build their own data loader, such as Avalanche's ``ReplayPlugin``, whose
    loader it then serves from tensors as well; before them, it is merely without effect. Its place among
    memory plugins of this package does not matter.

    Between experiences, tensors that torch changed in place, attributes of known transforms and data sets that were set
    anew, and lengths are noticed, and the rows read again. NumPy arrays, long lists and files that changed in place are
    not, nor anything within what ``assume_deterministic`` vouches for: call :meth:`clear` then.

    :param max_bytes: the most that materialised tensors may take on the device. The least recently used go
        first; those of the running experience stay.
    :param assume_deterministic: take the caller's word that all data sets and transforms that are not known give the
        same result every time.
    :param augment: random augmentation of the training batches, applied to ``x`` ``(B, ...)`` on the
        device, for example from ``torchvision.transforms.v2`` (which draws once a batch). Torch's random
        numbers in it come from this plugin's generator.
    :param train: serve training.
    :param evaluate: serve evaluation.
    :param seed: of the generators that shuffle and augment. None: drawn from torch's global generator.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> loader = TensorLoaderPlugin()
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                  plugins=[loader], train_mb_size=32, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> loader.nbytes > 0
    True
    """

    def __init__(
        self,
        *,
        max_bytes: int = 2**30,
        assume_deterministic: bool = False,
        augment: Augment | None = None,
        train: bool = True,
        evaluate: bool = True,
        seed: int | None = None,
    ) -> None:
        check.flags(assume_deterministic=assume_deterministic, train=train, evaluate=evaluate)
        super().__init__()
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
            raise ValueError(f"max_bytes: expected a positive number of bytes, got {max_bytes!r}")
        self.augment = check_augment(augment)
        self.train = train
        self.evaluate = evaluate
        self._cache = TensorCache(max_bytes, assume_deterministic)
        first = check.seed(seed)
        self._generators = {
            name: torch.Generator().manual_seed(number if number < 2**64 else number - 2**64)
            for number, name in enumerate(("train", "eval", "augment"), first)
        }
        self._warned: set[str] = set()

    @property
    def max_bytes(self) -> int:
        """The most that materialised tensors may take."""
        return self._cache.max_bytes

    @property
    def nbytes(self) -> int:
        """Bytes that materialised tensors take now, on whichever device."""
        return self._cache.nbytes

    def clear(self) -> None:
        """Drop all materialised tensors, and what is known about data sets."""
        self._cache.clear()

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Serve the experience's training data, as adapted by the plugins before."""
        self._cache.release()
        if self.train:
            self._serve(strategy, "train")

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Let the experience's tensors be evicted."""
        self._cache.release()

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Serve the experience's evaluation data."""
        if self.evaluate:
            self._serve(strategy, "eval")

    def state_dict(self) -> dict[str, Any]:
        """Return the generators' states: with them, a resumed run shuffles as the one that was stopped."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set what :meth:`state_dict` returned.

        :raises ValueError: if a generator's state is missing or none; all are then as before.
        """
        loaded = {}
        for name in self._generators:
            found = state.get(name)
            if not isinstance(found, torch.Tensor):
                raise ValueError(f"state[{name!r}]: expected a generator's state, got {type(found).__name__}")
            loaded[name] = torch.Generator()
            try:
                loaded[name].set_state(found.cpu())
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"state[{name!r}]: expected a generator's state, got another ({error})") from error
        self._generators = loaded

    def __getstate__(self) -> dict[str, Any]:
        # Tensors can be made again and generators do not pickle everywhere: a checkpoint holds neither.
        kept = {k: v for k, v in self.__dict__.items() if k not in ("_cache", "_generators")}
        return {
            **kept,
            "max_bytes": self._cache.max_bytes,
            "assume_deterministic": self._cache.assume_deterministic,
            "generators": self.state_dict(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self._cache = TensorCache(state.pop("max_bytes"), state.pop("assume_deterministic"))
        saved = state.pop("generators")
        self._generators = {name: torch.Generator() for name in saved}
        self.__dict__.update(state)
        self.load_state_dict(saved)

    def serve(self, loader: Any, device: torch.device, *, generator: torch.Generator | None = None) -> Any:
        """Serve another data loader's batches from tensors, without augmentation: for plugins that read data.

        :param loader: one of Avalanche's loaders, or torch's over an Avalanche dataset.
        :param device: where the batches must lie.
        :param generator: draws the order, if the loader shuffles; None: the plugin's own.
        :returns: a loader of the same batches, or ``loader`` itself where that is not possible.
        """
        try:
            return self._replacement(loader, device, "eval", generator)
        except Unsupported as reason:
            self._warn("eval", str(reason))
            return loader

    def _serve(self, strategy: Any, phase: str) -> None:
        try:
            strategy.dataloader = self._replacement(strategy.dataloader, strategy.device, phase)
        except Unsupported as reason:
            self._warn(phase, str(reason))

    def _replacement(self, old: Any, device: torch.device, phase: str, generator: torch.Generator | None = None) -> Any:
        if DistributedHelper.is_distributed:
            raise Unsupported("training is distributed")
        recipe = recipe_of(old)
        if not all(map(len, recipe.datasets)):
            return old
        training = phase == "train"
        return TensorLoader(
            recipe.groups(self._cache, device, pin=training),
            OwnOrder((generator or self._generators[phase]) if recipe.shuffle else None),
            drop_last=recipe.drop_last,
            main=recipe.main,
            oversample=recipe.oversample,
            augment=self.augment if training else None,
            augment_generator=self._generators["augment"],
        )

    def _warn(self, phase: str, reason: str) -> None:
        key = re.sub(r"[\d,]+", "", reason)
        if key in self._warned:
            return
        self._warned.add(key)
        word = "training" if phase == "train" else "evaluation"
        missing = " `augment` is not applied." if self.augment is not None and phase == "train" else ""
        warnings.warn(
            f"TensorLoaderPlugin leaves the {word} data to Avalanche's loader, because {reason}.{missing} {_ADVICE}",
            stacklevel=4,
        )


_ADVICE = (
    "To serve it from tensors: move random augmentation to TensorLoaderPlugin(augment=...), pass "
    "assume_deterministic=True if every sample is the same whenever it is read, or raise max_bytes."
)


class Recipe(NamedTuple):
    """What a data loader's batches are made of."""

    datasets: list[AvalancheDataset]
    batch_sizes: list[int]
    main: int  # the data set whose end is the epoch's end
    oversample: bool
    shuffle: bool
    drop_last: bool

    def groups(self, cache: TensorCache, device: torch.device, *, pin: bool) -> list[Group]:
        """The data sets as tensors.

        :raises Unsupported: if one cannot be had so.
        """
        return [
            Group(cache.fetch(dataset, device, pin=pin), size)
            for dataset, size in zip(self.datasets, self.batch_sizes, strict=True)
        ]


def recipe_of(loader: Any) -> Recipe:
    """Read from a loader what it does.

    :raises Unsupported: if it is not one of torch's or Avalanche's, or does more than is known.
    """
    if type(loader) is DataLoader:
        return _plain_recipe(loader)
    if type(loader) not in GROUPED:
        raise Unsupported(
            f"strategy.dataloader is a {type(loader).__name__}, which another plugin or the strategy made"
        )
    return _grouped_recipe(loader)


def _plain_recipe(loader: Any) -> Recipe:
    sampler = loader.sampler
    if type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None:
        shuffle = True
    elif type(sampler) is SequentialSampler:
        shuffle = False
    else:
        raise Unsupported(f"the data loader has a sampler of its own ({type(sampler).__name__})")
    if loader.batch_size is None or not isinstance(loader.dataset, AvalancheDataset):
        raise Unsupported("the data loader is not one that Avalanche built")
    _want_default_collate(loader.dataset, loader.collate_fn)
    return Recipe([loader.dataset], [loader.batch_size], 0, False, shuffle, loader.drop_last)


def _grouped_recipe(loader: MultiDatasetDataLoader) -> Recipe:
    options = loader.loader_kwargs
    if options.get("sampler") is not None or options.get("batch_sampler") is not None:
        raise Unsupported("the data loader has a sampler of its own")
    if loader.never_ending:
        raise Unsupported("the data loader never ends")
    for dataset in loader.datasets:
        _want_default_collate(dataset, options.get("collate_fn"))
    return Recipe(
        loader.datasets,
        loader.batch_sizes,
        loader.termination_dataset,
        loader.oversample_small_datasets,
        bool(options.get("shuffle", False)),
        bool(options.get("drop_last", False)),
    )


def _want_default_collate(dataset: Any, collate: Any) -> None:
    if collate is None:
        collate = dataset.collate_fn
    if collate is not default_collate:
        raise Unsupported(f"it has a collate_fn of its own ({getattr(collate, '__name__', collate)})")
