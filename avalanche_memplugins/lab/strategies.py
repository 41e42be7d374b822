"""Strategies by name. Imports nothing heavy: each names the function that builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StrategyInfo:
    """A strategy of the lab.

    :param name: as on the command line.
    :param label: as in tables and pictures.
    :param summary: one line for a reader.
    :param builder: name of the function in :mod:`.builders`.
    """

    name: str
    label: str
    summary: str
    builder: str


STRATEGIES: Mapping[str, StrategyInfo] = {
    info.name: info
    for info in (
        StrategyInfo(
            name="naive",
            label="Naive",
            summary="fine-tuning without a memory: the floor (Avalanche)",
            builder="naive",
        ),
        StrategyInfo(
            name="replay",
            label="Replay (Avalanche)",
            summary="Avalanche's ReplayPlugin with its default buffer",
            builder="replay",
        ),
        StrategyInfo(
            name="rma",
            label="RMA",
            summary="a ring that keeps one batch every m steps; m so that the ring holds the whole stream",
            builder="rma",
        ),
        StrategyInfo(
            name="er-reservoir",
            label="ER-reservoir",
            summary="experience replay from a uniform sample of the stream, its length unknown",
            builder="er_reservoir",
        ),
        StrategyInfo(
            name="mbpa",
            label="MbPA",
            summary="no rehearsal: the head is fitted to each test row's neighbours in a reservoir",
            builder="mbpa",
        ),
        StrategyInfo(
            name="er-mbpa",
            label="ER + MbPA",
            summary="experience replay and MbPA from one reservoir",
            builder="er_mbpa",
        ),
        StrategyInfo(
            name="cumulative",
            label="Cumulative",
            summary="trains on all data so far: the ceiling (Avalanche)",
            builder="cumulative",
        ),
    )
}
