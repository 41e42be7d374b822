"""The tensor loader's engine against Avalanche's own sample-by-sample route."""

from __future__ import annotations

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from _tensor_data import colours, images, permuted, plain, split, without_tasks
from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import AvalancheDataset, TransformGroups, as_classification_dataset
from avalanche.benchmarks.utils.transforms import TupleTransform
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

from avalanche_memplugins.plugins._materialise.cache import TensorCache
from avalanche_memplugins.plugins._materialise.known import flatten, why_unknown
from avalanche_memplugins.plugins._materialise.read import Reader
from avalanche_memplugins.plugins._materialise.resolve import Source, Unsupported, resolve, values_in

CPU = torch.device("cpu")
V1 = v1.Compose([v1.ToTensor(), v1.Normalize((0.49, 0.48, 0.45), (0.2, 0.21, 0.22))])
V2 = v2.Compose(
    [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.49, 0.48, 0.45), (0.2, 0.21, 0.22))]
)
GREY = v1.Compose([v1.ToTensor(), v1.Normalize((0.28,), (0.35,))])


def served(cache, dataset):
    rows = cache.fetch(dataset, CPU)
    return [column[rows.order] for column in rows.columns] + rows.attributes


def assert_served(dataset, *, vectorised=None, cache=None):
    cache = cache or TensorCache(2**24)
    ours, theirs = served(cache, dataset), plain(dataset)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)
    if vectorised is not None:
        assert [reader.vectorised is not None for reader in cache._readers.values()] == [vectorised]


@pytest.mark.parametrize(
    ("data", "transform", "vectorised"),
    [
        (images(datasets.CIFAR10), V1, True),
        (images(datasets.CIFAR10), V2, True),
        (images(datasets.CIFAR100), v1.PILToTensor(), True),
        (images(datasets.SVHN), V1, True),
        (images(datasets.FashionMNIST), GREY, True),
        (images(datasets.MNIST), v1.Compose([v1.ToTensor(), v1.ConvertImageDtype(torch.float64)]), True),
        (images(datasets.EMNIST), v1.Compose([v1.Resize(6), GREY]), False),
        (images(TensorMNIST), v1.Normalize((0.13,), (0.3,)), True),
        (images(TensorMNIST), None, True),
        (images(TensorMNIST), v1.RandomRotation((30, 30)), False),
        (images(TensorMNIST), v1.CenterCrop(6), False),
        (colours(), None, True),
        (colours(), v2.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), True),
    ],
)
def test_split_streams_are_served_bit_by_bit(data, transform, vectorised):
    stream = split(data, transform).train_stream
    for experience in stream:
        assert_served(experience.dataset.train(), vectorised=vectorised)


def test_labels_are_mapped_as_avalanche_maps_them():
    benchmark = split(images(datasets.CIFAR10), V1, class_ids_from_zero_in_each_exp=True)
    for experience in benchmark.train_stream:
        labels = served(TensorCache(2**24), experience.dataset.train())[1]
        assert labels.unique().tolist() == [0, 1]
        assert_served(experience.dataset.train())


def test_permutations_and_task_labels():
    for experience in permuted().train_stream:
        assert_served(experience.dataset.train(), vectorised=True)
    for experience in split(colours(), task_labels=True).train_stream:
        assert_served(experience.dataset.train())
        assert served(TensorCache(2**24), experience.dataset)[2].unique().tolist() == experience.task_labels


def test_batches_without_task_labels():
    for experience in without_tasks().train_stream:
        assert_served(experience.dataset.train())


def test_each_group_of_transforms_is_served_as_its_own():
    data = images(datasets.CIFAR10)
    benchmark = split(data, V1)
    dataset = benchmark.train_stream[0].dataset.replace_current_transform_group(v1.ToTensor())
    cache = TensorCache(2**24)
    assert_served(dataset.train(), cache=cache)
    assert_served(dataset.eval(), cache=cache)
    assert_served(dataset.freeze_transforms(), cache=cache)


def test_subsets_concatenations_and_repeated_rows():
    first, second = (e.dataset for e in split(images(datasets.CIFAR10), V1).train_stream)
    other = split(images(datasets.CIFAR10, seed=5), V1).train_stream[0].dataset
    for dataset in (
        first.subset([3, 3, 1, 0, 3]),
        first.concat(second),
        second.concat(first).subset([25, 0, 40, 40, 7]),
        first.concat(other).subset([50, 2, 30, 2]),
        other.concat(first).concat(second),
        first.subset([5, 6, 7]).concat(other.subset([1, 1])),
    ):
        assert_served(dataset.train())


