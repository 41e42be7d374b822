"""Memories as attributes of Avalanche's Agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _streams import CLASSES, FEATURES, classic, plain
from avalanche.core import Agent
from torch import nn

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.memories import DynamicKanervaMemory, EpisodicMemory, GaussianMemory, VAEMemory
from avalanche_memplugins.networks import ConditionalVAE

MEMORIES: dict[str, Callable[[], Any]] = {
    "RandomMemory": lambda: RandomMemory(400),
    "ring": lambda: RandomMemory(400, write_policy="ring", read_policy="cycle"),
    "EpisodicMemory": lambda: EpisodicMemory(400),
    "GaussianMemory": GaussianMemory,
    "DynamicKanervaMemory": lambda: DynamicKanervaMemory(rows=4),
    "VAEMemory": lambda: VAEMemory(ConditionalVAE((FEATURES,), likelihood="gaussian"), steps=2, batch_size=8),
}
every_memory = pytest.mark.parametrize("name", list(MEMORIES))


@every_memory
@pytest.mark.parametrize("stream", [classic, plain])
def test_every_experience_is_taken_in_when_it_has_ended(name: str, stream: Any) -> None:
    agent = Agent()
    agent.memory, agent.model = MEMORIES[name](), nn.Linear(FEATURES, CLASSES)
    state = torch.get_rng_state()
    for number, experience in enumerate(stream().train_stream, start=1):
        agent.pre_adapt(experience)
        agent.post_adapt(experience)
        seen = agent.memory.sample(200)
        assert seen.x.shape[1:] == (FEATURES,)
        assert len(seen.y.unique()) == 2 * number
    if isinstance(agent.memory, RandomMemory):
        assert agent.memory.summary().per_experience == {0: 60, 1: 60, 2: 60}
    if name != "VAEMemory":  # which trains its network, as others do, by torch's global generator
        assert torch.equal(torch.get_rng_state(), state)


def test_rows_that_do_not_fit_are_told_before_training() -> None:
    agent = Agent()
    agent.memory = RandomMemory(10)
    agent.memory.write(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: .*rows of shape \(3,\)"):
        agent.pre_adapt(classic().train_stream[0])


def test_outputs_are_for_a_loop_to_give() -> None:
    agent = Agent()
    agent.memory = RandomMemory(10, store_logits=True)
    with pytest.raises(ValueError, match="memory: expected one that needs no logits, got RandomMemory"):
        agent.pre_adapt(classic().train_stream[0])
