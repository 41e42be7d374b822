"""The Kanerva machine's memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._words import warn
from avalanche_memplugins.codecs.latent import LatentCodec
from avalanche_memplugins.memories._forgetting import Where
from avalanche_memplugins.memories._kanerva import KanervaBase
from avalanche_memplugins.memories._kanerva_posteriors import Items, Written
from avalanche_memplugins.networks import KanervaMachine


class KanervaMemory(KanervaBase):
    r"""The memory of a trained Kanerva machine: the network says where an item goes, Bayes' rule writes it there.

    .. math:: y = \mathbb E\, q(y|x), \quad w = f(y)^\top A, \quad z = w^\top M + \mathcal N(0, \sigma^2 I), \quad
        p(M) = \mathcal{MN}(R, U, I)

    Addresses do not depend on what is written, as they do in
    :class:`~avalanche_memplugins.memories.DynamicKanervaMemory`. So an item can be forgotten from its image alone:
    :meth:`unwrite_rows`. For replay the memory draws addresses from a Gaussian fitted to those written, which it knows
    from U and from their sum, and adds noise as large as what it missed of the codes.

    There is no ``from_budget``: the machine was trained with its K and C.

    :param machine: trained networks for images of one size. They are copied: yours stay as they are.
    :param share: ``"class"``: a posterior for each class; ``"all"``: one for all classes, with the label as further
        columns of the code, by which replay reads it.
    :param label_scale: value of a label's column, > 0, with ``share="all"``.
    :param address: ``"fitted"`` as above; ``"prior"``: :math:`y \sim \mathcal N(0, I)`, the model's own.
    :param read_steps: how often a drawn row is read again before it is replayed.
    :param balance: ``"class"``: ``sample`` draws all classes equally often; ``"count"``: in proportion to their rows.
    :param mean: of the ``Normalize`` that the images went through: a number, or one a channel.
    :param std: of it, likewise.
    :param seed: of the memory's generator. None: drawn from torch's global generator.
    :raises TypeError: for another network.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: Wu et al., "The Kanerva machine", 2018, section 3.

    >>> memory = KanervaMemory(KanervaMachine(code_size=4, rows=3, width=4), seed=0)
    >>> memory.write(torch.rand(6, 1, 28, 28), torch.arange(6) % 2)
    >>> memory.sample(4).x.shape
    torch.Size([4, 1, 28, 28])
    >>> memory.read(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        machine: KanervaMachine,
        *,
        share: Literal["class", "all"] = "class",
        label_scale: float = 3.0,
        address: Literal["fitted", "prior"] = "fitted",
        read_steps: int = 0,
        balance: Literal["class", "count"] = "class",
        mean: Any = 0.0,
        std: Any = 1.0,
        seed: int | None = None,
    ) -> None:
        if not isinstance(check.made("machine", machine), KanervaMachine):
            raise TypeError(f"machine: expected a KanervaMachine, got {check.show(machine)}")
        zeros = torch.zeros(machine.code_size)
        super().__init__(
            rows=machine.rows,
            share=share,
            noise_var=machine.noise_var,
            prior_var=machine.prior_log_var.exp().item(),
            label_scale=label_scale,
            address=address,
            read_steps=read_steps,
            balance=balance,
            codec=LatentCodec(machine, code_mean=zeros, code_std=zeros + 1, precision="float32", mean=mean, std=std),
            seed=seed,
        )

        self.normalisation = self._latent.normalisation  # of a codec of the memory's own

    def forget(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        *,
        classes: Collection[int] | None = None,
        origins: Collection[int] | None = None,
        labels: Collection[int] | None = None,
        where: Where = None,
    ) -> int:
        """Let go of classes, with ``share="class"``; for items by their rows there is :meth:`unwrite_rows`.

        It is afterwards as if rows of these classes had never been written, but for its generator. Nothing changes if
        an error is raised.

        :param x: with ``y``, the earlier call of :meth:`unwrite_rows`; it goes with the next version.
        :param classes: to let go of; those never seen are passed over.
        :param origins: None, as single rows are not kept; so for ``labels`` and ``where``.
        :returns: how many rows :func:`len` no longer counts.
        :raises ValueError: if nothing is told, or with ``share="all"``.
        """
        if x is None and y is None:
            return super().forget(classes=classes, origins=origins, labels=labels, where=where)
        if x is None or y is None or classes is not None:
            raise ValueError("forget: expected classes, or x and y, got another mixture")
        warn("KanervaMemory: forget(x, y) is now unwrite_rows(x, y); it goes with the next version")
        before = len(self)
        self.unwrite_rows(x, y)
        return before - len(self)

    @torch.no_grad()
    def unwrite_rows(self, x: Tensor, y: Tensor) -> None:
        """Take written items out again, given their rows. This is exact, as addresses do not depend on the memory.

        The estimate of what the memory misses of codes is reduced in proportion to the number of items. Forgetting rows
        that were never written, or were forgotten before, corrupts the posterior. This is detected only if more rows of
        a class would go than there are, or if nothing was written to such an address.

        :param x: rows ``(B, *shape)`` as they were written.
        :param y: classes ``(B,)`` under which they were.
        :raises ValueError: if the memory does not hold such items.
        """
        self._check_cue("x", x)
        check.labels("y", y, len(x))
        index = self._index(y)
        code = self._to_codes(x).double()
        if self.share == "all":
            code = self._labelled(code, index)
        slot = self._posteriors.slot(index).to(self.device)
        counts = self._posteriors.counts(self._table[:, 1]).to(self.device)[slot].unsqueeze(-1)
        missed = (self.residual[slot].double() / counts).sqrt()
        self.unwrite(Written(slot, self._addresses(code, code, x), code, missed, y.cpu().long(), Items(len(x))))

    def _prior_mean(self, width: int) -> Tensor:
        return self._machine.prior_mean.detach().cpu()

    def _addresses(self, mean: Tensor, code: Tensor, x: Tensor) -> Tensor:
        machine, lead = self._machine, x.shape[: x.ndim - len(self._latent.image_shape)]
        images = self._latent.normalisation.undo(x.flatten(0, len(lead) - 1))
        latent = machine.address_posterior(machine.features(images))[0]
        return machine.weights(latent).view(*lead, self.rows).double()

    @property
    def _machine(self) -> KanervaMachine:
        machine: KanervaMachine = self._latent.autoencoder
        return machine

    @property
    def _latent(self) -> LatentCodec:
        codec: LatentCodec = self._modules["codec"]  # type: ignore[assignment]
        return codec

    def _prior_addresses(self) -> tuple[Tensor, Tensor]:
        # The prior of w is that of y pushed through the network: moments of many draws.
        noise = torch.randn(4096, self._machine.address_size, generator=torch.Generator().manual_seed(0))
        weights = self._machine.weights(noise.to(self.device))
        mean, centred = weights.mean(0), weights - weights.mean(0)
        factors = torch.linalg.qr(centred / len(noise) ** 0.5).R
        return mean.expand(len(self._table), -1), factors.expand(len(self._table), -1, -1)
