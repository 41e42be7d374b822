"""The dynamic Kanerva machine's memory."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.codecs.latent import LatentCodec
from avalanche_memplugins.functional.kanerva import kanerva_address
from avalanche_memplugins.memories._generative import TABLE_BYTES
from avalanche_memplugins.memories._kanerva import KanervaBase
from avalanche_memplugins.memories._rows import most_within
from avalanche_memplugins.networks import DynamicKanervaMachine


class DynamicKanervaMemory(KanervaBase):
    r"""A distributed memory of codes: every item is a mixture of K rows, which Bayes' rule writes.

    .. math::
        z = w^\top M + \mathcal N(0, \sigma^2 I), \quad p(M) = \mathcal{MN}(R, U, I), \quad
        w = (R R^\top + \tfrac{\sigma^2}{\sigma_w^2} I)^{-1} R z

    A write finds the items' addresses under the mean that earlier items left, and takes the exact posterior. Replay
    draws addresses from a Gaussian fitted to those written,
    :math:`w \sim \mathcal N(\bar w, \tfrac{\sigma^2}{n} (U^{-1} - U_0^{-1}) - \bar w \bar w^\top)`. This needs only U
    and the sum of the addresses: no second pass over the data. To :math:`w^\top R` it adds noise as large as what the
    memory missed of the codes.

    A shared memory replays by label: means and variances of addresses are those of the class, correlations are the same
    for all classes.

    The state grows with the classes, not with the stream.

    :param rows: K, >= 1.
    :param share: ``"class"``: a posterior for each class; ``"all"``: one for all classes, with the label as further
        columns of the code, by which replay reads it.
    :param noise_var: :math:`\sigma^2` > 0, in units of the (normalised) codes.
    :param prior_var: :math:`u_0` > 0: the prior of the memory has row covariance :math:`u_0 I`.
    :param address_std: :math:`\sigma_w` > 0.
    :param label_scale: value of a label's column, > 0, with ``share="all"``.
    :param address: ``"fitted"`` as above; or the model's own ``"prior"`` :math:`\mathcal N(0, \sigma_w^2 I)`, which
        makes a poor generator and is there for comparison.
    :param read_steps: how often a drawn row is read again before it is replayed.
    :param balance: ``"class"``: ``sample`` draws all classes equally often; ``"count"``: in proportion to their rows.
    :param prior: mean :math:`R_0` of the empty memory ``(K, C)``; None: random, from the seed.
    :param codec: whose codes are remembered; None: the rows themselves, flattened.
    :param seed: of the memory's generator and of its random prior. None: drawn from torch's global generator.
    :raises ValueError: for arguments out of range, naming the argument.

    Sources: Wu et al., "Learning attractor dynamics for generative memory", 2018, section 3. Replay from fitted
    addresses is this library's.

    >>> memory = DynamicKanervaMemory(rows=4, seed=0)
    >>> memory.write(torch.rand(20, 6), torch.arange(20) % 2)
    >>> recall = memory.sample(4)
    >>> recall.x.shape, recall.y.unique()
    (torch.Size([4, 6]), tensor([0, 1]))
    """

    def __init__(
        self,
        *,
        rows: int = 16,
        share: Literal["class", "all"] = "class",
        noise_var: float = 0.1,
        prior_var: float = 1.0,
        address_std: float = 1.0,
        label_scale: float = 3.0,
        address: Literal["fitted", "prior"] = "fitted",
        read_steps: int = 0,
        balance: Literal["class", "count"] = "class",
        prior: Tensor | None = None,
        codec: LatentCodec | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            rows=rows,
            share=share,
            noise_var=noise_var,
            prior_var=prior_var,
            label_scale=label_scale,
            address=address,
            read_steps=read_steps,
            balance=balance,
            codec=codec,
            seed=seed,
        )
        self.address_std = check.number("address_std", address_std, above=0)
        if prior is not None:
            check.floats(prior=prior)
            if prior.ndim != 2 or len(prior) != rows or not bool(prior.any()) or not bool(prior.isfinite().all()):
                raise ValueError(
                    f"prior: expected finite numbers ({rows}, C), not all of them zero, got {tuple(prior.shape)}"
                )
        self._given_prior = None if prior is None else prior.detach().float().cpu().clone()

    @classmethod
    def from_machine(cls, machine: DynamicKanervaMachine, **kwargs: Any) -> DynamicKanervaMemory:
        """The memory of a trained machine, with its networks as the codec, its prior and its noise.

        :param machine: copied; yours stays as it is.
        :param kwargs: other arguments of :class:`DynamicKanervaMemory`; ``mean`` and ``std`` of the user's Normalize.
        """
        check.instance("machine", machine, DynamicKanervaMachine, "a DynamicKanervaMachine")
        norm = {name: kwargs.pop(name) for name in ("mean", "std") if name in kwargs}
        zeros = torch.zeros(machine.code_size)
        codec = LatentCodec(machine, code_mean=zeros, code_std=zeros + 1, precision="float32", **norm)
        settings: dict[str, Any] = {
            "rows": machine.rows,
            "noise_var": machine.noise_var,
            "prior_var": machine.prior_log_var.exp().item(),
            "address_std": machine.address_std,
            "prior": machine.prior_mean,
        }
        return cls(codec=codec, **{**settings, **kwargs})

    @classmethod
    def from_budget(
        cls,
        nbytes: int | str,
        *,
        classes: int,
        shape: tuple[int, ...] | None = None,
        codec: LatentCodec | None = None,
        share: Literal["class", "all"] = "class",
        **kwargs: Any,
    ) -> DynamicKanervaMemory:
        """The memory of the most rows whose :attr:`nbytes` stay within a budget.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``, everything that grows with the classes counted.
        :param classes: how many are expected; more of them take more bytes.
        :param shape: of one row of x; needed without a codec.
        :param codec: as for the class, like ``share`` and ``kwargs``.
        :raises ValueError: if not a single memory row fits.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        check.positive_integer("classes", classes)
        check.latent_codec(codec)
        check.choice("share", share, ("class", "all"))
        width = int(codec.code_size) if codec is not None else check.row_shape(shape).numel()
        shared = share == "all"
        columns, posteriors = width + classes * shared, 1 if shared else classes

        def taken(rows: int) -> int:
            each = rows * columns + rows * (rows + 1) // 2 + rows + columns
            return TABLE_BYTES * classes + 8 * classes * shared * rows + 4 * posteriors * each

        rows = most_within(nbytes, taken, "one memory row takes")
        # More rows than columns span nothing new.
        return cls(rows=min(rows, columns), share=share, codec=codec, **kwargs)

    def _prior_mean(self, width: int) -> Tensor:
        if self._given_prior is None:
            return self._random(self.rows, width, salt=0)
        if self._given_prior.shape[1] != width:
            raise ValueError(f"prior: expected ({self.rows}, {width}), got {tuple(self._given_prior.shape)}")
        return self._given_prior

    def _addresses(self, mean: Tensor, code: Tensor, x: Tensor) -> Tensor:
        return kanerva_address(mean, code, ridge=self._posteriors.noise_var / self.address_std**2)

    def _prior_addresses(self) -> tuple[Tensor, Tensor]:
        classes, factor = len(self._table), self.address_std * torch.eye(self.rows, device=self.device)
        return torch.zeros(classes, self.rows, device=self.device), factor.expand(classes, -1, -1)

    def _parts(self) -> list[str]:
        return [*super()._parts(), f"address_std {self.address_std}"]
