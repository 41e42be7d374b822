"""LocalAdaptationPlugin in Avalanche's own loops, against a plain loop over queries."""

import warnings
from copy import deepcopy

import pytest
import torch
from _streams import CASES, CLASSES, FEATURES, Case, build, classic, network, run
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import IncrementalClassifier, avalanche_forward
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.functional import inverse_distance, nearest_relative
from avalanche_memplugins.memories import EpisodicMemory, GaussianMemory
from avalanche_memplugins.plugins import LocalAdaptationPlugin
from avalanche_memplugins.strategies import RMA, MbPA


class Outputs(SupervisedPlugin):
    """Keeps what the metrics see; listed before the plugin under test it keeps the model's own outputs, too."""

    def __init__(self):
        super().__init__()
        self.batches, self.own = [], []

    def after_eval_forward(self, strategy, **kwargs):
        self.own.append(strategy.mb_output.clone())

    def after_eval_iteration(self, strategy, **kwargs):
        batch = strategy.mbatch
        self.batches.append((batch[0], batch[1], batch[-1], strategy.mb_output))


def adapted_by_hand(model, memory, x, task, *, k, steps, lr, beta, kernel, names):
    """One query, one deep copy of the model, autograd."""
    slots = torch.arange(len(memory))
    held = memory.rows(slots)
    if task is not None:
        mine = held.t == task
        held = type(held)(held.x[mine], held.y[mine], held.t[mine], held.origin[mine])
    out = []
    for q in x:
        squared = (held.x - q).double().flatten(1).square().sum(1)
        near = squared.argsort(stable=True)[:k]
        weights = kernel(squared[near].float())
        copy = deepcopy(model).eval()
        chosen = {n: p for n, p in copy.named_parameters() if any(n.startswith(name) for name in names)}
        start = {n: p.detach().clone() for n, p in chosen.items()}
        for _ in range(steps):
            copy.zero_grad()
            logits = avalanche_forward(copy, held.x[near], held.t[near])
            each = nn.functional.cross_entropy(logits, held.y[near], reduction="none")
            (weights * each).sum().backward()
            with torch.no_grad():
                for n, p in chosen.items():
                    if p.grad is None:  # another task's head
                        continue
                    p += -lr * p.grad - beta * (p - start[n])
        labels = None if task is None else torch.tensor([task])
        with torch.no_grad():
            out.append(avalanche_forward(copy, q[None], labels)[0])
    return torch.stack(out)


def evaluate(strategy, case):
    with torch.no_grad():
        strategy.eval(case.benchmark().test_stream, num_workers=0)


@pytest.mark.parametrize("name", CASES)
def test_every_layout_gives_the_loops_predictions_and_leaves_the_model_alone(name):
    case, memory, watch = CASES[name], RandomMemory(60, seed=1), Outputs()
    options = {"neighbours": 5, "steps": 4, "lr": 0.5, "beta": 0.1}
    plugin = LocalAdaptationPlugin(memory, kernel="inverse_distance", **options)
    strategy = run(case, [MemoryReplayPlugin(memory), watch, plugin])
    before = deepcopy(strategy.model.state_dict())
    flags = [(p.requires_grad, p.grad is None) for p in strategy.model.parameters()]
    watch.batches.clear(), watch.own.clear()
    evaluate(strategy, case)
    assert all(torch.equal(v, before[key]) for key, v in strategy.model.state_dict().items())
    assert flags == [(p.requires_grad, p.grad is None) for p in strategy.model.parameters()]
    multi = name == "multi-head"
    names = ["model.classifier", "classifier"]
    for (x, _, t, output), own in zip(watch.batches, watch.own, strict=True):
        task = int(t[0]) if multi else None
        want = adapted_by_hand(
            strategy.model, memory, x[:4], task, names=names, kernel=inverse_distance,
            **{"k": 5, "steps": 4, "lr": 0.5, "beta": 0.1},
        )  # fmt: skip
        torch.testing.assert_close(output[:4], want, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(output, own)


def test_training_is_bitwise_what_it_is_without_the_plugin():
    weights = []
    for extra in (False, True):
        memory = RandomMemory(60, seed=1)
        plugins = [MemoryReplayPlugin(memory), *([LocalAdaptationPlugin(memory)] if extra else [])]
        weights.append(run(CASES["evaluation every epoch"], plugins).model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def deep():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 10),
        nn.ReLU(inplace=True), nn.Linear(10, CLASSES),
    )  # fmt: skip


