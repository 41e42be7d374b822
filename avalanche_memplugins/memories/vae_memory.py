"""Deep generative replay: a variational auto-encoder that rehearses itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.codecs._normalisation import Normalisation
from avalanche_memplugins.memories._generative import TABLE_BYTES, check_count
from avalanche_memplugins.memories._vae.budget import widest_network
from avalanche_memplugins.memories._vae.generator import VAEGenerator
from avalanche_memplugins.memories._vae.rows import Batches
from avalanche_memplugins.memories.gaussian_memory import GaussianMemory


class VAEMemory(VAEGenerator):
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
    :param seed: of the memory's generator, from which all draws come. None: drawn from torch's global generator.
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
        self.network = network.eval().requires_grad_(False)
        self.steps = check.positive_integer("steps", steps)
        self.batch_size = check.positive_integer("batch_size", batch_size)
        self.lr, self.replay = lr, replay
        self.replay_size = batch_size if replay_size is None else check.positive_integer("replay_size", replay_size)
        self.cache_bytes = check.integer("cache_bytes", cache_bytes, least=0)
        self.normalisation = Normalisation(mean, std)
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
        codec: Any | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> VAEMemory:
        """The memory with the widest two hidden layers whose :attr:`nbytes` stay within a budget.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``: weights and the table of classes.
        :param shape: of one row of x; wanted without a codec.
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
        network = widest_network(
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
    def nbytes(self) -> int:
        """Bytes that hold the stream: the generator's weights, the Gaussians of its codes, the table of classes."""
        return super().nbytes + TABLE_BYTES * len(self.codes._table)

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
