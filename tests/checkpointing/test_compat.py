"""Avalanche's own checkpoints, with and without help."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
from checkpoint_runs import Run, assert_same

from avalanche_memplugins.checkpointing import avalanche_checkpoint_compat

RUNS = [Run("plain", "sgd"), Run("incremental", "adam"), Run("multihead", "sgd")]


def fails_without(run: Run, folder: Path) -> bool:
    try:
        save_checkpoint(run.strategy(seed=1), str(folder / "bare.pkl"))
    except pickle.PicklingError:
        return True
    return False


def test_it_is_needed(tmp_path: Path) -> None:
    if not fails_without(RUNS[0], tmp_path):
        pytest.skip("the installed versions of dill and torch save checkpoints without help")
    with avalanche_checkpoint_compat():
        assert not fails_without(RUNS[0], tmp_path)
    assert fails_without(RUNS[0], tmp_path)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.model)
def test_save_and_resume_on_the_next_experience(run: Run, tmp_path: Path) -> None:
    whole, stream = run.strategy(seed=1), run.benchmark().train_stream
    run.train(whole, stream[:2])
    with avalanche_checkpoint_compat():
        save_checkpoint(whole, str(tmp_path / "run.pkl"))
    run.train(whole, stream[2:])
    resumed, start = maybe_load_checkpoint(run.strategy(seed=5), str(tmp_path / "run.pkl"))
    assert start == 2
    run.train(resumed, stream[start:])
    assert_same(whole, resumed)


def test_a_plain_call_lasts_and_a_block_does_not() -> None:
    names = set(vars(torch.optim))
    with avalanche_checkpoint_compat():
        assert torch.optim.sgd.SGD is torch.optim.SGD
    assert set(vars(torch.optim)) == names
    helper = avalanche_checkpoint_compat()
    try:
        assert torch.optim.sgd.SGD is torch.optim.SGD
        with avalanche_checkpoint_compat():
            pass
        assert torch.optim.sgd.SGD is torch.optim.SGD
    finally:
        helper.__exit__(None, None, None)
    assert set(vars(torch.optim)) == names
