"""A classifier that sees an image's code and the nearest codes that a memory holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.networks.frozen_encoder import FrozenEncoder
from avalanche_memplugins.networks.probabilistic_retrieval import retrieval_mlp


class Retriever(Protocol):
    """What can be asked for nearest rows: an :class:`~avalanche_memplugins.memories.EpisodicMemory` of codes."""

    def __len__(self) -> int:
        """Rows held."""

    def nearest(self, x: Tensor, k: int) -> Any:
        """``rows.x`` ``(Q * k, C)``, ``rows.y`` ``(Q * k,)``, ``distance`` ``(Q, k)`` squared, nearest first."""


class RetrievalClassifier(nn.Module):
    r"""RETRO's steps over stored codes: embed, query, take the nearest, feed both, predict.

    .. math::
        q = \mu(x), \quad (c_1, y_1), \ldots, (c_k, y_k) = \text{nearest}_k(q, M), \qquad
        p(y|x) = \mathrm{softmax}\, f(q, c_1, \ldots, c_k, \mathbb 1_{y_1}, \ldots, \mathbb 1_{y_k}).

    The memory is not part of this module: what fills it, saves it and moves it is the plugin that it is shared
    with, ``MemoryReplayPlugin(memory, at="encoder")``. Places for neighbours that it does not have hold zeros.

    In training mode a row must not find itself, or the classifier learns to copy the nearest label and nothing
    else: a nearest row within ``same`` times the query's norm is passed over. It is told by distance, so rows
    that are replayed, or seen in an earlier epoch, are known without numbers.

    :param autoencoder: has ``encode(x)`` that gives ``(B, C)`` and ``code_size``. It is copied and
        frozen; yours stays as it is.
    :param memory: of codes ``(C,)``, without an embedding of its own.
    :param classes: outputs; labels in the memory are below.
    :param neighbours: k, >= 1.
    :param labels: feed the neighbours' labels, too, one-hot.
    :param same: relative distance below which a row is the query itself, >= 0. The default is 8 times the rounding
        of float16 codes.
    :param hidden: width of the classifier's layers.
    :param layers: hidden layers of the classifier.
    :param mean: of the ``Normalize`` that the images went through, undone before encoding.
    :param std: of that ``Normalize``.
    :raises ValueError: for arguments out of range.

    Sources: Borgeaud et al., "Improving language models by retrieving from trillions of tokens", 2022, for the
    steps; Gananath, "Probabilistic memory retrieval", 2022, for codes of a frozen VAE and the classifier.

    >>> from avalanche_memplugins import EpisodicMemory
    >>> from avalanche_memplugins.networks import MLPVAE
    >>> memory = EpisodicMemory(50, seed=0)
    >>> model = RetrievalClassifier(MLPVAE(2, hidden=8, size=4), memory, classes=3, neighbours=5)
    >>> memory.write(model.encoder(torch.rand(20, 1, 4, 4)), torch.arange(20) % 3)
    >>> model.eval()(torch.rand(4, 1, 4, 4)).shape
    torch.Size([4, 3])
    """

    memory: Retriever

    def __init__(
        self,
        autoencoder: nn.Module,
        memory: Retriever,
        *,
        classes: int = 10,
        neighbours: int = 10,
        labels: bool = True,
        same: float = 2**-8,
        hidden: int = 40,
        layers: int = 4,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        check.positive_integers(classes=classes, neighbours=neighbours)
        check.having("memory", memory, ("nearest", "__len__"), "a memory that can be asked for the nearest rows")
        check.flag("labels", labels)
        check.number("same", same, least=0)
        self.classes, self.neighbours, self.labels, self.same = classes, neighbours, labels, same
        self.encoder = FrozenEncoder(autoencoder, code="mean", mean=mean, std=std)
        # Past nn.Module's __setattr__, which would make the memory a part of the model.
        self.__dict__["memory"] = memory
        each = self.encoder.code_size + (classes if labels else 0)
        self.head = retrieval_mlp(self.encoder.code_size + neighbours * each, classes, hidden=hidden, layers=layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, classes)`` of images ``(B, ch, H, W)``."""
        query = self.encoder(x)
        answer: Tensor = self.head(torch.cat([query, self.retrieve(query)], 1))
        return answer

    @torch.no_grad()
    def retrieve(self, query: Tensor) -> Tensor:
        """What is fed beside the queries ``(B, C)``: codes ``(B, k * C)``, then labels ``(B, k * classes)``."""
        check.rows("query", query, (self.encoder.code_size,))
        k, rows = self.neighbours, len(query)
        codes = query.new_zeros(rows, k, query.shape[1])
        onehot = query.new_zeros(rows, k, self.classes)
        held = len(self.memory)
        if held:
            found = self.memory.nearest(query, k + 1 if self.training else k)
            distance: Tensor = found.distance
            near, y = found.rows.x.view(*distance.shape, -1), found.rows.y.view(distance.shape)
            skip = torch.zeros(rows, 1, dtype=torch.int64, device=query.device)
            if self.training:
                itself = distance[:, 0] <= self.same**2 * query.square().sum(1)
                skip = itself[:, None].long()
            places = torch.arange(min(k, held), device=query.device) + skip
            # The last place is beyond what was found if the memory is small and the row itself is passed over.
            there = places < distance.shape[1]
            places = places.clamp(max=distance.shape[1] - 1)
            one = nn.functional.one_hot(y.gather(1, places), self.classes).to(query.dtype)
            taken = near.gather(1, places[..., None].expand(-1, -1, query.shape[1])).to(query.dtype)
            codes[:, : places.shape[1]] = taken * there[..., None]
            onehot[:, : places.shape[1]] = one * there[..., None]
        parts = [codes.flatten(1), onehot.flatten(1)] if self.labels else [codes.flatten(1)]
        return torch.cat(parts, 1)
