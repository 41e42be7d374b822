"""A memory's answers instead of the network's, against what memory and network say by themselves."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from _streams import CASES, CLASSES, Case, build, run, weights
from avalanche.core import SupervisedPlugin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from avalanche_memplugins import (
    EpisodicMemory,
    GaussianMemory,
    MemoryPredictionPlugin,
    MemoryReplayPlugin,
    RandomMemory,
)
from avalanche_memplugins.functional import fit_experts


class Outputs(SupervisedPlugin):
    """What the model itself says of each test row, and what stands there in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[dict[str, torch.Tensor]] = []

    def before_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            own = strategy.forward().clone()
        self.batches.append({"x": strategy.mbatch[0], "y": strategy.mbatch[1], "t": strategy.mbatch[-1], "own": own})

    def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.batches[-1]["output"] = strategy.mb_output.clone()


def evaluated(case: Case, plugins: list[Any], **options: Any) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    outputs = Outputs()
    strategy = run(case, [*plugins, outputs], **options)
    outputs.batches.clear()
    strategy.eval(case.benchmark().test_stream, num_workers=0)
    return strategy, outputs.batches


def floored(answer: torch.Tensor) -> torch.Tensor:
    return answer.clamp_min(-13.8)


@pytest.mark.parametrize("case_name", ["x, y, t", "x, y", "multi-head", "online", "evaluation every iteration"])
def test_the_memorys_answer_takes_the_outputs_place(case_name: str) -> None:
    memory, case = GaussianMemory(rank=None, precision=6, seed=0), CASES[case_name]
    _, batches = evaluated(case, [MemoryPredictionPlugin(memory, writes=True)])
    assert len(memory) == 180
    right = 0
    for batch in batches:
        for i in range(len(batch["x"])):
            task = int(batch["t"][i]) if case_name == "multi-head" else None
            answer = memory.predict(batch["x"][i : i + 1], classes=CLASSES, task=task)
            torch.testing.assert_close(batch["output"][i : i + 1], floored(answer).log_softmax(1), rtol=1e-4, atol=1e-4)
            right += int(batch["output"][i].argmax() == batch["y"][i])
    assert right > 40  # of 60


