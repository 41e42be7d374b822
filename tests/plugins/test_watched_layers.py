"""Latent replay at any module of any model: it works, or it is refused by name before anything is trained."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _streams import CASES, CLASSES, FEATURES, Case, build, network, run, weights
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.models import VisionTransformer, resnet18

from avalanche_memplugins import LatentReplayPlugin, MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.plugins._latent import LatentTap, in_batch_order
from avalanche_memplugins.plugins._wrapped import is_compiled


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Tanh())
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


def whole() -> nn.Module:
    return compiled(Net())


def in_place() -> nn.Module:
    model = Net()
    model.compile(backend="eager")
    return model


def body() -> nn.Module:
    model = Net()
    model.features = compiled(model.features)
    return model


def body_in_place() -> nn.Module:
    model = Net()
    model.features.compile(backend="eager")
    return model


def its_forward() -> nn.Module:
    model = Net()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


class Decorated(Net):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "compiled": whole,
    "compiled in place": in_place,
    "its body compiled": body,
    "its body compiled in place": body_in_place,
    "its forward compiled": its_forward,
    "its class's forward compiled": Decorated,
    "compiled parts in a compiled model": lambda: compiled(body()),
    "data parallel": lambda: nn.DataParallel(Net()),
    "data parallel, compiled": lambda: compiled(nn.DataParallel(Net())),
    "compiled, data parallel": lambda: nn.DataParallel(whole()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(Net()).requires_grad_(True),
}


@pytest.mark.filterwarnings("ignore:.*compile.*")
@pytest.mark.parametrize(
    ("at", "ran_before"),
    [("features.0", False), ("features", True), ("_orig_mod.features.0", True), ("module._orig_mod.features", True)],
)
@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapped_model_is_trained_as_the_plain_one(kind: str, ran_before: bool, at: str) -> None:
    def made() -> nn.Module:
        model = WRAPPED[kind]()
        if ran_before:
            model.eval()(torch.zeros(16, FEATURES))
            model.train()(torch.zeros(16, FEATURES))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
        return model

    def trained(model: Callable[[], nn.Module], at: str) -> tuple[Any, RandomMemory]:
        memory = RandomMemory(40, seed=3)
        return run(Case(model=model), [MemoryReplayPlugin(memory, at=at, write_at="iteration")]), memory

    torch._dynamo.reset()
    plain, held = trained(Net, ".".join(part for part in at.split(".") if part not in ("module", "_orig_mod")))
    strategy, memory = trained(made, at)
    assert torch.equal(weights(strategy), weights(plain))
    assert torch.equal(memory.rows(torch.arange(40)).x, held.rows(torch.arange(40)).x)
    assert [is_compiled(m) for m in strategy.model.modules()] == [is_compiled(m) for m in made().modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in strategy.model.modules())


@pytest.mark.filterwarnings("ignore:.*compile.*")
@pytest.mark.parametrize("at", [None, "features"])
@pytest.mark.parametrize("kind", ["compiled", "compiled in place", "its forward compiled", "data parallel"])
def test_the_old_model_of_a_wrapped_one_is_a_model_of_its_own(kind: str, at: str | None) -> None:
    found = []
    for model in (Net, WRAPPED[kind]):
        plugin = MemoryReplayPlugin(RandomMemory(40, seed=3), labels="soft", at=at, write_at="iteration")
        found.append(weights(run(Case(model=model), [plugin])))
    assert torch.equal(*found)


def test_that_a_model_runs_uncompiled_is_told_once_and_only_where_it_does() -> None:
    for model, times in ((whole, 1), (body, 0), (network, 0)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run(
                Case(model=model),
                [MemoryReplayPlugin(RandomMemory(40), at="features", labels="soft", write_at="iteration")],
            )
        assert len([w for w in told if "runs without torch.compile" in str(w.message)]) == times


def test_a_scripted_model_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, part = torch.jit.script(Net()), Net()
        part.features = torch.jit.script(part.features)
    for model in (whole, part):
        for at in ("features", "features.0"):
            strategy = build(
                Case(model=lambda model=model: model),
                [MemoryReplayPlugin(RandomMemory(9), at=at, write_at="iteration")],
            )
            with pytest.raises(ValueError, match=rf"^at: '{at}' lies in a torch.jit.ScriptModule"):
                strategy.train(Case().benchmark().train_stream[0])


def test_data_parallel_over_several_devices_is_refused() -> None:
    model = nn.DataParallel(Net())
    model.device_ids = [0, 1]
    with pytest.raises(ValueError, match=r"^key: 'features' lies in a DataParallel over 2 devices"):
        LatentTap("features", argument="key").open(model, None)


class Twice(Net):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.act = nn.Linear(FEATURES, FEATURES), nn.ReLU()
        self.same = self.act  # a second name

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.same(self.inner(self.act(x))))


class Recurrent(nn.Module):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.start, self.time_first, self.rnn = nn.Linear(FEATURES, 8), nn.Identity(), nn.LSTM(8, 8)
        self.end, self.head = nn.Identity(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.start(x)
        h = self.time_first(h.expand(self.steps, *h.shape))  # (T, B, F)
        return self.head(self.end(self.rnn(h)[0][-1]))


class Flattened(Net):
    def forward(self, x: Tensor) -> Tensor:
        tokens = self.features(x.repeat(2, 1))  # (2 B, F)
        return self.classifier(tokens.view(2, len(x), -1).mean(0))


class Sized(Net):
    """Looks at the number of its rows; two rows more would go unseen by a reshape."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)[: len(x)])


