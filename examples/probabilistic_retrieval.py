"""Probabilistic retrieval: a frozen VAE's codes are kept, and every replay draws other latents around them.

python examples/probabilistic_retrieval.py

The VAE sees the images of all digits once, without labels, as one trained elsewhere would; then the digits arrive two
at a time. The last row looks stored neighbours up instead of drawing latents.
"""

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin

from avalanche_memplugins import EpisodicMemory, MemoryReplayPlugin
from avalanche_memplugins.benchmarks import SplitDigits, digits
from avalanche_memplugins.networks import MLPVAE, ProbabilisticRetrievalClassifier, RetrievalClassifier, train_vae
from avalanche_memplugins.strategies import ProbabilisticRetrieval

benchmark = SplitDigits(n_experiences=5, seed=0)

torch.manual_seed(0)
vae = MLPVAE(code_size=8, hidden=64, size=8)
bounds = train_vae(vae, digits().x_train, epochs=40, batch_size=32, lr=2e-3)
print(f"VAE: {bounds[0]:.1f} nats an image after one epoch, {bounds[-1]:.1f} after {len(bounds)}")


def options(model: torch.nn.Module) -> dict:
    """What all strategies share."""
    return {
        "model": model,
        "optimizer": torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3),
        "train_mb_size": 10,
        "train_epochs": 3,
        "eval_mb_size": 500,
        "evaluator": EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    }


def accuracy(strategy: Naive) -> float:
    """Train on the five experiences one after the other, then test on all ten digits."""
    for experience in benchmark.train_stream:
        strategy.train(experience)
    (value,) = strategy.eval(benchmark.test_stream).values()
    return 100 * value


def classifier() -> ProbabilisticRetrievalClassifier:
    """Ten latents an image, as published."""
    torch.manual_seed(0)
    return ProbabilisticRetrievalClassifier(vae, draws=10)


alone = ProbabilisticRetrieval(**options(classifier()), mem_size=None)
print(f"without a memory                {accuracy(alone):5.1f} %")

replay = ProbabilisticRetrieval(**options(classifier()), mem_size=200)
print(f"replay of 200 codes             {accuracy(replay):5.1f} %  ({replay.memory.nbytes} bytes)")

memory = EpisodicMemory(200, write_policy="class_balanced", codec="float16")  # replayed and looked up
model = RetrievalClassifier(vae, memory, neighbours=5)
looking = Naive(**options(model), plugins=[MemoryReplayPlugin(memory, at="encoder")])
print(f"replay and 5 stored neighbours  {accuracy(looking):5.1f} %  ({memory.nbytes} bytes)")
