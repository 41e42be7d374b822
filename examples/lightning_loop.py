"""Rehearsal in Lightning: one hook of the module mixes replayed rows in. Needs `pip install lightning`.

python examples/lightning_loop.py
"""

import logging
import warnings
from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from avalanche_memplugins import RandomMemory, Rehearsal

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.simplefilter("ignore")
digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
test = torch.arange(len(x)) % 5 == 0


class Classifier(lightning.LightningModule):
    """As any module of Lightning, with a rehearsal."""

    def __init__(self, rehearsal: Rehearsal | None) -> None:
        super().__init__()
        self.rehearsal = rehearsal
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10)
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The batch is on its device: mix in training only."""
        return self.rehearsal.mix(batch) if self.rehearsal is not None and self.trainer.training else batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The memory goes into Lightning's checkpoint."""
        if self.rehearsal is not None:
            checkpoint["rehearsal"] = self.rehearsal.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.rehearsal is not None:
            self.rehearsal.load_state_dict(checkpoint["rehearsal"])

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return cross_entropy(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def accuracy(rehearsal: Rehearsal | None) -> float:
    """Train on two digits at a time, then test on all ten."""
    torch.manual_seed(0)
    model = Classifier(rehearsal)
    for experience in range(5):
        mine = ~test & (y // 2 == experience)
        if rehearsal is not None:
            rehearsal.experience = experience
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, DataLoader(TensorDataset(x[mine], y[mine]), batch_size=10, shuffle=True))
    with torch.no_grad():
        return 100 * (model.layers(x[test]).argmax(1) == y[test]).float().mean().item()


print(f"alone          {accuracy(None):5.1f} %")
print(f"with rehearsal {accuracy(Rehearsal(RandomMemory(300, write_policy='class_balanced', seed=0))):5.1f} %")