def test_torch_subset_below_avalanche():
    data = Subset(images(datasets.CIFAR10), [5, 9, 1, 1, 30, 2])
    data.targets = [data.dataset.targets[i] for i in data.indices]
    assert_served(split(data, V1, experiences=1).train_stream[0].dataset.train(), vectorised=True)


def test_a_replay_buffer_of_subset_views():
    buffer = ReservoirSamplingBuffer(max_size=15)
    for experience in split(images(datasets.CIFAR10), V1).train_stream:
        buffer.update_from_dataset(experience.dataset)
    assert_served(buffer.buffer.train())


def test_experiences_of_one_data_set_share_one_block():
    cache = TensorCache(2**24)
    benchmark = split(images(datasets.CIFAR10), V1)
    for experience in benchmark.train_stream:
        served(cache, experience.dataset.train())
    assert len(cache._blocks) == 1
    assert cache.nbytes == 60 * (3 * 8 * 8 * 4 + 8)


def test_online_experiences_read_each_row_once(monkeypatch):
    read = []
    original = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, rows, *more: read.append(len(rows)) or original(self, rows, *more))
    cache = TensorCache(2**24)
    stream = list(split_online_stream(split(images(datasets.CIFAR10), V1).train_stream, 10, seed=0))
    for experience in stream:
        assert_served(experience.dataset.train(), cache=cache)
    before = sum(read)
    for experience in stream:
        assert_served(experience.dataset.train(), cache=cache)
    assert sum(read) == before
    assert len(cache._blocks) == 1


class Custom(Dataset):
    """A data set of a kind that nobody listed."""

    def __init__(self, read):
        self.read = read
        self.targets = [0, 1, 2, 3] * 5

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.read(index), self.targets[index]


def test_unknown_data_is_served_on_the_callers_word():
    data = Custom(lambda index: torch.full((2,), float(index)))
    cache = TensorCache(2**24, assume_deterministic=True)
    for experience in split(data).train_stream:
        assert_served(experience.dataset.train(), vectorised=False, cache=cache)


class Rare(Custom):
    """Augments one row of many."""

    def __init__(self):
        super().__init__(lambda index: torch.rand(2) if index == 13 else torch.full((2,), float(index)))


class Scheduled(Custom):
    """Draws nothing, and gives other rows in the next epoch."""

    def __init__(self):
        super().__init__(lambda index: torch.full((2,), float(index + self.epoch)))
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch


