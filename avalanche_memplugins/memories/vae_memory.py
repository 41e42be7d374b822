"""Deep generative replay: a variational auto-encoder that rehearses itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins._normalisation import Normalisation
from avalanche_memplugins.codecs.latent import LatentCodec
from avalanche_memplugins.memories._generative import TABLE_BYTES, GenerativeMemory, check_count
from avalanche_memplugins.memories._rows import most_within
from avalanche_memplugins.memories._vae_rows import Batches, Coded, ExperienceRows
from avalanche_memplugins.memories.gaussian_memory import GaussianMemory
from avalanche_memplugins.memories.recall import Recall
from avalanche_memplugins.networks.conditional_vae import ConditionalVAE

_ROWS_FITTED = 8_192


class VAEMemory(GenerativeMemory):
    r"""A generator :math:`p(x|z)`, trained after each experience on its rows and on what it generated before.

    At the t-th experience a copy of the generator takes ``steps`` steps of its own Adam on

    .. math:: L = (1 - w) \, \mathrm{NELBO}(x) + w \, \mathrm{NELBO}(\tilde x), \qquad w = 1 - \tfrac1t,

    with x from the experience and :math:`\tilde x` from the generator as it was. Then the copy replaces the generator.
    If anything goes wrong, the generator stays as it was.

    **Codes.** The stream's codes never fill the prior :math:`\mathcal N(0, I)`, and codes from the gaps decode to no
    class. So after each training a Gaussian is fitted to the codes of each class, as in
    :class:`~avalanche_memplugins.memories.GaussianMemory`, and codes are drawn from these: all classes equally often,
    and each row with its class. With ``prior="standard"`` codes are drawn from :math:`\mathcal N(0, I)`, as in deep
    generative replay. A network with ``classes`` is then asked for a class. Without, a row gets the class whose mean
    code is nearest to z. This is a rough guess: label rows by the model of the experience before instead,
    ``MemoryReplayPlugin(memory, labels="old_model")``. Task label and origin are the latest of the class.

    :param network: a :class:`~avalanche_memplugins.networks.ConditionalVAE`; or any module with
        ``code_size``, ``posterior(x)``, ``decode(z)`` and ``bound(x, generator=...)``, which gives a pair of ``(B,)``
        (reconstruction, KL), such as :class:`~avalanche_memplugins.networks.VAE`. It is copied: yours stays as it is.
        The copy holds the stream, so its weights count in :attr:`nbytes`.
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
        then needs ``likelihood="gaussian"`` and the shape ``(codec.code_size,)``.
    :param seed: of the memory's generator, from which all draws come. None: drawn from torch's global generator.
    :raises ValueError: for arguments out of range, naming the argument.
    :raises TypeError: for a network or codec that lacks a method.

    Sources: Shin et al., "Continual learning with deep generative replay", 2017; settings of van de Ven &
    Tolias, "Three scenarios for continual learning", 2019; fitted codes: Ghosh et al., "From variational to
    deterministic autoencoders", 2020, section 4.

    >>> memory = VAEMemory(ConditionalVAE((1, 4, 4), code_size=2, hidden=(8,), classes=2), steps=5, seed=0)
    >>> memory.consolidate([(torch.rand(20, 1, 4, 4), torch.arange(20) % 2, 0)], origin=0)
    >>> recall = memory.sample(4)
    >>> recall.x.shape, recall.y.unique()
    (torch.Size([4, 1, 4, 4]), tensor([0, 1]))
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
        codec: LatentCodec | None = None,
        seed: int | None = None,
    ) -> None:
        seed = check.seed(seed)
        super().__init__(codec=codec, seed=seed)
        check.made("network", network)
        check.having("network", network, ("posterior", "decode", "bound", "code_size"), "a VAE")
        check.instance("network", network, nn.Module, "a VAE that is an nn.Module")
        self.likelihood = getattr(network, "likelihood", "bernoulli")
        if codec is not None and self.likelihood == "bernoulli":
            raise ValueError(
                "network: expected likelihood='gaussian', as codes are not pixels, got 'bernoulli' with a codec"
            )
        is_weight = isinstance(replay, float | int) and not isinstance(replay, bool) and 0 <= replay < 1
        if not is_weight and replay is not None and not (isinstance(replay, str) and replay == "growing"):
            raise ValueError(f"replay: expected a weight 0 <= w < 1, 'growing' or None, got {check.show(replay)}")
        check.number("lr", lr, above=0)
        self.prior = check.choice("prior", prior, ("fitted", "standard"))
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.steps = check.positive_integer("steps", steps)
        self.batch_size = check.positive_integer("batch_size", batch_size)
        self.lr, self.replay = lr, replay
        self.replay_size = batch_size if replay_size is None else check.positive_integer("replay_size", replay_size)
        self.cache_bytes = check.integer("cache_bytes", cache_bytes, least=0)
        self.normalisation: Normalisation = Normalisation(mean, std)
        self.consolidations = 0
        self.codes = GaussianMemory(rank=None, seed=seed)  # of the classes' codes

    @classmethod
    def from_budget(
        cls,
        nbytes: int | str,
        *,
        shape: tuple[int, ...] | None = None,
        classes: int,
        conditional: bool = True,
        code_size: int = 100,
        codec: LatentCodec | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> VAEMemory:
        """The memory with the widest two hidden layers whose :attr:`nbytes` stay within a budget.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``: weights and the table of classes.
        :param shape: of one row of x; needed without a codec.
        :param classes: how many are expected.
        :param conditional: make the network with classes.
        :param code_size: of z.
        :param codec: as for :class:`VAEMemory`.
        :param seed: of weights and memory. None: drawn from torch's global generator.
        :param kwargs: the other arguments of :class:`VAEMemory`.
        :raises ValueError: if not even layers of one unit fit.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        seed = check.seed(seed)
        check.positive_integer("classes", classes)
        check.positive_integer("code_size", code_size)
        check.flag("conditional", conditional)
        check.latent_codec(codec)
        shape = (int(codec.code_size),) if codec is not None else check.row_shape(shape)
        gaussian = codec is not None or len(shape) == 1
        network = _widest_network(
            nbytes,
            shape,
            beside=classes * (2 * TABLE_BYTES + 4 * (code_size + code_size * (code_size + 1) // 2)),
            seed=seed,
            code_size=code_size,
            classes=classes if conditional else None,
            likelihood="gaussian" if gaussian else "bernoulli",
        )
        return cls(network, codec=codec, seed=seed, **kwargs)

    # ---------------------------------------------------------------- what it holds

    @property
    def conditional(self) -> bool:
        """Whether the network is told the class."""
        return getattr(self.network, "classes", None) is not None

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return next(self.network.parameters()).device

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream: the generator's weights, the Gaussians of its codes, the table of classes."""
        return super().nbytes + TABLE_BYTES * len(self.codes.classes)

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.network.parameters())
        return (
            f"{type(self).__name__}({type(self.network).__name__} of {weights:,} weights, "
            f"conditional={self.conditional}, steps={self.steps}, "
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
        check.integer("origin", origin, least=0)
        before = self._table, self.shape, self.dtype
        generators = [(g, g.get_state()) for g in (self._generator, self.codes._generator)]
        old = len(self._table)
        try:
            with torch.autocast(self.device.type, enabled=False):
                rows = self._survey(batches, origin)
                successor = copy.deepcopy(self.network).requires_grad_(True)
                seed = int(torch.randint(2**62, (), generator=self._generator))
                noise = torch.Generator(self.device).manual_seed(seed)
                with torch.enable_grad():
                    self._train(successor, iter(rows), old, noise)
                if not all(bool(p.isfinite().all()) for p in successor.parameters()):
                    raise ValueError(f"lr: expected a rate at which the generator learns, got {self.lr}: it diverged")
                codes = self._fit_codes(successor, rows, old, noise)
        except BaseException:
            self._table, self.shape, self.dtype = before
            for generator, state in generators:
                generator.set_state(state)
            raise
        self.network.load_state_dict(successor.state_dict())
        self.codes = codes
        self.consolidations += 1

    def _survey(self, batches: Batches, origin: int) -> ExperienceRows:
        """Look at all rows of an experience and enter their classes."""

        def look(x: Tensor, y: Tensor, t: Tensor | int) -> Coded | None:
            if not self._check(x, y, t, origin):
                return None
            x = x.to(self.device)
            codes = self._to_codes(x)
            present, places, _ = self._enrol(y, t, origin)
            self.shape, self.dtype = x.shape[1:], x.dtype
            return codes, present[places].to(self.device)

        def encode(x: Tensor, y: Tensor) -> Coded:
            return self._to_codes(x.to(self.device)), self._index(y).to(self.device)

        return ExperienceRows(
            batches,
            look,
            encode,
            batch_size=self.batch_size,
            cache_bytes=self.cache_bytes,
            generator=self._generator,
        )

    def _train(self, network: nn.Module, rows: Iterator[Coded], old: int, noise: torch.Generator) -> None:
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

    @torch.no_grad()
    def _fit_codes(self, network: nn.Module, rows: ExperienceRows, old: int, noise: torch.Generator) -> GaussianMemory:
        """Gaussians of the codes that the new network gives the experience's classes and the generated ones."""
        fitted = GaussianMemory(rank=None, seed=0)
        held = min(rows.count, _ROWS_FITTED)
        parts = list(islice(rows, -(-held // self.batch_size)))
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

    def _nelbo(self, network: nn.Module, codes: Tensor, index: Tensor, noise: torch.Generator | None) -> Tensor:
        arguments = (codes, index) if self.conditional else (codes,)
        reconstruction, kl = network.bound(*arguments, generator=noise)  # type: ignore[operator]
        return reconstruction + kl  # type: ignore[no-any-return]

    @torch.no_grad()
    def bound(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Negative evidence lower bound of rows, in nats ``(B,)``: how well the generator knows them.

        Noise is the same at every call. For a Gaussian network it is that of a density, and may be negative.

        :param x: rows ``(B, *shape)`` as the stream's transforms make them.
        :param y: their classes ``(B,)``; a conditional network needs them.
        :raises ValueError: if classes are missing or were never seen, or rows do not fit.
        """
        check.rows_of(x)
        x = x.to(self.device)
        self._check_rows(x)
        index = torch.zeros(0, dtype=torch.int64)
        if self.conditional:
            if y is None:
                raise ValueError("y: expected the classes of the rows, as the network is conditional, got None")
            check.labels("y", y, len(x))
            index = self._index(y).to(self.device)
        noise = torch.Generator(self.device).manual_seed(0)
        with torch.autocast(self.device.type, enabled=False):
            return self._nelbo(self.network, self._to_codes(x), index, noise)

    # ---------------------------------------------------------------- generate

    @torch.no_grad()
    def sample(self, n: int) -> Recall:
        """``n`` generated rows, as the stream's transforms make them, with their labels.

        :param n: rows to draw, >= 1.
        :raises ValueError: if ``n`` is not positive or nothing has been consolidated.
        """
        with torch.autocast(self.device.type, enabled=False):
            check.positive_integer("n", n)
            check.room("n", n, 4 * max(1, self.shape.numel()))
            codes, index = self._generate(n, len(self._table))
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

    # ---------------------------------------------------------------- rows

    def _check(self, x: Tensor, y: Tensor, t: Tensor | int, origin: Tensor | int) -> int:
        rows = super()._check(x, y, t, origin)
        limit = getattr(self.network, "classes", None)
        known = {*self.classes, *y.tolist()}
        if limit is not None and len(known) > limit:
            raise ValueError(f"y: expected at most {limit} classes, all that the network has, got {len(known)} by now")
        return rows

    def _check_rows(self, x: Tensor) -> None:
        super()._check_rows(x)
        shape = _row_shape(self.network)
        if self.codec is None and shape is not None and tuple(x.shape[1:]) != shape:
            raise ValueError(f"x: expected rows of shape {shape}, as the network's are, got {tuple(x.shape[1:])}")
        if self.codec is None and self.likelihood == "bernoulli":
            self.normalisation.check(x, f"the memory {type(self).__name__}")

    def _to_codes(self, x: Tensor) -> Tensor:
        if self.codec is not None:
            return super()._to_codes(x)
        return self.normalisation.undo(x).clamp_(0, 1) if self.likelihood == "bernoulli" else x.float()

    def _from_codes(self, codes: Tensor) -> Tensor:
        if self.codec is None and self.likelihood == "bernoulli":
            return self.normalisation.redo(codes, self.dtype)
        return super()._from_codes(codes)

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

    def _check_sound(self) -> None:
        super()._check_sound()
        self.codes._check_sound()
        check_count("consolidations", self.consolidations)
        if self.codes.classes and not 0 <= min(self.codes.classes) <= max(self.codes.classes) < len(self._table):
            raise ValueError(f"state: expected codes of {len(self._table)} classes, got {self.codes.classes}")
        if bool(len(self._table)) != bool(self.codes.classes):
            raise ValueError("state: expected codes of the classes, and classes of the codes")
        if len(self._table) and self.codes.shape.numel() != int(self.network.code_size):  # type: ignore[arg-type]
            raise ValueError(f"state: expected codes of {self.network.code_size}, got {tuple(self.codes.shape)}")
        if len(self._table) and self.codec is None:
            made = self._generate(1, len(self._table))[0]
            if made.numel() != self.shape.numel():
                raise ValueError(f"state: expected rows of {made.numel()} numbers, got {tuple(self.shape)}")

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


def _widest_network(nbytes: int, shape: tuple[int, ...], *, beside: int, seed: int, **options: Any) -> ConditionalVAE:
    """The network with the widest two hidden layers that stays within a budget.

    :param nbytes: the budget.
    :param shape: of one row.
    :param beside: bytes of the budget that something else takes.
    :param seed: of the weights.
    :param options: the other arguments of the network.
    :raises ValueError: if not even layers of one unit fit.
    """

    def takes(width: int) -> int:
        with torch.device("meta"):
            network = ConditionalVAE(shape, hidden=(width, width), **options)
        return beside + sum(p.nbytes for p in network.parameters())

    width = most_within(nbytes, takes, "layers of one unit take")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConditionalVAE(shape, hidden=(width, width), **options)
