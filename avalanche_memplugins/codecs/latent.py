"""Codes of a frozen auto-encoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins import pretrained
from avalanche_memplugins._fingerprint import fingerprint
from avalanche_memplugins.codecs._latent_space import STEP, LatentCoding, LatentSpace, Precision


class LatentCodec(LatentCoding):
    r"""Stores images as codes of a frozen auto-encoder: ``code_size`` numbers of 2 bits to 4 bytes a row.

    .. math::
        p = x \sigma + \mu, \qquad z = \frac{\mathrm{enc}(p) - m}{s}, \qquad c = \mathrm{round}(z / \Delta), \qquad
        \hat x = \frac{\mathrm{dec}(m + s\, \Delta\, c) - \mu}{\sigma}

    The network is copied and fixed: always in eval mode, without gradient, no parameter of any module it becomes
    a part of, and not in a ``state_dict`` - there a fingerprint of the weights stands for them, and loading the
    rows under other weights raises. Its bytes are :attr:`nbytes_fixed`. Under autocast codes are the same.

    :param autoencoder: a module with ``code_size``, ``encode(p)`` from images ``(B, C, H, W)`` in [0, 1] to codes
        ``(B, code_size)``, and ``decode`` back.
    :param code_mean: :math:`m` ``(code_size,)``, mean of the codes of the data it was trained on.
    :param code_std: :math:`s` ``(code_size,)``, > 0, their standard deviation.
    :param precision: ``"int8"``: :math:`c` above, at most 127 steps off 0; ``"2bit"``, ``"3bit"``, ``"4bit"`` or
        ``"6bit"``: the nearest of Lloyd's and Max's levels for a normal distribution, packed; ``"float16"`` or
        ``"float32"``: z itself.
    :param step: :math:`\Delta` of int8 codes; the default reaches 5.3 standard deviations either way.
    :param mean: :math:`\mu` of the ``Normalize`` that the images went through: a number, or one a channel.
    :param std: :math:`\sigma` of it, likewise.
    :raises TypeError: if ``autoencoder`` lacks a part.
    :raises ValueError: for arguments out of range; when rows are written, if they are of another size than the
        auto-encoder's images or their pixels are not finite and within [0, 1].

    >>> import torch
    >>> from avalanche_memplugins.networks import VAE
    >>> codec = LatentCodec(VAE(code_size=4, width=2), code_mean=torch.zeros(4), code_std=torch.ones(4))
    >>> codec.encode(torch.rand(3, 1, 28, 28)).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        *,
        code_mean: Tensor,
        code_std: Tensor,
        precision: Precision = "int8",
        step: float = STEP,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        check_autoencoder(autoencoder)
        super().__init__(precision, step, mean, std)
        # Past nn.Module's own bookkeeping: what is fixed is no parameter, no child and no state.
        self.__dict__["_space"] = LatentSpace(copy.deepcopy(autoencoder), code_mean, code_std)
        self.fingerprint = fingerprint(self._space.state_dict())
        self.eval()
        self._find_image_shape()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        precision: Precision = "int8",
        step: float = STEP,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> LatentCodec:
        """The codec of an auto-encoder that comes with the library, or that you have saved.

        :param name: one of ``pretrained.names()``, or the path of a file that ``pretrained.save`` wrote.
        :param precision: as for the class, like ``step``.
        :param mean: of the user's ``Normalize``, undone before encoding and redone after decoding.
        :param std: of the same.
        :raises ValueError: for an unknown name, or a file that is missing or damaged.
        """
        found = pretrained.load(name)
        return cls(
            found.autoencoder,
            code_mean=found.code_mean,
            code_std=found.code_std,
            precision=precision,
            step=step,
            mean=mean,
            std=std,
        )

    @property
    def nbytes_fixed(self) -> int:  # type: ignore[override]
        """Bytes of the network's parameters and buffers and of the statistics of its codes."""
        return self._space.nbytes

    def get_extra_state(self) -> dict[str, Any]:
        """The fingerprint, instead of the weights."""
        return {"fingerprint": self.fingerprint}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Check that codes of this state are codes of this network.

        :raises ValueError: if they are of other weights.
        """
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"state: its codes were made with an auto-encoder of fingerprint {state['fingerprint']}, this "
                f"codec's is {self.fingerprint}; make the codec with the same weights and statistics"
            )

    def __repr__(self) -> str:
        return f"LatentCodec({self._facts()}, fingerprint={self.fingerprint})"


def check_autoencoder(network: nn.Module) -> None:
    """Raise ``TypeError`` unless ``network`` has what this library asks of an auto-encoder."""
    missing = [name for name in ("encode", "decode") if not callable(getattr(network, name, None))]
    missing += [] if isinstance(getattr(network, "code_size", None), int) else ["code_size"]
    if not isinstance(network, nn.Module) or missing:
        raise TypeError(
            "autoencoder: expected a module with code_size, encode(images) -> codes and decode(codes) -> images, "
            f"got {check.show(network)}" + (f" without {', '.join(missing)}" if missing else "")
        )