class Noisy(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.randn(()), y


class Lately(TensorDataset):
    """Overrides what the reading looks at."""

    @property
    def tensors(self):
        return self.held[0] + torch.rand(()), self.held[1]

    @tensors.setter
    def tensors(self, value):
        self.held = value


class Grouped(TensorDataset):
    """Nothing but the epoch's number sets it apart."""

    def set_epoch(self, epoch):
        self.tensors = (self.tensors[0] + epoch, self.tensors[1])


class Growing(TensorDataset):
    def __len__(self):
        return min(super().__len__(), 20)


class Repeated(TensorDataset):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class NoisyMNIST(datasets.MNIST):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x, (y + random.randrange(2)) % 4


def labelled(data):
    data.targets = [0, 1, 2, 3] * (len(data) // 4)
    return data


def tensors():
    return torch.rand(20, 2), torch.arange(20) % 4


UNKNOWN_DATA = {
    "lambda": lambda: Custom(lambda index: torch.rand(2)),
    "rare row": Rare,
    "set_epoch": Scheduled,
    "set_epoch on tensors": lambda: labelled(Grouped(*tensors())),
    "own __getitem__": lambda: labelled(Noisy(*tensors())),
    "own __len__": lambda: labelled(Growing(*tensors())),
    "own __getitems__": lambda: labelled(Repeated(*tensors())),
    "own property": lambda: labelled(Lately(*tensors())),
    "own __getitem__ of MNIST": lambda: images(NoisyMNIST),
    "below a subset": lambda: labelled(Subset(Rare(), range(20))),
    "below a concatenation": lambda: labelled(ConcatDataset([Rare()])),
}


@pytest.mark.parametrize("name", UNKNOWN_DATA)
def test_data_that_is_not_known_is_refused_by_name(name):
    data = UNKNOWN_DATA[name]()
    inner = data.dataset if isinstance(data, Subset) else data.datasets[0] if isinstance(data, ConcatDataset) else data
    dataset = split(data, v1.ToTensor() if isinstance(data, datasets.MNIST) else None).train_stream[0].dataset
    with pytest.raises(Unsupported, match=f"the data set {type(inner).__name__} is not known to give the same"):
        served(TensorCache(2**24), dataset.train())
    served(TensorCache(2**24, assume_deterministic=True), dataset.train())


class Labelled(TensorDataset):
    """Adds an attribute and a method; rows are read as ever."""

    def __init__(self, x, y):
        super().__init__(x, y)
        self.targets = y.tolist()

    def classes(self):
        return sorted(set(self.targets))


class Part(datasets.CIFAR10):
    """Knows its own files; rows are read as ever."""

    def _check_integrity(self):
        return True


@pytest.mark.parametrize(
    ("data", "vectorised"),
    [
        (Labelled(*tensors()), True),
        (images(Part), True),
        (images(datasets.KMNIST), True),
        (labelled(ConcatDataset([Labelled(*tensors()), TensorDataset(*tensors())])), None),  # two readers
        (images(datasets.SVHN), True),
    ],
)
def test_classes_that_leave_the_reading_alone_are_known(data, vectorised):
    transform = V1 if isinstance(data, datasets.CIFAR10 | datasets.SVHN) else None
    transform = GREY if isinstance(data, datasets.MNIST) else transform
    for experience in split(data, transform).train_stream:
        assert_served(experience.dataset.train(), vectorised=vectorised)


class Twice(v1.Normalize):
    def forward(self, tensor):
        return super().forward(tensor) * random.random()


class Shaken(TupleTransform):
    def __call__(self, *args):
        return [args[0] + random.random(), *args[1:]]


class Curriculum:
    strength = 0.0

    def __call__(self, x):
        return x * self.strength


def hooked():
    step = v2.Identity()
    step.register_forward_hook(lambda module, args, output: output + torch.rand(()))
    return step


def patched():
    step = torch.nn.Identity()
    step.forward = lambda x: x + torch.rand(())
    return step


UNKNOWN_TRANSFORMS = {
    "RandomCrop": v1.RandomCrop(8, padding=2),
    "RandomHorizontalFlip": v1.RandomHorizontalFlip(),
    "RandomRotation": v1.RandomRotation((10, 20)),
    "RandomErasing": v2.RandomErasing(),
    "RandomApply": v1.RandomApply([torch.nn.Identity()]),
    "Lambda": v1.Lambda(lambda x: x + random.random()),
    "<lambda>": lambda x: x * 2,
    "Twice": Twice((0.1,), (0.2,)),
    "Curriculum": Curriculum(),
    "Identity": hooked(),
    "Identity patched": patched(),
    "Normalize": v1.Normalize((0.1,), (0.2,), inplace=True),
}


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: v1.Compose([v1.Resize(8), t])])
@pytest.mark.parametrize("name", UNKNOWN_TRANSFORMS)
def test_transforms_that_are_not_known_are_refused_by_name(name, wrap):
    dataset = split(images(TensorMNIST), wrap(UNKNOWN_TRANSFORMS[name])).train_stream[0].dataset
    with pytest.raises(Unsupported, match=f"the transform .*{name.split()[0]}.* is not known to give the same"):
        served(TensorCache(2**24), dataset.train())
    served(TensorCache(2**24, assume_deterministic=True), dataset.train())


def test_a_wrapper_of_ones_own_is_not_looked_through():
    shaken = Shaken([v1.Normalize((0.1,), (0.2,)), None])
    assert flatten(shaken) == [shaken]
    data = images(TensorMNIST)
    assert why_unknown(data, (shaken,)) == "the transform Shaken is not known to give the same result every time"
    both = why_unknown(Rare(), (shaken, shaken))
    assert both == "the data set Rare and the transform Shaken are not known to give the same result every time"


