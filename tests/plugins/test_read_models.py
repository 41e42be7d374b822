"""MbPA and nearest neighbours beside models of every kind, against the plain answer worked out apart."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _streams import CASES, CLASSES, FEATURES, Case, build, classic, run
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule, NCMClassifier
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from avalanche_memplugins import (
    EpisodicMemory,
    LocalAdaptationPlugin,
    MemoryReplayPlugin,
    NearestNeighbourPlugin,
    RandomMemory,
)
from avalanche_memplugins.memories.episodic_index import EpisodicIndex


class Keep(SupervisedPlugin):
    """Rows and the outputs that metrics see, of the last evaluation."""

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        self.batches: list[tuple[Tensor, Any]] = []

    def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.batches.append((strategy.mbatch[0], strategy.mb_output))


class Net(nn.Module):
    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.LayerNorm(16), nn.Tanh())
        self.classifier = nn.Linear(16, CLASSES) if head is None else head

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Residual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        return self.classifier(h + self.side(h).tanh())


Plugin = Callable[[RandomMemory], Any]
READERS: dict[str, Plugin] = {
    "head": lambda memory: LocalAdaptationPlugin(memory, neighbours=4, steps=3),
    "two layers": lambda memory: LocalAdaptationPlugin(memory, neighbours=4, steps=3, lr=0.1, adapt=2),
    "by name": lambda memory: LocalAdaptationPlugin(memory, neighbours=4, steps=3, lr=0.1, adapt="features"),
    "key": lambda memory: LocalAdaptationPlugin(memory, neighbours=4, steps=3, key="features"),
    "votes": lambda memory: NearestNeighbourPlugin(memory, neighbours=3, mix=0.5),
    "votes, key": lambda memory: NearestNeighbourPlugin(memory, neighbours=3, key="features"),
}


def typed(dtype: torch.dtype) -> Any:
    g = torch.Generator().manual_seed(0)
    sets = []
    for first in (0, 2, 4):
        y = torch.randint(0, 2, (48,), generator=g) + first
        x = 0.3 * torch.randn(48, FEATURES, generator=g)
        x[torch.arange(48), y] += 3
        sets.append(AvalancheDataset([TensorDataset(x.to(dtype), y)]))
    return benchmark_from_datasets(train=sets, test=sets)


def filled() -> RandomMemory:
    memory = RandomMemory(60, seed=1)
    for experience in typed(torch.float32).train_stream:
        x, y = (torch.stack(column) for column in zip(*(row[:2] for row in experience.dataset), strict=True))
        memory.write(x, y)
    return memory


def outputs(model: Callable[[], nn.Module], benchmark: Callable[[], Any], reader: Plugin, **options: Any) -> Any:
    """What metrics see after training with lr 0, so that models of all types hold the same weights."""
    memory, keep = RandomMemory(60, seed=1), Keep()
    strategy = build(
        Case(model=model), [MemoryReplayPlugin(memory, write_at="iteration"), reader(memory), keep], lr=0.0, **options
    )
    torch.manual_seed(1)
    for experience in benchmark().train_stream:
        strategy.train(experience, num_workers=0)
    before = copy.deepcopy(strategy.model.state_dict())
    strategy.eval(benchmark().test_stream, num_workers=0)
    assert all(torch.equal(value, before[name]) for name, value in strategy.model.state_dict().items())
    return keep.batches


@pytest.mark.parametrize("model", [Net, Residual])
@pytest.mark.parametrize("reader", READERS)
def test_models_of_every_floating_type_answer_alike(reader: str, model: Callable[[], nn.Module]) -> None:
    exact = outputs(lambda: model().double(), lambda: typed(torch.float64), READERS[reader])
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.bfloat16, 0.4), (torch.float16, 0.06)):
        rough = outputs(lambda dtype=dtype: model().to(dtype), lambda dtype=dtype: typed(dtype), READERS[reader])
        for (x, wanted), (_, got) in zip(exact, rough, strict=True):
            assert (wanted.dtype, got.dtype, len(got)) == (torch.float64, dtype, len(x))
            off = (got.double() - wanted).abs()
            # Rounded queries may have other neighbours.
            assert off.median() < tolerance
            assert off.quantile(0.8) < 4 * tolerance


@pytest.mark.parametrize("reader", ["head", "by name", "key", "votes, key"])
def test_a_memory_may_hold_rows_of_another_type_than_the_model_takes(reader: str) -> None:
    memory, keep = filled(), Keep()
    model = Net().double()
    strategy = build(Case(model=lambda: model), [READERS[reader](memory), keep])
    strategy.eval(typed(torch.float64).test_stream, num_workers=0)
    assert all(output.dtype == torch.float64 and output.isfinite().all() for _, output in keep.batches)


class Tokens(nn.Module):
    """Takes integers and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.features, self.classifier = nn.Embedding(50, 8), nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        assert not x.is_floating_point()
        return self.classifier(self.features(self.embedding(x).mean(1)).tanh())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("reader", READERS)