class Idle(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(FEATURES, 3)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=CLASSES)


Made = Callable[[], nn.Module]
UNFIT: dict[str, tuple[Made, str, str]] = {
    "shared relu": (Twice, "act", "'act' runs 2 times in a forward pass; .* such as 'features'"),
    "its second name": (Twice, "same", "'same' runs 2 times in a forward pass"),
    "relu of a block": (
        lambda: resnet18(num_classes=CLASSES),
        "layer4.1.relu",
        "runs 2 times .* such as 'layer4.1' or",
    ),
    "inside a block": (
        lambda: resnet18(num_classes=CLASSES),
        "layer4.1.conv1",
        "rows cannot be appended .* 'layer4.1'",
    ),
    "time first": (lambda: Recurrent(5), "time_first", "gives 5 rows for 3 rows of input.*such as 'start'"),
    "as many steps as rows": (lambda: Recurrent(16), "time_first", "gives 16 rows for 3 rows"),
    "three steps": (lambda: Recurrent(3), "time_first", "gives 3 rows for 2 rows"),
    "a tuple": (lambda: Recurrent(5), "rnn", "'rnn' gives a tuple"),
    "rows times tokens": (Flattened, "features", "gives 6 rows for 3 rows of input"),
    "rows counted above": (Sized, "features", "rows cannot be appended .*: the model then gives 2 rows, not 3"),
    "patches": (vit, "conv_proj", "rows cannot be appended to the output of 'conv_proj'"),
    "does not run": (Idle, "spare", "'spare' does not run in a forward pass; .* such as 'features'"),
}


def _images(model: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) for m in model.modules())


def _train(model: nn.Module, plugin: Any, rows: int = 16) -> None:
    size = 8 if hasattr(model, "conv_proj") else 32
    shape = (3, size, size) if _images(model) else (FEATURES,)
    data = TensorDataset(torch.randn(2 * rows, *shape), torch.arange(2 * rows) % CLASSES)
    benchmark = benchmark_from_datasets(train=[AvalancheDataset([data])], test=[])
    build(Case(model=lambda: model), [plugin], train_mb_size=rows).train(benchmark.train_stream[0], num_workers=0)


