"""TensorLoaderPlugin in a strategy: same content as Avalanche's loader, or Avalanche's loader itself."""

from __future__ import annotations

import copy
import os
import pickle
import warnings

import pytest
import torch
from _tensor_data import colours, images, naive, permuted, split, without_tasks
from avalanche.benchmarks import PermutedMNIST, SplitCIFAR10, SplitFMNIST, SplitMNIST
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader, SingleDatasetDataLoader, TaskBalancedDataLoader
from avalanche.core import SupervisedPlugin
from avalanche.models import SimpleMLP, as_multitask
from avalanche.training import Cumulative
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as v1

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.plugins._materialise.loader import TensorLoader
from avalanche_memplugins.plugins._materialise.read import Reader
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin

V1 = v1.Compose([v1.ToTensor(), v1.Normalize((0.49, 0.48, 0.45), (0.2, 0.21, 0.22))])


class Recorder(SupervisedPlugin):
    """Keeps every batch as the model got it."""

    def __init__(self):
        super().__init__()
        self.train, self.eval, self.loaders = [], [], []

    def before_training_exp(self, strategy, **kwargs):
        self.loaders.append(type(strategy.dataloader))

    def before_forward(self, strategy, **kwargs):
        self.train.append([column.clone() for column in strategy.mbatch])

    def before_eval_exp(self, strategy, **kwargs):
        self.loaders.append(type(strategy.dataloader))

    def before_eval_forward(self, strategy, **kwargs):
        self.eval.append([column.clone() for column in strategy.mbatch])


def batches_of(benchmark, plugins, *, size=8, epochs=2, train=None, **kwargs):
    recorder = Recorder()
    strategy = naive(plugins=[*plugins, recorder], size=size, epochs=epochs)
    for experience in train or benchmark.train_stream:
        strategy.train(experience, **kwargs)
        strategy.eval(benchmark.test_stream)
    return recorder


def rows_of(batches):
    """Give the batches' rows as a sorted list of bytes, so that order does not matter."""
    rows = []
    for batch in batches:
        for n in range(len(batch[0])):
            rows.append(tuple(column[n].numpy().tobytes() for column in batch))
    return sorted(rows)


def assert_same_content(benchmark, **kwargs):
    ours = batches_of(benchmark, [TensorLoaderPlugin()], **kwargs)
    theirs = batches_of(benchmark, [], **kwargs)
    assert set(ours.loaders) == {TensorLoader}
    assert TensorLoader not in theirs.loaders
    assert len(ours.train) == len(theirs.train)
    for a, b in zip(ours.train, theirs.train, strict=True):
        assert [(c.shape, c.dtype) for c in a] == [(c.shape, c.dtype) for c in b]
    assert rows_of(ours.train) == rows_of(theirs.train)
    assert len(ours.eval) == len(theirs.eval)
    for a, b in zip(ours.eval, theirs.eval, strict=True):
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "benchmark",
    [
        split(images(datasets.CIFAR10), V1),
        split(colours(), task_labels=True),
        permuted(20),
        without_tasks(),
    ],
    ids=["uint8", "tasks", "permuted", "no task labels"],
)
def test_content_is_that_of_avalanches_loader(benchmark):
    assert_same_content(benchmark)