def test_token_ids_stay_integers(reader: str, dtype: torch.dtype) -> None:
    def tokens() -> Any:
        g = torch.Generator().manual_seed(0)
        y = torch.arange(90) % CLASSES
        x = (torch.randint(0, 8, (90, 5), generator=g) + 8 * y[:, None]).to(dtype)
        part = [AvalancheDataset([TensorDataset(x, y)])]
        return benchmark_from_datasets(train=part, test=part)

    for x, output in outputs(Tokens, tokens, READERS[reader]):
        assert x.dtype == dtype
        assert output.isfinite().all()


class Growing(Net):
    def __init__(self) -> None:
        super().__init__(IncrementalClassifier(16, 2))


class Unmasked(Net):
    def __init__(self) -> None:
        super().__init__(IncrementalClassifier(16, 2, masking=False))


@pytest.mark.parametrize("head", [Growing, Unmasked])
@pytest.mark.parametrize("reader", READERS)
def test_a_head_that_grows_within_an_evaluation_answers_as_in_evaluations_apart(reader: str, head: Any) -> None:
    memory, keep = RandomMemory(60, seed=1), Keep()
    strategy = build(
        Case(model=head), [MemoryReplayPlugin(memory, write_at="iteration"), READERS[reader](memory), keep]
    )
    for experience in classic().train_stream:
        strategy.train(experience, num_workers=0)
        apart = copy.deepcopy(strategy)
        strategy.eval(classic().test_stream, num_workers=0)
        at_once = [output for _, output in keep.batches]
        assert all(output.isfinite().all() for output in at_once)
        if head is Unmasked:  # new units are drawn anew
            continue
        its_own = next(p for p in apart.plugins if isinstance(p, Keep))
        for test, output in zip(classic().test_stream, at_once, strict=True):
            apart.eval([test], num_workers=0)
            assert torch.allclose(its_own.batches[-1][1], output, rtol=1e-4, atol=1e-5)


