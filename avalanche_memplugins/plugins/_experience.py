"""The experience that a strategy trains on: its number, its data, its task labels."""

from __future__ import annotations

from typing import Any

from avalanche.training import JointTraining


def number_of(strategy: Any) -> int:
    """Number of the experience that the rows come from; of its origin for an online stream that tells it."""
    if getattr(strategy.experience, "access_task_boundaries", False):
        return int(strategy.experience.origin_experience.current_experience)
    return int(strategy.clock.train_exp_counter)


def parts_of(strategy: Any) -> list[tuple[int, Any]]:
    """Number and data set of each experience that is being trained on: one, or all at once under joint training."""
    if isinstance(strategy, JointTraining) and strategy._experiences:
        return [(number, experience.dataset) for number, experience in enumerate(strategy._experiences)]
    return [(number_of(strategy), strategy.experience.dataset)]


def has_task_labels(strategy: Any) -> bool:
    """Whether the last column of a batch ``[x, y, t]`` holds task labels."""
    experience = strategy.experience
    return hasattr(experience, "task_labels") or hasattr(getattr(experience, "dataset", None), "targets_task_labels")