def test_classes_of_ones_own_above_the_data_are_refused():
    class Doubled(AvalancheDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x * random.random(), y

    with pytest.raises(Unsupported, match=r"__getitem__ of its own \(Doubled\)"):
        served(TensorCache(2**24, assume_deterministic=True), Doubled([colours()]))

    class Groups(TransformGroups):
        def __call__(self, *args, group_name=None):
            return [args[0][0] * random.random(), *args[0][1:]]

    grouped = AvalancheDataset([colours()], transform_groups=Groups({"train": None}))
    with pytest.raises(Unsupported, match=r"a class of its own \(Groups\)"):
        served(TensorCache(2**24, assume_deterministic=True), grouped)


def change_values(data, step):
    data.tensors[0].mul_(2)


def change_labels(data, step):
    data.tensors[1][:5] = 3


def change_tensors(data, step):
    data.tensors = (torch.rand(60, 3, 4, 4), data.tensors[1])


def change_transform(data, step):
    step.transforms[0].mean = (0.0, 0.0, 0.0)


def add_transform(data, step):
    step.transforms.append(v1.CenterCrop(2))


@pytest.mark.parametrize("change", [change_values, change_labels, change_tensors, change_transform, add_transform])
def test_what_changed_between_experiences_is_read_again(change):
    data, step, cache = colours(), v1.Compose([v1.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))]), TensorCache(2**24)
    dataset = split(data, step, experiences=1).train_stream[0].dataset.train()
    assert_served(dataset, cache=cache)
    before = served(cache, dataset)
    change(data, step)
    assert_served(dataset, cache=cache)
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(before, served(cache, dataset), strict=True))


def test_a_data_set_that_has_grown_is_served_whole():
    data, cache = colours(20), TensorCache(2**24)
    short = split(data, experiences=1).train_stream[0].dataset.train()
    assert_served(short, cache=cache)
    data.tensors = tuple(torch.cat([tensor, tensor]) for tensor in data.tensors)
    data.targets = data.tensors[1].tolist()
    assert_served(split(data, experiences=1).train_stream[0].dataset.train(), cache=cache)
    grown, cache = Custom(lambda index: torch.full((2,), float(index))), TensorCache(2**24, assume_deterministic=True)
    assert_served(split(grown, experiences=1).train_stream[0].dataset.train(), cache=cache)
    grown.targets = [0, 1, 2, 3] * 10
    assert_served(split(grown, experiences=1).train_stream[0].dataset.train(), cache=cache)


def test_nothing_is_read_to_decide(monkeypatch):
    monkeypatch.setattr(Source, "sample", lambda self, row: pytest.fail("read"))
    assert why_unknown(images(datasets.CIFAR10), (V1, v1.RandomRotation((5, 5)))) is None
    assert why_unknown(Rare(), ()) is not None


def test_reading_shifts_no_global_generator():
    dataset = split(images(TensorMNIST), v1.RandomRotation((30, 30))).train_stream[0].dataset
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    served(TensorCache(2**24), dataset.train())
    got = (torch.rand(1).item(), random.random(), np.random.rand())  # noqa: NPY002
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert got == (torch.rand(1).item(), random.random(), np.random.rand())  # noqa: NPY002


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Custom(lambda index: torch.zeros(1 + index)), "shape|collate"),
        (Custom(lambda index: "text"), "collate|str|hold"),
        (images(datasets.CIFAR10), "collate"),  # PIL images: no ToTensor
    ],
)
def test_what_is_no_tensor_is_refused(data, message):
    dataset = split(data, experiences=1).train_stream[0].dataset
    with pytest.raises(Unsupported, match=message):
        served(TensorCache(2**24, assume_deterministic=True), dataset.train())


def test_shapes_that_change_late_are_refused():
    data = Custom(lambda index: torch.zeros(1 + index % 4))
    dataset = split(data, experiences=1).train_stream[0].dataset
    cache = TensorCache(2**24, assume_deterministic=True)
    served(cache, dataset.subset(range(5)).train())
    with pytest.raises(Unsupported, match="differ in shape"):
        served(cache, dataset.subset(range(15, 20)).train())


def test_a_vectorised_pass_that_disagrees_is_dropped():
    source = Source(images(TensorMNIST), ())
    reader = Reader(source)
    reader.vectorised = lambda rows: [torch.zeros(len(rows), 1, 8, 8), torch.zeros(len(rows), dtype=torch.int64)]
    x, _ = reader.read(torch.arange(10))
    assert reader.vectorised is None
    assert torch.equal(x[3], source.sample(3)[0])