class OwnHeads(MultiTaskModule):
    """Heads of different widths."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.classifier = nn.Linear(FEATURES, 16), MultiHeadClassifier(16, 2)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        return self.classifier(self.features(x).tanh(), task_labels)


@pytest.mark.parametrize("model", [CASES["multi-head"].model, OwnHeads])
@pytest.mark.parametrize("reader", ["head", "two layers", "votes"])
def test_several_heads_answer_batch_by_batch_and_unseen_tasks_by_the_model_alone(reader: str, model: Any) -> None:
    memory, keep = RandomMemory(12, seed=1), Keep()
    case = Case(lambda: classic(True), model)
    strategy = build(
        case, [MemoryReplayPlugin(memory, write_at="iteration"), READERS[reader](memory), keep], eval_mb_size=5
    )
    for number, experience in enumerate(case.benchmark().train_stream):
        strategy.train(experience, num_workers=0)
        strategy.eval(case.benchmark().test_stream, num_workers=0)
        answers = list(keep.batches)
        own = copy.deepcopy(strategy)
        own.plugins = [p for p in own.plugins if not hasattr(p, "memory")]
        own.eval(case.benchmark().test_stream, num_workers=0)
        alone = next(p for p in own.plugins if isinstance(p, Keep)).batches
        assert len(answers) == 12
        for i, ((_, got), (_, plain)) in enumerate(zip(answers, alone, strict=True)):
            # Avalanche pads to the widest head met, which the first evaluation has made wider.
            assert torch.equal(got, plain[:, : got.shape[1]]) == (i // 4 > number)


Pair = namedtuple("Pair", ["features", "logits"])


class Output(OrderedDict):
    """As Hugging Face has it."""

    @property
    def logits(self) -> Tensor:
        return self["logits"]


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda logits, h: (logits, h.unsqueeze(1)),
    "first of two": lambda logits, h: (logits, h),
    "list": lambda logits, h: [h.unsqueeze(1), logits],
    "named tuple": lambda logits, h: Pair(h, logits),
    "dict": lambda logits, h: {"hidden": h, "logits": logits},
    "one in a dict": lambda logits, h: {"out": logits, "count": len(h)},
    "mapping": lambda logits, h: Output(loss=None, logits=logits, hidden=h),
}


def logits_in(output: Any) -> Tensor:
    entries = list(output.values()) if isinstance(output, dict) else list(output)
    return next(e for e in entries if isinstance(e, Tensor) and e.ndim == 2 and e.shape[1] == CLASSES)


class Formed(Net):
    form = FORMS["tuple"]
    base: type[nn.Module] = Net

    def forward(self, x: Tensor) -> Any:
        h = self.features(x)
        return type(self).form(self.classifier(h), h)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_logits_are_replaced_in_what_the_model_gives(reader: str, form: str) -> None:
    found = {}
    for kind in (Net, type("It", (Formed,), {"form": staticmethod(FORMS[form])})):
        memory, keep = filled(), Keep()
        strategy = build(Case(model=kind), [READERS[reader](memory), keep])
        strategy._criterion = lambda output, y: nn.functional.cross_entropy(
            output if isinstance(output, Tensor) else logits_in(output), y
        )
        strategy.eval(typed(torch.float32).test_stream, num_workers=0)
        found[kind.__name__] = keep.batches
    for (x, got), (_, wanted) in zip(found["It"], found["Net"], strict=True):
        expected = FORMS[form](wanted, x)
        assert type(got) is type(expected)
        assert torch.allclose(logits_in(got), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        lambda logits, h: {"a": logits, "b": logits},
        lambda logits, h: h.unsqueeze(1),
        lambda logits, h: (),
    ],
)
@pytest.mark.parametrize("reader", ["head", "votes"])
def test_outputs_without_clear_logits_are_refused(reader: str, form: Any) -> None:
    memory = RandomMemory(60)
    memory.write(torch.zeros(4, FEATURES), torch.arange(4))
    model = type("It", (Formed,), {"form": staticmethod(form)})
    strategy = build(Case(model=model), [READERS[reader](memory)])
    with pytest.raises(ValueError, match=r"^model: expected logits \(48, classes\), alone"):
        strategy.eval(typed(torch.float32).test_stream, num_workers=0)


def in_place() -> nn.Module:
    model = Net()
    model.features.compile(backend="eager")
    model.compile(backend="eager")
    return model


WRAPPERS: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "compiled in place": in_place,
    "data parallel": lambda: nn.DataParallel(Net()),
    "both": lambda: nn.DataParallel(torch.compile(Net(), backend="eager")),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("reader", READERS)
def test_a_wrapped_model_answers_as_the_plain_one(reader: str, wrapper: str) -> None:
    plain = outputs(Net, lambda: typed(torch.float32), READERS[reader])
    wrapped = outputs(WRAPPERS[wrapper], lambda: typed(torch.float32), READERS[reader])
    for (_, wanted), (_, got) in zip(plain, wrapped, strict=True):
        assert torch.allclose(got, wanted, atol=1e-5)


class LowRank(nn.Linear):
    def __init__(self) -> None:
        super().__init__(16, CLASSES)
        self.a, self.b = nn.Parameter(torch.randn(16, 2)), nn.Parameter(torch.randn(2, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.a @ self.b


@pytest.mark.parametrize(
    "head", [LowRank, lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, CLASSES))], ids=["lora", "normed"]
)
def test_linear_layers_with_more_to_them_are_adapted_whole(head: Any) -> None:
    """Against the same head as a module of another kind, which always runs as a whole."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = head()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + 0  # no chain: the output is not the layer's

    def made(kind: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(3)
        return Net(kind())

    results = []
    for kind in (head, Hidden):
        reader = lambda memory: LocalAdaptationPlugin(memory, neighbours=4, steps=3, adapt="classifier")  # noqa: E731
        torch.manual_seed(3)
        model = Net(kind())
        torch.manual_seed(4)
        for p in model.classifier.parameters():
            nn.init.normal_(p)
        results.append(outputs(lambda model=model: model, lambda: typed(torch.float32), reader))
    for (_, a), (_, b) in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("reader", ["votes", "by name", "head"])
def test_a_head_of_class_means(reader: str) -> None:
    class Means(Net):
        def __init__(self) -> None:
            super().__init__(NCMClassifier(normalize=False))
            self.classifier.update_class_means_dict({c: torch.randn(16) for c in range(CLASSES)})

    memory, keep = filled(), Keep()
    strategy = build(Case(model=Means), [READERS[reader](memory), keep])
    strategy.eval(classic().test_stream, num_workers=0)
    assert all(output.isfinite().all() for _, output in keep.batches)


@pytest.mark.parametrize("reader", READERS)
def test_more_neighbours_than_rows_strided_rows_and_inference_mode(reader: str) -> None:
    memory, keep = RandomMemory(60), Keep()
    memory.write(torch.randn(2, FEATURES), torch.tensor([1, 4]))
    strategy = build(Case(model=Net), [READERS[reader](memory), keep])
    x = torch.randn(FEATURES, 20).T
    assert not x.is_contiguous()
    data = [AvalancheDataset([TensorDataset(x, torch.arange(20) % CLASSES)])]
    with torch.inference_mode():
        strategy.eval(benchmark_from_datasets(train=data, test=data).test_stream, num_workers=0)
    inside = keep.batches
    strategy.eval(benchmark_from_datasets(train=data, test=data).test_stream, num_workers=0)
    for (_, a), (_, b) in zip(inside, keep.batches, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reader", READERS)
def test_a_class_without_an_output_is_told(reader: str) -> None:
    memory = RandomMemory(4)
    memory.write(torch.zeros(1, FEATURES), torch.tensor([9]))
    strategy = build(Case(model=Residual), [READERS[reader](memory)])
    with pytest.raises(ValueError, match="memory: holds class 9, for which the model of 6 outputs has none"):
        strategy.eval(Case().benchmark().test_stream, num_workers=0)


@pytest.mark.parametrize(
    "batch", [{"x": torch.zeros(2, 8)}, [{"x": torch.zeros(2, 8)}, torch.zeros(2)], [torch.zeros(2)]]
)
@pytest.mark.parametrize("reader", ["head", "votes"])
def test_batches_of_other_kinds_are_refused(reader: str, batch: Any) -> None:
    memory = RandomMemory(4)
    memory.write(torch.zeros(1, FEATURES), torch.tensor([1]))
    strategy = build(Case(model=Net), [])
    strategy.mbatch, strategy.mb_output = batch, torch.zeros(2, CLASSES)
    with pytest.raises(ValueError, match=r"^mbatch: expected \[x, y\] or \[x, y, t\] with x a tensor"):
        READERS[reader](memory).after_eval_forward(strategy)


@pytest.mark.parametrize("reader", READERS)
def test_autocast_and_empty_batches(reader: str) -> None:
    memory, keep = RandomMemory(60), Keep()
    plugin = READERS[reader](memory)
    strategy = run(Case(model=Net), [MemoryReplayPlugin(memory, write_at="iteration"), plugin, keep])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        strategy.eval(classic().test_stream, num_workers=0)
    assert all(output.isfinite().all() for _, output in keep.batches)
    strategy.mbatch = [torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.int64)]
    strategy.mb_output = torch.zeros(0, CLASSES)
    plugin.after_eval_forward(strategy)
    assert strategy.mb_output.shape == (0, CLASSES)


@pytest.mark.parametrize("name", ["classifier", "_orig_mod.classifier", "module.classifier"])
def test_layers_to_adapt_are_named_with_or_without_wrappers(name: str) -> None:
    memory = RandomMemory(60)
    memory.write(torch.randn(9, FEATURES), torch.arange(9) % CLASSES)
    strategy = build(Case(model=WRAPPERS["compiled"]), [LocalAdaptationPlugin(memory, adapt=name, key="features.0")])
    strategy.eval(Case().benchmark().test_stream, num_workers=0)


@pytest.mark.parametrize("key", ["feature", "twice"])
def test_a_key_that_does_not_suit_is_named(key: str) -> None:
    class Twice(Net):
        def __init__(self) -> None:
            super().__init__()
            self.twice = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.twice(self.twice(x)))

    memory = RandomMemory(60)
    memory.write(torch.randn(9, FEATURES), torch.arange(9) % CLASSES)
    strategy = build(Case(model=Twice), [NearestNeighbourPlugin(memory, key=key)])
    with pytest.raises(ValueError, match=rf"^key: .*'{key}'"):
        strategy.eval(Case().benchmark().test_stream, num_workers=0)


@pytest.mark.parametrize(
    "made",
    [
        lambda backend: EpisodicMemory(4, backend=backend),
        lambda backend: EpisodicIndex(RandomMemory(4), backend=backend),
        lambda backend: LocalAdaptationPlugin(RandomMemory(4), backend=backend),
        lambda backend: NearestNeighbourPlugin(RandomMemory(4), backend=backend),
    ],
)
def test_a_backend_that_cannot_be_used_is_told_at_once(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"^backend: 'faiss' needs the package faiss.*avalanche-memplugins\[knn\]"):
        made("faiss")
    with pytest.raises(ValueError, match=r"^backend: "):
        made("faiss")
    with pytest.raises(ValueError, match=r"^backend: expected one of 'torch', 'faiss', got 'annoy'"):
        made("annoy")