@pytest.mark.parametrize("kind", UNFIT)
def test_a_module_that_does_not_suit_is_told_before_anything_is_trained(kind: str) -> None:
    made, at, message = UNFIT[kind]
    model, memory = made(), RandomMemory(20)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"^at: {'.*' if message[0] != chr(39) else ''}{message}"):
        _train(model, LatentReplayPlugin(memory, at=at, freeze_below=False, write_at="iteration"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not len(memory)
    pickle.dumps(model)


FIT: dict[str, tuple[Made, str]] = {
    "a block": (lambda: resnet18(num_classes=CLASSES), "layer4.1"),
    "pooled": (lambda: resnet18(num_classes=CLASSES), "avgpool"),
    "encoder": (vit, "encoder"),
    "last block": (vit, "encoder.layers.encoder_layer_1"),
    "after the recurrence": (lambda: Recurrent(16), "end"),
    "before it": (lambda: Recurrent(16), "start"),
    "the whole model": (lambda: nn.Sequential(Net()), "0"),
    "beside a shared one": (Twice, "features"),
}


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("kind", FIT)
def test_a_module_that_suits_is_replayed(kind: str, rows: int) -> None:
    made, at = FIT[kind]
    memory, model = RandomMemory(20), made()
    if rows == 1:
        model.eval()
        model.train = lambda mode=True: model  # type: ignore[assignment,method-assign] # batch norm of one row
    plugin = LatentReplayPlugin(memory, at=at, freeze_below=False, write_at="iteration")
    _train(model, plugin, rows)
    assert len(memory) == min(20, 2 * rows)


def test_the_check_changes_nothing_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for checks in (True, False):
        if not checks:
            monkeypatch.setattr("avalanche_memplugins.plugins._latent.check_layer", lambda *args, **options: None)
        strategy = run(
            Case(model=Net), [MemoryReplayPlugin(RandomMemory(40, seed=1), at="features.1", write_at="iteration")]
        )
        states.append(strategy.model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_hooks_of_others_do_not_see_the_check() -> None:
    model, rows = Net(), []
    handles = [m.register_forward_hook(lambda m, args, output: rows.append(len(output))) for m in model.modules()]
    handles += [m.register_forward_pre_hook(lambda m, args: rows.append(len(args[0]))) for m in model.modules()]
    _train(model, MemoryReplayPlugin(RandomMemory(20), at="features.1", replay_size=7, write_at="iteration"), 16)
    assert set(rows) == {16, 23}  # 16 of the stream, and 7 replayed above the layer
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == len(handles)


def test_two_layers_can_be_watched_at_once() -> None:
    low, high = LatentTap("features.0"), LatentTap("features.3")
    model = Net()
    for tap in (low, high):
        tap.open(model, torch.zeros(2, 16))
    assert len(model(torch.randn(5, FEATURES))) == 9
    assert [[len(latent) for latent in tap.close()] for tap in (low, high)] == [[5], [7]]


def test_a_module_that_runs_twice_later_is_refused_then() -> None:
    class Later(Net):
        again = False

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.features(x) + (self.features(x) if self.again else 0))

    model, tap = Later(), LatentTap("features")
    for again in (False, True):
        model.again = again
        tap.open(model, torch.zeros(2, 16))
        if again:
            with pytest.raises(ValueError, match=r"^at: 'features' runs more than once in a forward pass"):
                model(torch.zeros(4, FEATURES))
        else:
            model(torch.zeros(4, FEATURES))
            assert [len(latent) for latent in tap.close()] == [4]
    assert not model.features._forward_hooks


def test_a_module_that_runs_in_train_mode_only_suits() -> None:
    class Aided(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.features[0](x)
            return self.classifier(self.features[2](h) if self.training else h)

    memory = RandomMemory(20)
    run(Case(model=Aided), [MemoryReplayPlugin(memory, at="features.2", write_at="iteration")])
    assert len(memory) == 20


def test_a_multi_task_model_may_run_once_a_task() -> None:
    memory = RandomMemory(40)
    run(CASES["multi-head"], [MemoryReplayPlugin(memory, at="model.features", write_at="iteration")])
    assert len(memory) == 40


def test_rows_that_are_not_the_batchs_are_refused() -> None:
    for latents in ([torch.zeros(2, 3)] * 3, []):
        with pytest.raises(ValueError, match="at: expected 4 rows from the module, one an item, got"):
            in_batch_order(latents, torch.zeros(4))