def test_bytes_are_limited_and_the_oldest_go_first():
    size = 40 * (64 * 4 + 8)
    stream = permuted(40).train_stream
    cache = TensorCache(2 * size)
    datasets_ = [e.dataset.train() for e in stream]
    for dataset in datasets_:
        assert_served(dataset, cache=cache)
        assert cache.nbytes <= 2 * size
    served(cache, datasets_[1])
    served(cache, datasets_[0])
    kept = {key[0][2] for key in cache._blocks}
    assert kept == {resolve(datasets_[n])[0].source.key[2] for n in (0, 1)}


def test_what_is_pinned_stays():
    size = 40 * (64 * 4 + 8)
    first, second, _ = (e.dataset.train() for e in permuted(40).train_stream)
    cache = TensorCache(size)
    cache.fetch(first, CPU, pin=True)
    with pytest.raises(Unsupported, match="max_bytes"):
        cache.fetch(second, CPU)
    cache.release()
    assert_served(second, cache=cache)


def test_an_experience_fits_where_its_data_set_does_not():
    benchmark = split(images(datasets.CIFAR10), V1)
    dataset = benchmark.train_stream[0].dataset.train()
    cache = TensorCache(30 * (3 * 8 * 8 * 4 + 8))
    assert_served(dataset, cache=cache)
    assert cache.nbytes == 30 * (3 * 8 * 8 * 4 + 8)
    again = benchmark.train_stream[0].dataset.train()
    blocks = list(cache._blocks.values())
    assert_served(again, cache=cache)
    assert list(cache._blocks.values()) == blocks


def test_resolving_needs_an_avalanche_dataset():
    dataset = AvalancheDataset([colours()])
    (part,) = resolve(dataset)
    assert part.rows.tolist() == list(range(60))


def test_data_sets_of_the_past_are_let_go():
    cache = TensorCache(3 * 60 * (48 * 4 + 8))
    alive = []
    for seed in range(60):
        data = colours(seed=seed)
        alive.append(weakref.ref(data))
        assert_served(split(data, experiences=1).train_stream[0].dataset.train(), cache=cache)
        del data
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 3 + 16 + 3
    assert len(cache._verdicts) <= len(cache._readers)


def test_equal_transforms_share_a_block_and_others_do_not():
    data = images(datasets.CIFAR10)

    def block(*steps):
        both = (v1.Compose([v1.ToTensor(), *steps]), None)
        dataset = as_classification_dataset(data, transform_groups=TransformGroups({"train": both, "eval": both}))
        return cache.fetch(dataset, CPU).columns[0]

    cache = TensorCache(2**30, looks=True)
    first = block(v1.Normalize(0.5, 0.5))
    assert block(v1.Normalize(0.5, 0.5)) is first
    assert block(v1.Normalize(0.5, 0.4)) is not first
    hooked = v1.Normalize(0.5, 0.5)
    hooked.register_forward_hook(lambda module, args, out: out + torch.randn_like(out))
    with pytest.raises(Unsupported, match="Normalize"):
        block(hooked)
    assert block(v1.Normalize(0.5, 0.5)) is first


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf")])
def test_rows_are_known_to_be_finite_if_all_that_was_read_is(value):
    x = torch.full((600, 3), 3e38)  # whose sum overflows
    x[577, 1] = value
    dataset = AvalancheDataset([TensorDataset(x, torch.zeros(600, dtype=torch.int64))])
    cache = TensorCache(2**30, looks=True)
    assert cache.fetch(dataset.subset(range(500)), CPU).finite
    assert cache.fetch(dataset, CPU).finite == (value == 1.0)
    assert not TensorCache(2**30).fetch(dataset, CPU).finite


def test_values_of_an_attribute_are_those_that_avalanche_gives():
    stream = split(colours()).train_stream
    joint = stream[0].dataset.concat(stream[1].dataset).subset([3, 40, 1, 3])
    for dataset in (stream[1].dataset, joint):
        assert values_in(dataset.targets.data).tolist() == [int(y) for y in dataset.targets]
    for other in ([], [1.5], [True], ["a"], torch.arange(3), None):
        assert values_in(other) is None
