"""Names, facts and errors of the benchmark registry."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch

from avalanche_memplugins import benchmarks
from avalanche_memplugins.benchmarks import BENCHMARKS, digits, get_benchmark
from avalanche_memplugins.codecs import Uint8


def test_local_benchmarks_are_as_registered() -> None:
    for info in BENCHMARKS.values():
        if not info.local:
            continue
        benchmark = info.build(seed=0)
        assert len(benchmark.train_stream) == info.n_experiences
        row = benchmark.train_stream[0].dataset[0]
        assert tuple(row[0].shape) == info.input_shape
        assert int(max(digits().y_train)) + 1 == info.n_classes


def test_eight_bits_hold_the_digits_exactly() -> None:
    info, x = BENCHMARKS["split-digits"], digits().x_train
    codec = Uint8(mean=info.mean, std=info.std)
    codec.check(x)
    code = codec.encode(x)
    assert torch.equal(code, (x * 16 * 15).round().to(torch.uint8))
    torch.testing.assert_close(codec.decode(code, x.shape[1:], x.dtype), x, rtol=0, atol=1e-6)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="benchmark: no 'split-digit'; did you mean 'split-digits'"):
        get_benchmark("split-digit")
    with pytest.raises(ValueError, match="there are split-digits"):
        get_benchmark("zzz")


def test_modules_do_not_hide_names() -> None:
    for module in set(benchmarks._HOME.values()):  # which makes each an attribute of the package
        import_module(f"avalanche_memplugins.benchmarks.{module}")
    assert not [name for name in benchmarks.__all__ if inspect.ismodule(getattr(benchmarks, name))]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(benchmarks, "nothing")  # noqa: B009 - a plain access is what a linter would delete
