"""Deep generative replay: a variational auto-encoder that rehearses itself."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_memplugins.codecs._normalisation import Normalisation
from avalanche_memplugins.memories import _checks as check
from avalanche_memplugins.memories._generative import TABLE_BYTES, GenerativeMemory
from avalanche_memplugins.memories.gaussian_memory import GaussianMemory
from avalanche_memplugins.memories.recall import Recall
from avalanche_memplugins.networks.conditional_vae import ConditionalVAE

Batches = Iterable[tuple[Tensor, Tensor, Tensor | int]]
_ROWS_FITTED = 8_192


class VAEMemory(GenerativeMemory):
    r"""A generator :math:`p(x|z)`, trained after each experience on its rows and on what it generated before.

    At the t-th experience a copy of the generator takes ``steps`` steps of its own Adam on

    .. math:: L = (1 - w) \, \mathrm{NELBO}(x) + w \, \mathrm{NELBO}(\tilde x), \qquad w = 1 - \tfrac1t,

    x from the experience, :math:`\tilde x` from the generator as it was; then it takes its place. If anything
    goes wrong, the generator stays as it was.

    **Codes.** The stream's codes never fill the prior :math:`\mathcal N(0, I)`, and what is decoded from the gaps
    looks like no class. So after each training every class's codes are fitted by a Gaussian, as in
    :class:`~avalanche_memplugins.memories.GaussianMemory`, and codes are drawn from those: rows carry the class
    that was asked for, and come as many of each. With ``prior="standard"`` :math:`z \sim \mathcal N(0, I)`, as in
    deep generative replay. A network with ``classes`` is then asked for a class; without, rows carry the class
    whose mean code is nearest to z, a rough guess: label them by the classifier of the experience before,
    ``MemoryReplayPlugin(memory, labels="old_model")``. Task label and origin are the latest of the class.

    :param network: a :class:`~avalanche_memplugins.networks.ConditionalVAE`; or any module with
        ``code_size``, ``posterior(x)``, ``decode(z)`` and ``bound(x, generator=...)``, which gives a pair of ``(B,)``
        (reconstruction, KL), such as :class:`~avalanche_memplugins.networks.VAE`. It is taken over, not copied.
    :param prior: where codes are drawn: ``"fitted"`` or ``"standard"``, see above.
    :param steps: of Adam in each consolidation.
    :param batch_size: rows of the experience in a step.
    :param lr: of Adam.
    :param replay: weight w of what the generator replays to itself: ``"growing"`` as above, a number
        0 <= w < 1, or None for no self-replay, which forgets.
    :param replay_size: generated rows in a step; None: ``batch_size``.
    :param cache_bytes: rows of an experience that take no more are gathered once, kept for the time of the
        training, and shuffled for every pass; more are read anew each pass, in the order they come.
    :param mean: of the user's ``Normalize``, undone before a Bernoulli network and redone after it.
    :param std: of the same.
    :param codec: a :class:`~avalanche_memplugins.codecs.LatentCodec`, whose codes are modelled; the network
        then wants ``likelihood="gaussian"`` and the shape ``(codec.code_size,)``.
    :param seed: of the memory's generator, from which all draws come.
    :raises ValueError: for arguments out of range, naming the argument.
    :raises TypeError: for a network or codec without what is wanted of it.

    Sources: Shin et al., "Continual learning with deep generative replay", 2017; settings of van de Ven &
    Tolias, "Three scenarios for continual learning", 2019; fitted codes: Ghosh et al., "From variational to
    deterministic autoencoders", 2020, section 4.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        prior: Literal["fitted", "standard"] = "fitted",
        steps: int = 2_000,
        batch_size: int = 128,
        lr: float = 1e-3,
        replay: float | Literal["growing"] | None = "growing",
        replay_size: int | None = None,
        cache_bytes: int = 1 << 28,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        codec: Any | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(codec=codec, seed=seed)
        missing = [n for n in ("posterior", "decode", "bound", "code_size") if not hasattr(network, n)]
        if not isinstance(network, nn.Module) or missing:
            raise TypeError(f"network: wants a VAE, got {type(network).__name__} without {', '.join(missing)}")
        self.likelihood = getattr(network, "likelihood", "bernoulli")
        if codec is not None and self.likelihood == "bernoulli":
            raise ValueError("network: codes are not pixels, a codec wants a network with likelihood='gaussian'")
        if replay not in (None, "growing") and not (isinstance(replay, float | int) and 0 <= replay < 1):
            raise ValueError(f"replay: wants a weight 0 <= w < 1, 'growing' or None, got {replay!r}")
        if not lr > 0:
            raise ValueError(f"lr: wants a number > 0, got {lr!r}")
        self.prior = check.choice("prior", prior, ("fitted", "standard"))
        self.network = network.eval().requires_grad_(False)
        self.steps = check.positive_integer("steps", steps)
        self.batch_size = check.positive_integer("batch_size", batch_size)
        self.lr, self.replay = lr, replay
        self.replay_size = batch_size if replay_size is None else check.positive_integer("replay_size", replay_size)
        self.cache_bytes = cache_bytes
        self.normalisation = Normalisation(mean, std)
        self.consolidations = 0
        self.codes = GaussianMemory(rank=None, seed=seed)  # of the classes' codes

    @classmethod
    def from_budget(
        cls,
        nbytes: int,
        *,
        shape: tuple[int, ...] | None = None,
        classes: int,
        conditional: bool = True,
        code_size: int = 100,
        codec: Any | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> VAEMemory:
        """The memory with the widest two hidden layers whose :attr:`nbytes` stay within a budget.

        :param nbytes: the budget in bytes: weights and the table of classes.
        :param shape: of one row of x; wanted without a codec.
        :param classes: how many are expected.
        :param conditional: make the network with classes.
        :param code_size: of z.
        :param codec: as for :class:`VAEMemory`.
        :param seed: of weights and memory.
        :param kwargs: the other arguments of :class:`VAEMemory`.
        :raises ValueError: if not even layers of one unit fit.
        """
        if codec is not None:
            shape = (int(codec.code_size),)
        if shape is None:
            raise ValueError("shape: a budget without a codec wants the shape of a row, got None")
        gaussian = codec is not None or len(shape) == 1
        options: dict[str, Any] = {
            "code_size": code_size,
            "classes": check.positive_integer("classes", classes) if conditional else None,
            "likelihood": "gaussian" if gaussian else "bernoulli",
        }
        beside = classes * (2 * TABLE_BYTES + 4 * (code_size + code_size * (code_size + 1) // 2))

        def takes(width: int) -> int:
            with torch.device("meta"):
                network = ConditionalVAE(shape, hidden=(width, width), **options)
            return beside + sum(p.nbytes for p in network.parameters())

        low, high = 0, nbytes
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if takes(middle) <= nbytes else (low, middle - 1)
        if low == 0:
            raise ValueError(f"nbytes: layers of one unit take {takes(1)} bytes, got a budget of {nbytes}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ConditionalVAE(shape, hidden=(low, low), **options)
        return cls(network, codec=codec, seed=seed, **kwargs)

    # ---------------------------------------------------------------- what it holds

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream: the generator's weights, the Gaussians of its codes, the table of classes."""
        return super().nbytes + TABLE_BYTES * len(self.codes._table)

    @property
    def conditional(self) -> bool:
        """Whether the network is told the class."""
        return getattr(self.network, "classes", None) is not None

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return next(self.network.parameters()).device

    def __repr__(self) -> str:
        kind = type(self.network).__name__
        return (
            f"{type(self).__name__}({kind}, conditional={self.conditional}, steps={self.steps}, "
            f"replay={self.replay!r}, codec={self.codec!r})"
        )

    # ---------------------------------------------------------------- learn

    def consolidate(self, batches: Batches, *, origin: int) -> None:
        """Train the generator on an experience and on its own replay.

        Neither takes from nor sets a global random generator; autocast is off meanwhile. Holds a second copy
        of the weights, Adam's two moments of them, and what ``cache_bytes`` allows, until it returns.

        :param batches: rows ``(B, *shape)``, classes ``(B,)`` and task labels of the experience; every
            iteration over it is a fresh pass.
        :param origin: number of the experience.
        :raises ValueError: if rows or labels do not fit, there are none, there are more classes than the
            network has, or the training diverged; the memory is then as before.
        """
        before = self._table, self.shape, self.dtype
        generators = [(g, g.get_state()) for g in (self._generator, self.codes._generator)]
        device, old, len_before = self.device, len(self._table), len(self)
        try:
            with torch.autocast(device.type, enabled=False):
                cache = self._survey(batches, origin)
                successor = copy.deepcopy(self.network).requires_grad_(True)
                seed = int(torch.randint(2**62, (), generator=self._generator))
                noise = torch.Generator(device).manual_seed(seed)
                rows = self._rows(batches, cache)
                with torch.enable_grad():
                    self._train(successor, rows, old, noise)
                if not all(bool(p.isfinite().all()) for p in successor.parameters()):
                    raise ValueError(f"lr: training the generator diverged, got {self.lr}; wants a smaller one")
                codes = self._fit_codes(successor, self._rows(batches, cache), old, noise, len(self) - len_before)
        except BaseException:
            self._table, self.shape, self.dtype = before
            for generator, state in generators:
                generator.set_state(state)
            raise
        self.network.load_state_dict(successor.state_dict())
        self.codes = codes
        self.consolidations += 1

    def _train(self, network: nn.Module, rows: Iterator[tuple[Tensor, Tensor]], old: int, noise: Any) -> None:
        weight = 1 - 1 / (self.consolidations + 1) if self.replay == "growing" else float(self.replay or 0)
        replays = bool(old) and weight > 0
        optimizer = torch.optim.Adam(network.parameters(), self.lr, fused=True)
        network.train()
        for _ in range(self.steps):
            x, index = next(rows)
            scale = x.new_full((len(x),), 1 / len(x))
            if replays:
                with torch.no_grad():
                    again, which = self._generate(self.replay_size, old)
                share = x.new_full((len(again),), weight / len(again))
                x, scale = torch.cat([x, again]), torch.cat([(1 - weight) * scale, share])
                index = torch.cat([index, which.to(index.device)])
            loss = (self._nelbo(network, x, index, noise) * scale).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()

    def _nelbo(self, network: nn.Module, codes: Tensor, index: Tensor, noise: torch.Generator | None) -> Tensor:
        arguments = (codes, index) if self.conditional else (codes,)
        reconstruction, kl = network.bound(*arguments, generator=noise)  # type: ignore[operator]
        return reconstruction + kl  # type: ignore[no-any-return]

    # ---------------------------------------------------------------- rows of an experience

    def _survey(self, batches: Batches, origin: int) -> tuple[Tensor, Tensor] | None:
        """Look at all rows and enter their classes; gives the rows if they fit into the cache."""
        kept: list[tuple[Tensor, Tensor]] | None = []
        held, seen = 0, 0
        for x, y, t in batches:
            if not self._check(x, y, t, origin):
                continue
            codes, index = self._prepared(x, y, t, origin)
            seen += len(codes)
            held += codes.nbytes
            if held > self.cache_bytes:
                kept = None
            if kept is not None:
                kept.append((codes, index))
        if not seen:
            raise ValueError("batches: wants the rows of an experience, got none")
        return None if kept is None else (torch.cat([x for x, _ in kept]), torch.cat([i for _, i in kept]))

    def _prepared(self, x: Tensor, y: Tensor, t: Tensor | int, origin: int) -> tuple[Tensor, Tensor]:
        x = x.to(self.device)
        self._check_rows(x)
        codes = self._to_codes(x)
        present, places, _ = self._enrol(y, t, origin)
        limit = getattr(self.network, "classes", None)
        if limit is not None and len(self._table) > limit:
            raise ValueError(f"y: the network has {limit} classes, got {len(self._table)} of them by now")
        self.shape, self.dtype = x.shape[1:], x.dtype
        return codes, present[places].to(self.device)

    def _rows(self, batches: Batches, cache: tuple[Tensor, Tensor] | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of ``batch_size`` rows (an experience of fewer: all of them), pass after pass."""
        while True:
            if cache is not None:
                order = torch.randperm(len(cache[0]), generator=self._generator).to(self.device)
                whole = max(1, len(order) // self.batch_size) * self.batch_size
                for part in order[:whole].split(self.batch_size):  # type: ignore[no-untyped-call]
                    yield cache[0][part], cache[1][part]
                continue
            known = {label: index for index, label in enumerate(self.classes)}
            rest: tuple[Tensor, Tensor] | None = None
            for x, y, _ in batches:
                index = torch.tensor([known[label] for label in y.tolist()], device=self.device)
                codes = self._to_codes(x.to(self.device))
                if rest is not None:
                    codes, index = torch.cat([rest[0], codes]), torch.cat([rest[1], index])
                whole = len(codes) // self.batch_size * self.batch_size
                for first in range(0, whole, self.batch_size):
                    part = slice(first, first + self.batch_size)
                    yield codes[part], index[part]
                rest = codes[whole:], index[whole:]
            if rest is not None and len(rest[0]):
                yield rest

    def _check_rows(self, x: Tensor) -> None:
        wanted = _row_shape(self.network)
        if self.codec is None and wanted is not None and tuple(x.shape[1:]) != wanted:
            raise ValueError(f"x: the network wants rows of shape {wanted}, got {tuple(x.shape[1:])}")
        if self.codec is None and self.likelihood == "bernoulli":
            self.normalisation.check(x, type(self).__name__)

    def _to_codes(self, x: Tensor) -> Tensor:
        if self.codec is not None:
            return super()._to_codes(x)
        return self.normalisation.undo(x).clamp_(0, 1) if self.likelihood == "bernoulli" else x.float()

    def _from_codes(self, codes: Tensor) -> Tensor:
        if self.codec is None and self.likelihood == "bernoulli":
            return self.normalisation.redo(codes, self.dtype)
        return super()._from_codes(codes)

    # ---------------------------------------------------------------- generate

    @torch.no_grad()
    def sample(self, n: int) -> Recall:
        """``n`` generated rows, as the stream's transforms make them, with their labels.

        :param n: rows wanted, >= 1.
        :raises ValueError: if ``n`` is not positive or nothing has been consolidated.
        """
        with torch.autocast(self.device.type, enabled=False):
            codes, index = self._generate(check.positive_integer("n", n), len(self._table))
            return self._recall(self._from_codes(codes), index)

    def _generate(self, n: int, classes: int) -> tuple[Tensor, Tensor]:
        """Rows of the network and indices ``(n,)`` on the CPU of their classes, the first ``classes``."""
        if self.prior == "fitted":
            drawn = self.codes.sample(n)  # its labels are our indices
            z, index = drawn.x, drawn.y.cpu()
        else:
            index = self._draw_classes(n, by_count=False, of=classes)
            z = self._noise((n, int(self.network.code_size)))  # type: ignore[arg-type]
            if not self.conditional:
                index = torch.cdist(z, self.codes.mean).argmin(1).cpu()
                index = torch.tensor(self.codes.classes)[index]
        codes = self.network.decode(z, index.to(self.device)) if self.conditional else self.network.decode(z)  # type: ignore[operator]
        if self.likelihood == "gaussian":
            deviation = (0.5 * self.network.log_variance).exp()  # type: ignore[operator, union-attr]
            codes = codes + deviation * self._noise(codes.shape)
        return codes, index

    def _noise(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self._generator).to(self.device)

    @torch.no_grad()
    def _fit_codes(
        self, network: nn.Module, rows: Iterator[tuple[Tensor, Tensor]], old: int, noise: torch.Generator, held: int
    ) -> GaussianMemory:
        """Gaussians of the codes that the new network gives the experience's classes and the generated ones."""
        fitted = GaussianMemory(rank=None)
        held = min(held, _ROWS_FITTED)
        parts = [next(rows) for _ in range(-(-held // self.batch_size))]
        if old:
            # A class without a generated row here would never be generated again.
            again, which = self._generate(max(held, 32 * old), old)
            parts.append((again, which.to(self.device)))
        x, index = (torch.cat([part[i] for part in parts]) for i in range(2))
        for first in range(0, len(x), 1_024):
            which = index[first : first + 1_024]
            arguments = (x[first : first + 1_024], *([which] if self.conditional else []))
            mean, log_variance = network.posterior(*arguments)  # type: ignore[operator]
            eps = torch.randn(mean.shape, generator=noise, device=mean.device)
            fitted.write(mean + (0.5 * log_variance).exp() * eps, which)
        fitted._generator = self.codes._generator
        return fitted

    @torch.no_grad()
    def bound(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Negative evidence lower bound of rows, in nats ``(B,)``: how well the generator knows them.

        Noise is the same at every call. For a Gaussian network it is that of a density, and may be negative.

        :param x: rows ``(B, *shape)`` as the stream's transforms make them.
        :param y: their classes ``(B,)``, wanted by a conditional network.
        :raises ValueError: if classes are missing or were never seen, or rows do not fit.
        """
        check.rows_of(x)
        x = x.to(self.device)
        self._check_rows(x)
        index = torch.zeros(0, dtype=torch.int64)
        if self.conditional:
            if y is None:
                raise ValueError("y: a conditional network wants the classes of the rows, got None")
            known = {label: place for place, label in enumerate(self.classes)}
            strange = sorted(set(y.tolist()) - known.keys())
            if strange:
                raise ValueError(f"y: wants classes seen so far, {sorted(known)}, got {strange}")
            index = torch.tensor([known[label] for label in y.tolist()], dtype=torch.int64, device=self.device)
        noise = torch.Generator(self.device).manual_seed(0)
        with torch.autocast(self.device.type, enabled=False):
            return self._nelbo(self.network, self._to_codes(x), index, noise)

    # ---------------------------------------------------------------- state

    def _parts(self) -> list[str]:
        shapes = [tuple(p.shape) for p in self.network.parameters()]
        return [f"{type(self.network).__name__} of {shapes}", f"prior {self.prior}", f"codec {self.codec!r}"]

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a parameter or buffer."""
        return {
            **super().get_extra_state(),
            "consolidations": self.consolidations,
            "codes": self.codes.get_extra_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory made with another network or codec.
        """
        super().set_extra_state(state)
        self.consolidations = state["consolidations"]
        self.codes.set_extra_state(state["codes"])


def _row_shape(network: nn.Module) -> tuple[int, ...] | None:
    if hasattr(network, "shape"):
        return tuple(network.shape)  # type: ignore[arg-type]
    if hasattr(network, "channels") and hasattr(network, "size"):
        return int(network.channels), int(network.size), int(network.size)  # type: ignore[arg-type]
    return None