def test_without_shuffle_the_order_is_avalanches_too():
    benchmark = split(images(datasets.CIFAR10), V1)
    ours = batches_of(benchmark, [TensorLoaderPlugin()], shuffle=False)
    theirs = batches_of(benchmark, [], shuffle=False)
    for a, b in zip(ours.train, theirs.train, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("benchmark", [split(colours(), task_labels=True), without_tasks()])
def test_an_incomplete_batch_can_be_dropped(benchmark):
    ours = batches_of(benchmark, [TensorLoaderPlugin()], epochs=1, drop_last=True)
    theirs = batches_of(benchmark, [], epochs=1, drop_last=True)
    assert [len(b[0]) for b in ours.train] == [len(b[0]) for b in theirs.train]
    assert {len(b[0]) for b in ours.train} == {8}


def several_tasks():
    first = _make_taskaware_classification_dataset(colours(24), task_labels=3)
    second = _make_taskaware_classification_dataset(colours(10, seed=1), task_labels=1)
    third = _make_taskaware_classification_dataset(colours(7, seed=2), task_labels=2)
    return first.concat(second).concat(third)


def test_an_experience_of_several_tasks_is_balanced_as_avalanche_does():
    dataset = several_tasks()
    ours = list(_loader_for(TaskBalancedDataLoader, dataset, oversample_small_groups=True, batch_size=8))
    theirs = list(TaskBalancedDataLoader(dataset, oversample_small_groups=True, batch_size=8, shuffle=False))
    assert len(ours) == len(theirs) > 3
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_groups_that_run_out_drop_out_without_oversampling():
    dataset = several_tasks()
    ours = list(_loader_for(TaskBalancedDataLoader, dataset, batch_size=8))
    theirs = list(TaskBalancedDataLoader(dataset, batch_size=8, shuffle=False))
    assert [len(b[0]) for b in ours] == [len(b[0]) for b in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _loader_for(kind, *args, **kwargs):
    """Let the plugin replace a loader that Avalanche made."""
    strategy = type("Strategy", (), {})()
    strategy.device = torch.device("cpu")
    strategy.dataloader = kind(*args, shuffle=False, **kwargs)
    TensorLoaderPlugin().before_training_exp(strategy)
    assert isinstance(strategy.dataloader, TensorLoader)
    return strategy.dataloader


@pytest.mark.parametrize("balanced", [False, True])
def test_the_loader_of_avalanches_replay_is_served_as_well(balanced):
    data, memory = split(colours(), experiences=2).train_stream
    kwargs = {"batch_size": 8, "batch_size_mem": 4, "task_balanced_dataloader": balanced}
    kwargs["oversample_small_tasks"] = True
    memory = memory.dataset.subset(range(6))
    ours = list(_loader_for(ReplayDataLoader, data.dataset, memory, **kwargs))
    theirs = list(ReplayDataLoader(data.dataset, memory, shuffle=False, **kwargs))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_replay_plugin_rehearses_with_us_before_and_after():
    for position in (0, 1):
        replay = ReplayPlugin(mem_size=10, storage_policy=ReservoirSamplingBuffer(10))
        plugins = [replay]
        plugins.insert(position, TensorLoaderPlugin())
        recorder = batches_of(split(images(datasets.CIFAR10), V1), plugins, epochs=1)
        assert recorder.loaders[0] is TensorLoader
        # Before ReplayPlugin, its own loader of the second experience is left alone.
        later = [kind for kind in recorder.loaders if kind is ReplayDataLoader]
        assert len(later) == (1 if position == 0 else 0)
        assert [len(b[0]) for b in recorder.train] == [8, 8, 8, 6, 16, 10, 16, 8]


def test_a_data_set_that_a_strategy_adapts_is_honoured():
    recorder, model = Recorder(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))
    strategy = Cumulative(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=10,
        plugins=[TensorLoaderPlugin(), recorder],
        evaluator=None,
    )
    strategy.train(split(colours()).train_stream)
    assert [len(b[0]) for b in recorder.train] == [10] * (3 + 6)
    assert len(set(rows_of(recorder.train[3:]))) == 60


def test_a_plugin_that_adapts_the_data_set_is_honoured():
    class Half(SupervisedPlugin):
        def after_train_dataset_adaptation(self, strategy, **kwargs):
            strategy.adapted_dataset = strategy.adapted_dataset.subset(range(0, 30, 2))

    recorder = Recorder()
    naive(plugins=[Half(), TensorLoaderPlugin(), recorder]).train(split(colours()).train_stream[0])
    assert sum(len(b[0]) for b in recorder.train) == 15


def test_online_streams():
    benchmark = split(images(datasets.CIFAR10), V1)
    stream = list(split_online_stream(benchmark.train_stream, 10, seed=0))
    plugin = TensorLoaderPlugin()
    recorder = batches_of(benchmark, [plugin], train=stream, epochs=1, size=10)
    assert set(recorder.loaders) == {TensorLoader}
    assert len(recorder.train) == 6
    assert len(set(rows_of(recorder.train))) == 60
    assert len(plugin._cache._blocks) == 1  # both streams read the same rows in the same way


def test_multi_head_models_and_periodic_evaluation_by_iteration():
    benchmark = split(images(datasets.CIFAR10), V1, task_labels=True)
    model = as_multitask(SimpleMLP(input_size=192, num_classes=4, hidden_size=8), "classifier")
    strategy = naive(model, [TensorLoaderPlugin()], eval_every=2, peval_mode="iteration")
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[benchmark.test_stream])
    assert strategy.clock.train_iterations == 8


def test_evaluation_data_is_read_once(monkeypatch):
    read = []
    original = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, rows, *more: read.append(len(rows)) or original(self, rows, *more))
    benchmark = split(images(datasets.CIFAR10), V1)
    strategy = naive(plugins=[TensorLoaderPlugin()])
    strategy.train(benchmark.train_stream[0])
    strategy.eval(benchmark.test_stream)
    before = sum(read)
    strategy.train(benchmark.train_stream[1])
    strategy.eval(benchmark.test_stream)
    strategy.eval(benchmark.train_stream)
    assert before >= 60
    assert sum(read) == before  # training rows are those of the tests here, and go through the same transforms


