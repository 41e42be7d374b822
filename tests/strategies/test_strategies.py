"""Strategies are their plugin on Naive, with nothing of the caller's changed."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from _streams import Case, network, run, weights
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from avalanche_memplugins import DarkReplayPlugin, MemoryReplayPlugin, RandomMemory, RandomMemoryPlugin
from avalanche_memplugins.strategies import RMA, DarkExperienceReplay, ExperienceReplay


def train(strategy_class: Any, **options: Any) -> Any:
    model = network()
    strategy = strategy_class(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=16,
        eval_mb_size=64,
        evaluator=None,
        **options,
    )
    torch.manual_seed(1)
    for experience in Case().stream():
        strategy.train(experience, num_workers=0)
    return strategy


@pytest.mark.parametrize(
    ("strategy_class", "options", "plugin"),
    [
        (RMA, {"mem_size": 50, "write_every": 2, "seed": 3}, lambda: RandomMemoryPlugin(50, write_every=2, seed=3)),
        (
            RMA,
            {
                "mem_size": 50,
                "write_policy": "task_balanced",
                "read_policy": "task_balanced",
                "replay_size": 6,
                "seed": 3,
            },
            lambda: MemoryReplayPlugin(
                RandomMemory(50, write_policy="task_balanced", read_policy="task_balanced", seed=3),
                write_every=10,
                replay_size=6,
            ),
        ),
        (ExperienceReplay, {"mem_size": 50, "seed": 3}, lambda: MemoryReplayPlugin(RandomMemory(50, seed=3))),
        (
            ExperienceReplay,
            {"mem_size": 50, "codec": "float16", "seed": 3},
            lambda: MemoryReplayPlugin(RandomMemory(50, codec="float16", seed=3)),
        ),
        (
            DarkExperienceReplay,
            {"mem_size": 50, "alpha": 0.3, "beta": 0.2, "replay_size": 6, "write_policy": "class_balanced", "seed": 3},
            lambda: DarkReplayPlugin(
                RandomMemory(50, write_policy="class_balanced", store_logits=True, seed=3),
                alpha=0.3,
                beta=0.2,
                replay_size=6,
            ),
        ),
    ],
    ids=["RMA", "RMA by task", "ER", "ER in half precision", "DER++"],
)
def test_a_strategy_is_its_plugin_on_naive(strategy_class: Any, options: dict[str, Any], plugin: Any) -> None:
    assert torch.equal(weights(train(strategy_class, **options)), weights(run(Case(), [plugin()])))


@pytest.mark.parametrize("strategy_class", [RMA, ExperienceReplay, DarkExperienceReplay])
def test_the_callers_list_of_plugins_stays_as_it_was(strategy_class: Any) -> None:
    mine: list[Any] = []
    strategy = train(strategy_class, mem_size=20, plugins=mine)
    assert mine == []
    assert isinstance(strategy, SupervisedTemplate)
    assert len(strategy.memory) == 20


@pytest.mark.parametrize("strategy_class", [RMA, ExperienceReplay, DarkExperienceReplay])
def test_arguments_are_keywords_and_those_of_avalanche_come_along(strategy_class: Any) -> None:
    parameters = inspect.signature(strategy_class.__init__).parameters
    assert all(p.kind is not p.POSITIONAL_OR_KEYWORD for name, p in parameters.items() if name != "self")
    strategy = train(strategy_class, mem_size=20, peval_mode="iteration", eval_every=-1)
    assert strategy.memory.capacity == 20


@pytest.mark.parametrize("strategy_class", [RMA, ExperienceReplay, DarkExperienceReplay])
def test_bad_arguments_reach_the_user(strategy_class: Any) -> None:
    with pytest.raises(ValueError, match="mem_size: expected an integer >= 1, got"):
        train(strategy_class, mem_size=-5)
    with pytest.raises(ValueError, match="write_policy: expected one of"):
        train(strategy_class, write_policy="fifo")


def test_er_keeps_every_task_in_a_memory_where_rma_keeps_the_newest() -> None:
    er = train(ExperienceReplay, mem_size=30).memory.summary()
    rma = train(RMA, mem_size=30, write_every=1).memory.summary()
    assert set(er.per_experience) == {0, 1, 2}
    assert set(rma.per_experience) == {2}


@pytest.mark.parametrize("strategy_class", [RMA, ExperienceReplay, DarkExperienceReplay])
def test_the_earlier_names_of_the_policies_still_work(strategy_class: Any) -> None:
    model = network()
    needed = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "evaluator": None}
    with pytest.warns(
        DeprecationWarning, match=rf"{strategy_class.__name__}: the argument policy= is now write_policy="
    ):
        strategy = strategy_class(**needed, mem_size=9, policy="class_balanced")
    assert "class_balanced" in repr(strategy.memory) or "GroupBalanced" in repr(strategy.memory)


def test_signature_and_documentation_tell_the_templates_arguments() -> None:
    parameters = inspect.signature(ExperienceReplay).parameters
    assert [p.name for p in parameters.values() if p.default is inspect.Parameter.empty] == [
        "model",
        "optimizer",
        "base_kwargs",
    ]
    assert parameters["mem_size"].default == 200
    assert parameters["train_mb_size"].default == 1
    assert parameters["eval_mb_size"].default is None
    assert "``eval_every``" in str(ExperienceReplay.__doc__)
    with pytest.raises(TypeError, match=r"missing a required .*'model'"):
        ExperienceReplay(optimizer=None)
