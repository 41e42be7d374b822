"""Text of different lengths: token batches are padded, and rows are kept and replayed as long as they are.

python examples/tokens.py
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from avalanche_memplugins import RandomMemory, Rehearsal

# Six topics with words of their own among common ones. The stream brings two topics at a time.
COMMON = [f"common-{i}" for i in range(20)]
TOPICS = [[f"topic-{topic}-{i}" for i in range(8)] for topic in range(6)]
WORDS = ["<pad>", *COMMON, *(word for topic in TOPICS for word in topic)]
NUMBER = {word: i for i, word in enumerate(WORDS)}


def texts(topic: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """Token numbers of texts of 5 to 40 words, of which one in five tells the topic."""
    found = []
    for _ in range(count):
        length = int(torch.randint(5, 41, (), generator=generator))
        tells = torch.rand(length, generator=generator) < 0.2
        own, common = (torch.randint(size, (length,), generator=generator) for size in (8, len(COMMON)))
        words = [TOPICS[topic][a] if told else COMMON[b] for told, a, b in zip(tells, own, common, strict=True)]
        found.append(torch.tensor([NUMBER[word] for word in words]))
    return found


def padded(rows: list[Tensor]) -> dict[str, Tensor]:
    """A batch as tokenizers make it, as long as its longest text."""
    ids = pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


class Classifier(nn.Module):
    """The mean of word vectors, and a layer on it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(len(WORDS), 32), nn.Linear(32, len(TOPICS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[:, :, None].float()
        return self.head((self.embed(input_ids) * mask).sum(1) / mask.sum(1).clamp_min(1))


def accuracy(rehearsal: Rehearsal | None) -> float:
    """Train on two topics at a time, then test on all six."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for experience in range(3):
        rows = [(row, t) for t in (2 * experience, 2 * experience + 1) for row in texts(t, 150, generator)]
        for _ in range(3):
            for chosen in torch.randperm(len(rows), generator=generator).split(16):
                x, y = padded([rows[i][0] for i in chosen]), torch.tensor([rows[i][1] for i in chosen])
                if rehearsal is not None:
                    x, y = rehearsal.step(x, y)[:2]  # shorter rows are filled up
                optimizer.zero_grad()
                cross_entropy(model(**x), y).backward()
                optimizer.step()
    with torch.no_grad():
        right = [model(**padded(texts(topic, 50, generator))).argmax(1) == topic for topic in range(len(TOPICS))]
    return 100 * torch.cat(right).float().mean().item()


memory = RandomMemory.from_budget(
    "10kB",
    shape={"input_ids": (40,), "attention_mask": (40,)},
    dtype=torch.int64,
    pad={"input_ids": 0, "attention_mask": 0},
    codec={"input_ids": "uint8", "attention_mask": "uint8"},
    write_policy="class_balanced",
    seed=0,
)
print(f"alone          {accuracy(None):5.1f} %")
print(f"with rehearsal {accuracy(Rehearsal(memory)):5.1f} %")
print(memory)