def test_a_temperature_makes_it_flatter_and_a_product_multiplies() -> None:
    for combine in ("replace", "product"):
        memory = GaussianMemory(rank=None, seed=0)
        _, batches = evaluated(Case(), [MemoryPredictionPlugin(memory, combine=combine, temperature=3.0, writes=True)])  # type: ignore[arg-type]
        for batch in batches:
            p = floored(memory.predict(batch["x"], classes=CLASSES)).double().numpy() / 3
            if combine == "product":
                p = p + batch["own"].double().numpy()
            expected = p - np.logaddexp.reduce(p, 1, keepdims=True)
            np.testing.assert_allclose(batch["output"].numpy(), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("source", ["replay", "itself", "generated"])
def test_weights_are_fitted_to_rows_of_the_stream(source: str) -> None:
    """And to the very rows that are held, by the network as it is in evaluation."""
    replay = RandomMemory(60, seed=5)
    own: Any = EpisodicMemory(60, seed=1) if source == "itself" else GaussianMemory(rank=None, seed=1)
    plugin = MemoryPredictionPlugin(
        own, combine="product", temperature="fitted", writes=True, fit_rows=replay if source == "replay" else None
    )
    strategy, batches = evaluated(Case(), [MemoryReplayPlugin(replay, seed=5), plugin])
    assert plugin._weights is not None
    if source == "generated":
        rows = copy.deepcopy(own).sample(500)
    else:
        held = replay if source == "replay" else own
        rows = held.rows(torch.arange(60))
    more = {"without_itself": True} if source == "itself" else {}
    with torch.no_grad():
        network = strategy.model.eval()(rows.x).log_softmax(1)
    answers = floored(own.predict(rows.x, classes=CLASSES, **more))
    expected = fit_experts(torch.stack([network, answers]), rows.y)
    torch.testing.assert_close(plugin._weights, expected, rtol=1e-3, atol=1e-3)
    for batch in batches:
        own_part, answer = batch["own"].log_softmax(1), floored(own.predict(batch["x"], classes=CLASSES))
        joint = (expected[0] * own_part + expected[1] * answer).log_softmax(1)
        torch.testing.assert_close(batch["output"], joint, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("case_name", ["x, y, t", "multi-head"])
def test_at_a_layer_its_outputs_are_held(case_name: str, fitted: bool) -> None:
    case, memory = CASES[case_name], GaussianMemory(rank=None, seed=0)
    at = "features" if case_name == "x, y, t" else "model.features"
    plugin = MemoryPredictionPlugin(
        memory, at=at, writes=True, combine="product", temperature="fitted" if fitted else 1.0
    )
    torch.manual_seed(0)
    strategy, batches = evaluated(case, [plugin], lr=1e-9)  # so that what was written stays fresh
    features = dict(strategy.model.named_modules())[at]
    assert memory.shape == (16,)
    for batch in batches:
        with torch.no_grad():
            codes = features(batch["x"])
        for i in range(len(codes)):
            task = int(batch["t"][i]) if case_name == "multi-head" else None
            answer = floored(memory.predict(codes[i : i + 1], classes=CLASSES, task=task))
            assert plugin._weights is not None
            joint = plugin._weights[0] * batch["own"][i : i + 1].log_softmax(1) + plugin._weights[1] * answer
            torch.testing.assert_close(batch["output"][i : i + 1], joint.log_softmax(1), rtol=1e-2, atol=1e-2)


def test_training_and_the_memorys_own_draws_stay_as_they_were() -> None:
    def plugins(beside: bool) -> list[Any]:
        memory = GaussianMemory(rank=2, seed=5)
        more = [MemoryPredictionPlugin(memory, combine="product", temperature="fitted")] if beside else []
        return [MemoryReplayPlugin(memory, seed=5), *more]

    options = CASES["evaluation every epoch"].options
    case = Case(options=options)
    assert torch.equal(weights(run(case, plugins(True))), weights(run(case, plugins(False))))


def test_a_memory_settles_after_each_experience_whatever_the_order_of_plugins() -> None:
    memory = GaussianMemory(rank=None, precision=6, seed=0)
    replay = MemoryReplayPlugin(memory, write_at="experience", seed=0)
    strategy = run(Case(), [MemoryPredictionPlugin(memory), replay])
    assert len(memory._bank.open) == 0
    assert memory.nbytes == memory.settled_nbytes(6, 8)
    assert len(strategy.plugins)


def test_a_plugin_restored_goes_on_exactly() -> None:
    def made() -> MemoryPredictionPlugin:
        return MemoryPredictionPlugin(GaussianMemory(rank=None, precision=8, seed=0), writes=True, write_every=3)

    unstopped, plugin = made(), made()
    run(Case(), [unstopped])
    strategy = build(Case(), [plugin])
    torch.manual_seed(1)
    experiences = list(Case().stream())
    strategy.train(experiences[0], num_workers=0)
    other = made()
    other.load_state_dict(copy.deepcopy(plugin.state_dict()))
    strategy.plugins[strategy.plugins.index(plugin)] = other
    for experience in experiences[1:]:
        strategy.train(experience, num_workers=0)
    for mine, theirs in zip(other.memory.buffers(), unstopped.memory.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_an_output_in_a_tuple_is_replaced_there() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.head(x), x

    memory = GaussianMemory(rank=None, seed=0)
    memory.write(torch.randn(20, 8), torch.arange(20) % 4)
    strategy = build(Case(model=Two), [MemoryPredictionPlugin(memory)])
    seen: list[Any] = []

    class Look(SupervisedPlugin):
        def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
            seen.append(strategy.mb_output)

    strategy.plugins.append(Look())
    strategy._criterion = lambda output, y: output[0].sum()
    strategy.eval(Case().benchmark().test_stream, num_workers=0)
    assert torch.equal(seen[0][0].argmax(1), memory.predict(seen[0][1]).argmax(1))


def test_what_cannot_work_is_told() -> None:
    with pytest.raises(TypeError, match="memory: expected a memory that answers, such as GaussianMemory, got"):
        MemoryPredictionPlugin(RandomMemory(4))
    memory = GaussianMemory()
    memory.write(torch.zeros(1, 8), torch.tensor([9]))
    strategy = build(Case(), [MemoryPredictionPlugin(memory)])
    with pytest.raises(ValueError, match="memory: holds class 9, for which the model of 6 outputs has none"):
        strategy.eval(Case().benchmark().test_stream, num_workers=0)
    with pytest.raises(ValueError, match="at: expected the name of a module of the model, got 'nowhere'"):
        run(Case(), [MemoryPredictionPlugin(GaussianMemory(), at="nowhere", writes=True)])
    plugin = MemoryPredictionPlugin(GaussianMemory())
    strategy = run(Case(), [plugin])
    with pytest.warns(UserWarning, match="memory: nothing was written to it in training"):
        strategy.eval(Case().benchmark().test_stream, num_workers=0)


@pytest.mark.parametrize("case_name", ["x, y, t", "online", "evaluation every iteration"])
def test_a_head_made_anew_from_stored_rows_is_the_discriminant_of_the_features_as_they_are(case_name: str) -> None:
    case, rows = CASES[case_name], RandomMemory(120, write_policy="reservoir", seed=0)
    memory = GaussianMemory(rank=0, tied=True, ridge=0.0, seed=0)
    plugins = [MemoryReplayPlugin(rows, seed=0), MemoryPredictionPlugin(memory, at="features", rows=rows)]
    torch.manual_seed(0)
    strategy, batches = evaluated(case, plugins, lr=0.05)  # a rate at which features move
    held, features = rows.rows(rows.slots()), strategy.model.features
    with torch.no_grad():
        peer = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / CLASSES] * CLASSES, covariance_estimator=None)
        z = features(held.x).double().numpy()
        kept = z.std(0) > 1e-3  # units that never fire say nothing
        peer.fit(z[:, kept], held.y.numpy())
        agree = [
            peer.predict(features(b["x"]).double().numpy()[:, kept]) == b["output"].argmax(1).numpy() for b in batches
        ]
    assert np.concatenate(agree).mean() > 0.9
    assert len(memory) == 120


def test_it_learns_nothing_by_being_evaluated_and_is_not_saved() -> None:
    rows = RandomMemory(60, seed=0)
    plugin = MemoryPredictionPlugin(GaussianMemory(rank=2, precision=6, seed=0), at="features", rows=rows)
    strategy = run(CASES["x, y, t"], [MemoryReplayPlugin(rows, seed=0), plugin])
    before, drawn = weights(strategy), rows._generator.get_state()
    stream = CASES["x, y, t"].benchmark().test_stream
    first = strategy.eval(stream, num_workers=0)
    held = {
        name: value.clone() for name, value in plugin.memory.state_dict().items() if isinstance(value, torch.Tensor)
    }
    assert strategy.eval(stream, num_workers=0) == first
    assert all(torch.equal(value, plugin.memory.state_dict()[name]) for name, value in held.items())
    assert torch.equal(weights(strategy), before)
    assert torch.equal(rows._generator.get_state(), drawn)
    assert plugin.state_dict().keys() == {"iterations"}
    with pytest.raises(ValueError, match="writes: expected False with rows"):
        MemoryPredictionPlugin(GaussianMemory(), rows=rows, writes=True)
    with pytest.raises(ValueError, match="memory: expected an empty one with rows"):
        MemoryPredictionPlugin(plugin.memory, rows=rows)