def run(benchmark, plugin, *, stop_after=None, resume=None):
    torch.manual_seed(1)
    strategy = naive(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4)), [plugin], epochs=2)
    for number, experience in enumerate(benchmark.train_stream):
        if resume is not None and number <= resume[0]:
            continue
        if resume is not None and number == resume[0] + 1:
            strategy.model.load_state_dict(resume[1])
            plugin.load_state_dict(resume[2])
        strategy.train(experience)
        if stop_after == number:
            return number, copy.deepcopy(strategy.model.state_dict()), copy.deepcopy(plugin.state_dict())
    return strategy.model.state_dict()


def test_runs_repeat_and_resume_bit_by_bit():
    benchmark = split(colours(), experiences=4)
    once = run(benchmark, TensorLoaderPlugin(seed=5))
    again = run(benchmark, TensorLoaderPlugin(seed=5))
    other = run(benchmark, TensorLoaderPlugin(seed=6))
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert not all(torch.equal(once[key], other[key]) for key in once)
    half = run(benchmark, TensorLoaderPlugin(seed=5), stop_after=1)
    resumed = run(benchmark, TensorLoaderPlugin(seed=99), resume=half)
    assert all(torch.equal(once[key], resumed[key]) for key in once)


def test_a_bad_state_is_named():
    plugin = TensorLoaderPlugin()
    with pytest.raises(ValueError, match="train"):
        plugin.load_state_dict({})
    state = plugin.state_dict()
    other = TensorLoaderPlugin(seed=9).state_dict()
    with pytest.raises(ValueError, match="eval"):
        plugin.load_state_dict({**other, "eval": torch.zeros(3)})
    assert all(torch.equal(state[name], value) for name, value in plugin.state_dict().items())


def test_pickling_takes_the_settings_and_the_generators_only():
    benchmark = split(images(datasets.CIFAR10, 400), V1)
    plugin = TensorLoaderPlugin(max_bytes=10**8, seed=3)
    strategy = naive(plugins=[plugin])
    strategy.train(benchmark.train_stream)
    assert plugin.nbytes > 100_000
    data = pickle.dumps(plugin)
    assert len(data) < 40_000
    loaded = pickle.loads(data)
    assert loaded.nbytes == 0
    assert loaded.max_bytes == 10**8
    assert all(torch.equal(a, b) for a, b in zip(*(p.state_dict().values() for p in (plugin, loaded)), strict=True))
    naive(plugins=[loaded]).train(benchmark.train_stream[0])


def warnings_of(benchmark, plugin, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorder = batches_of(benchmark, [plugin], **kwargs)
    found = [str(w.message) for w in caught if "TensorLoaderPlugin" in str(w.message)]
    return found, recorder


def test_random_transforms_stay_with_avalanche_and_one_warning():
    transform = v1.Compose([v1.RandomHorizontalFlip(), V1])
    found, recorder = warnings_of(split(images(datasets.CIFAR10), transform), TensorLoaderPlugin())
    assert len(found) == 1
    assert "RandomHorizontalFlip" in found[0]
    assert "augment" in found[0]
    assert TensorLoader not in recorder.loaders
    assert len(recorder.train) == 16


def test_what_does_not_fit_stays_with_avalanche_and_one_warning():
    found, recorder = warnings_of(split(images(datasets.CIFAR10), V1), TensorLoaderPlugin(max_bytes=1000))
    assert len(found) == 1
    assert "max_bytes=1,000" in found[0]
    assert TensorLoader not in recorder.loaders


def test_a_collate_function_of_its_own_stays_with_avalanche():
    benchmark = split(colours())
    for experience in benchmark.train_stream:
        experience.dataset.collate_fn = lambda batch: torch.utils.data.default_collate(batch)
    found, recorder = warnings_of(benchmark, TensorLoaderPlugin(evaluate=False))
    assert len(found) == 1
    assert "collate_fn" in found[0]
    assert TaskBalancedDataLoader in recorder.loaders


def test_served_data_warns_of_nothing():
    found, _ = warnings_of(split(images(datasets.CIFAR10), V1), TensorLoaderPlugin())
    assert found == []


def test_other_plugins_can_have_their_loaders_served():
    benchmark = split(images(datasets.CIFAR10), V1)
    dataset = benchmark.train_stream[0].dataset.eval()
    loader = SingleDatasetDataLoader(dataset, batch_size=7, generator=torch.Generator())
    plugin = TensorLoaderPlugin(augment=Flip())
    served = plugin.serve(loader, torch.device("cpu"))
    assert isinstance(served, TensorLoader)
    for a, b in zip(served, loader, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    with pytest.warns(UserWarning, match="evaluation data"):
        assert TensorLoaderPlugin(max_bytes=10).serve(loader, torch.device("cpu")) is loader


def test_memory_written_after_an_experience_is_the_same_with_and_without():
    memories = []
    for plugins in ([], [TensorLoaderPlugin()]):
        replay = MemoryReplayPlugin(RandomMemory(20, seed=2), write_at="experience")
        strategy = naive(plugins=[replay, *plugins])
        strategy.train(split(images(datasets.CIFAR10), V1).train_stream)
        memories.append(replay.memory.rows(torch.arange(20)))
    for a, b in zip(memories[0][:4], memories[1][:4], strict=True):
        assert torch.equal(a, b)


def test_phases_can_be_switched_off():
    recorder = batches_of(split(colours()), [TensorLoaderPlugin(train=False)])
    assert recorder.loaders.count(TensorLoader) == 4
    recorder = batches_of(split(colours()), [TensorLoaderPlugin(evaluate=False)])
    assert recorder.loaders.count(TensorLoader) == 2


class Flip(torch.nn.Module):
    """Flips each image of a batch or not."""

    def forward(self, x):
        flip = torch.rand(len(x)) < 0.5
        return torch.where(flip[:, None, None, None], x.flip(-1), x)


def test_augmentation_applies_to_training_and_follows_the_plugins_generator():
    benchmark = split(colours(), experiences=1)
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        plugin = TensorLoaderPlugin(augment=Flip(), seed=4)
        runs.append(batches_of(benchmark, [plugin], epochs=1))
    for a, b in zip(runs[0].train, runs[1].train, strict=True):
        assert torch.equal(a[0], b[0])
    plain = {row[0] for row in rows_of(batches_of(benchmark, []).eval)}
    flipped = {x.flip(-1).numpy().tobytes() for batch in runs[0].train for x in batch[0]}
    direct = {x.numpy().tobytes() for batch in runs[0].train for x in batch[0]}
    assert len(direct & plain) > 10
    assert len(flipped & plain) > 10
    assert len(direct & plain) + len(flipped & plain) == 60
    assert {row[0] for row in rows_of(runs[0].eval)} == plain


def test_augmentation_leaves_the_global_generator_alone():
    plugin = TensorLoaderPlugin(augment=Flip())
    strategy = naive(plugins=[plugin])
    torch.manual_seed(7)
    strategy.train(split(colours()).train_stream[0])
    after = torch.rand(1)
    strategy = naive(plugins=[TensorLoaderPlugin()])
    torch.manual_seed(7)
    strategy.train(split(colours()).train_stream[0])
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "1GB"])
def test_bad_limits_are_named(bad):
    with pytest.raises(ValueError, match="max_bytes"):
        TensorLoaderPlugin(max_bytes=bad)


