"""The streams on which plugins are checked, under the names that the tests use."""

import torch
from avalanche.models import as_multitask
from torch import Tensor, nn

from avalanche_memplugins.testing.streams import (
    CLASSES,
    EXPERIENCES,
    FEATURES,
    SCENARIOS,
    Watcher,
    build,
    classic,
    network,
    plain,
    rows,
    run,
    weights,
)
from avalanche_memplugins.testing.streams import Scenario as Case

__all__ = [
    "CASES", "CLASSES", "EXPERIENCES", "FEATURES", "Case", "MultiHeadBody", "Watcher", "build", "classic", "network",
    "plain", "rows", "run", "weights",
]  # fmt: skip


class MultiHeadBody(nn.Module):
    """The network with an attribute that ``as_multitask`` can replace."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh())
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


CASES = {**SCENARIOS, "multi-head": Case(lambda: classic(True), lambda: as_multitask(MultiHeadBody(), "classifier"))}