class Residual(nn.Module):
    """No chain: the last two layers do not follow each other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.side, self.head = nn.Linear(FEATURES, 10), nn.Linear(10, 10), nn.Linear(10, CLASSES)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.head(h + torch.tanh(self.side(h)))


class Softmaxed(nn.Sequential):
    """The head's output is not the model's."""

    def forward(self, x):
        return super().forward(x).log_softmax(1) * 2


@pytest.mark.parametrize(
    ("model", "adapt", "names"),
    [
        (deep, 1, ["6"]),
        (deep, 2, ["4", "6"]),
        (deep, 3, ["0.", "4", "6"]),
        (deep, ["4"], ["4"]),
        (Residual, 1, ["head"]),
        (Residual, 2, ["side", "head"]),
        (Residual, "body", ["body"]),
        (lambda: Softmaxed(*deep()), 1, ["6"]),
    ],
)
@pytest.mark.parametrize("max_bytes", [1, 1 << 26])
def test_any_part_of_a_model_can_be_adapted(model, adapt, names, max_bytes):
    case, memory, watch = Case(model=model), RandomMemory(60, seed=1), Outputs()
    options = {"steps": 3, "lr": 0.2, "beta": 0.05}
    plugin = LocalAdaptationPlugin(memory, neighbours=4, adapt=adapt, max_bytes=max_bytes, **options)
    strategy = run(case, [MemoryReplayPlugin(memory), watch, plugin], lr=0.02, momentum=0.0)
    evaluate(strategy, case)
    x, _, _, output = watch.batches[-1]
    want = adapted_by_hand(strategy.model, memory, x[:5], None, k=4, names=names, kernel=nearest_relative, **options)
    torch.testing.assert_close(output[:5], want, rtol=2e-4, atol=2e-4)


def test_classes_that_a_growing_head_masks_stay_masked():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.features, self.classifier = nn.Linear(FEATURES, 8), IncrementalClassifier(8, CLASSES)

        def forward(self, x):
            return self.classifier(self.features(x).tanh())

    memory, watch = RandomMemory(60), Outputs()
    plugin = LocalAdaptationPlugin(memory)
    strategy = build(Case(model=Growing), [MemoryReplayPlugin(memory), watch, plugin])
    benchmark = classic()
    strategy.train(benchmark.train_stream[0], num_workers=0)
    strategy.eval(benchmark.test_stream[:1], num_workers=0)
    masked = ~strategy.model.classifier.active_units.bool()
    output, own = watch.batches[-1][-1], watch.own[-1]
    assert masked.any()
    assert torch.equal(output[:, masked], own[:, masked])
    assert not torch.allclose(output[:, ~masked], own[:, ~masked])


def test_an_empty_memory_changes_nothing():
    memory, watch = RandomMemory(10), Outputs()
    strategy = build(Case(), [watch, LocalAdaptationPlugin(memory)])
    evaluate(strategy, Case())
    for (*_, output), own in zip(watch.batches, watch.own, strict=True):
        assert torch.equal(output, own)


def test_features_of_memory_rows_are_those_of_the_current_model():
    case, memory, watch = Case(), RandomMemory(60, seed=1), Outputs()
    plugin = LocalAdaptationPlugin(memory, neighbours=4, steps=3, lr=0.3)
    strategy = run(case, [MemoryReplayPlugin(memory), watch, plugin])
    evaluate(strategy, case)
    with torch.no_grad():
        strategy.model.features[0].weight.mul_(-1.5)
    evaluate(strategy, case)
    x, _, _, output = watch.batches[-1]
    want = adapted_by_hand(
        strategy.model, memory, x[:4], None, k=4, steps=3, lr=0.3, beta=0.0, kernel=nearest_relative,
        names=["classifier"],
    )  # fmt: skip
    torch.testing.assert_close(output[:4], want, rtol=1e-4, atol=1e-4)


def test_keys_can_be_a_layer_of_the_model_as_it_is_now():
    case, memory, watch = Case(), RandomMemory(60, seed=1), Outputs()
    plugin = LocalAdaptationPlugin(memory, neighbours=1, steps=200, lr=1.0, key="features")
    strategy = run(case, [MemoryReplayPlugin(memory), watch, plugin])
    evaluate(strategy, case)
    held = memory.rows(torch.arange(len(memory)))
    x, _, _, output = watch.batches[-1]
    with torch.no_grad():
        near = torch.cdist(strategy.model.features(x), strategy.model.features(held.x)).argmin(1)
        by_input = torch.cdist(x, held.x).argmin(1)
    assert torch.equal(output.argmax(1), held.y[near])  # so many steps make it the neighbour's class
    assert not torch.equal(near, by_input)


def test_autocast_gives_the_same_to_its_precision():
    case, memory, watch = Case(), RandomMemory(60, seed=1), Outputs()
    plugin = LocalAdaptationPlugin(memory, neighbours=4, steps=3)
    strategy = run(case, [MemoryReplayPlugin(memory), watch, plugin])
    evaluate(strategy, case)
    exact = watch.batches[-1][-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        evaluate(strategy, case)
    rough = watch.batches[-1][-1]
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.15)


def test_rma_and_mbpa_share_one_memory_and_only_replay_writes():
    model = network()
    strategy = RMA(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.05), train_mb_size=16, evaluator=None,
        mem_size=60, write_every=2,
    )  # fmt: skip
    strategy.plugins.append(LocalAdaptationPlugin(strategy.memory))
    for experience in classic().train_stream:
        strategy.train(experience, num_workers=0)
    seen = strategy.memory.seen
    strategy.eval(classic().test_stream, num_workers=0)
    assert strategy.memory.seen == seen
    assert 0 < seen < 180


@pytest.mark.parametrize("replay", [False, True])
def test_mbpa_strategy_beats_the_plain_model(replay):
    scores = {}
    for kind in ("plain", "MbPA"):
        model = network()
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True))
        common = {
            "model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.05), "train_mb_size": 16,
            "eval_mb_size": 64, "evaluator": evaluator,
        }  # fmt: skip
        strategy = Naive(**common) if kind == "plain" else MbPA(mem_size=90, replay=replay, **common)
        for experience in classic().train_stream:
            strategy.train(experience, num_workers=0)
        result = strategy.eval(classic().test_stream, num_workers=0)
        scores[kind] = next(v for key, v in result.items() if key.startswith("Top1_Acc_Stream"))
    assert isinstance(strategy.memory, EpisodicMemory)
    assert strategy.memory.seen == 180
    assert scores["MbPA"] > scores["plain"] + 0.2


def test_state_carries_the_memory_that_it_writes():
    first = LocalAdaptationPlugin(RandomMemory(40, seed=1), writes=True, write_every=2)
    run(Case(), [first])
    second = LocalAdaptationPlugin(RandomMemory(40, seed=2), writes=True, write_every=2)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.memory.rows(torch.arange(40)).x, first.memory.rows(torch.arange(40)).x)
    assert "memory" not in LocalAdaptationPlugin(RandomMemory(4)).state_dict()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"neighbours": 0}, "neighbours"), ({"steps": -1}, "steps"), ({"lr": 0}, "lr"), ({"beta": 2}, "beta"),
        ({"kernel": "cosine"}, "kernel"), ({"adapt": 0}, "adapt"), ({"max_bytes": 0}, "max_bytes"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        LocalAdaptationPlugin(RandomMemory(4), **options)


@pytest.mark.parametrize("adapt", [["head"], 5])
def test_a_part_that_is_not_there_is_named(adapt):
    memory = RandomMemory(60)
    plugin = LocalAdaptationPlugin(memory, adapt=adapt)
    strategy = run(Case(), [MemoryReplayPlugin(memory), plugin])
    with pytest.raises(ValueError, match="adapt"):
        evaluate(strategy, Case())


@pytest.mark.parametrize("memory", [GaussianMemory(), None])
def test_a_memory_without_rows_to_search_is_named(memory):
    with pytest.raises(TypeError, match=r"memory: expected a RandomMemory .*, got (Gaussian|None)"):
        LocalAdaptationPlugin(memory)


def test_a_memory_that_nobody_writes_is_told_of():
    strategy = build(Case(), [LocalAdaptationPlugin(RandomMemory(60))])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        evaluate(strategy, Case())
        assert not [w for w in told if "nothing was written" in str(w.message)]  # nothing trained, nothing missing
        strategy.train(classic().train_stream[0])
        evaluate(strategy, Case())
        assert len([w for w in told if "writes=True" in str(w.message)]) == 1


def test_a_memory_of_other_rows_is_named():
    memory = RandomMemory(60)
    strategy = run(Case(), [MemoryReplayPlugin(memory, at="features"), LocalAdaptationPlugin(memory)])
    with pytest.raises(ValueError, match="memory: expected rows as the model's inputs are"):
        evaluate(strategy, Case())