def test_a_bad_augmentation_is_named():
    with pytest.raises(TypeError, match="augment"):
        TensorLoaderPlugin(augment=3)


def test_batches_are_the_callers_own():
    class Vandal(SupervisedPlugin):
        def after_update(self, strategy, **kwargs):
            for column in strategy.mbatch:
                column.zero_()

    benchmark = split(colours())
    recorder = Recorder()
    strategy = naive(plugins=[TensorLoaderPlugin(), recorder, Vandal()], epochs=2)
    strategy.train(benchmark.train_stream[0])
    assert rows_of(recorder.train[:4]) == rows_of(recorder.train[4:])


@pytest.mark.data
@pytest.mark.parametrize("build", [SplitMNIST, PermutedMNIST, SplitFMNIST, SplitCIFAR10])
def test_real_benchmarks_have_the_same_content(build):
    kwargs = {"train_transform": V1} if build is SplitCIFAR10 else {}
    benchmark = build(5, seed=0, dataset_root=os.environ["MEMPLUGINS_DATA"], **kwargs)
    for stream, group in ((benchmark.train_stream, "train"), (benchmark.test_stream, "eval")):
        dataset = stream[3].dataset.with_transforms(group)
        loader = _loader_for(TaskBalancedDataLoader, dataset, oversample_small_groups=True, batch_size=500)
        theirs = DataLoader(dataset, batch_size=500, collate_fn=dataset.collate_fn)
        assert len(loader) == len(theirs)
        for a, b in zip(loader, theirs, strict=True):
            assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


@pytest.mark.gpu
def test_feeding_on_a_gpu_never_waits_for_it():
    benchmark = split(images(datasets.CIFAR10), V1)
    recorder = Recorder()
    strategy = naive(plugins=[TensorLoaderPlugin(), recorder], device="cuda", epochs=2)
    strategy.train(benchmark.train_stream[0])
    loader = _loader_on_gpu(benchmark)
    list(loader)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(loader)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(column.is_cuda for batch in batches for column in batch)


def _loader_on_gpu(benchmark):
    strategy = type("Strategy", (), {})()
    strategy.device = torch.device("cuda")
    dataset = benchmark.train_stream[0].dataset
    strategy.dataloader = TaskBalancedDataLoader(dataset, batch_size=8, shuffle=True)
    TensorLoaderPlugin().before_training_exp(strategy)
    return strategy.dataloader
