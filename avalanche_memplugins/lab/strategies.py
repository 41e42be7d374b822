"""Strategies by name. Imports nothing heavy: each names the function that builds it."""

from __future__ import annotations

from collections.abc import Mapping

from .baselines import ABSENT, BASELINES, Absent
from .strategy_info import StrategyInfo

__all__ = ["ABSENT", "OURS", "STRATEGIES", "Absent", "StrategyInfo"]

_VAN_DE_VEN = "van de Ven & Tolias 2019, arXiv 1904.07734"
_LATENT = "codes of a pretrained auto-encoder for 28 x 28 grey images, the rows themselves for others"

OURS: Mapping[str, StrategyInfo] = {
    info.name: info
    for info in (
        StrategyInfo(
            name="rma",
            label="RMA",
            summary="a ring that keeps one batch every m steps; m so that the ring holds the whole stream",
            builder="rma",
            sized="rows",
            options={"write_every": None, "write_epochs": "first"},
            source="Zeta36 2018: a ring, m = 1,000",
        ),
        StrategyInfo(
            name="er-reservoir",
            label="ER-reservoir",
            summary="experience replay from a uniform sample of the stream, its length unknown",
            builder="replay",
            sized="rows",
            options={"policy": "reservoir"},
            source="Chaudhry et al. 2019, arXiv 1902.10486",
        ),
        StrategyInfo(
            name="er-uint8",
            label="ER 8-bit",
            summary="ER-reservoir with one byte a pixel, exact",
            builder="replay",
            sized="rows",
        ),
        StrategyInfo(
            name="er-4bit",
            label="ER 4-bit",
            summary="ER-reservoir with 16 grey levels a pixel, images above 14 x 14 reduced to that",
            builder="replay",
            sized="rows",
        ),
        StrategyInfo(
            name="er-1bit",
            label="ER 1-bit",
            summary="ER-reservoir with black and white pixels",
            builder="replay",
            sized="rows",
        ),
        StrategyInfo(
            name="er-latent",
            label="ER latent",
            summary="ER-reservoir with int8 codes of a pretrained auto-encoder; 28 x 28 grey images only",
            builder="replay",
            sized="rows",
        ),
        StrategyInfo(
            name="dark-replay",
            label="DER++ (ours)",
            summary="dark experience replay with the outputs as the stream passes; one byte a pixel, exact",
            builder="dark",
            sized="rows",
            options={"alpha": 0.1, "beta": 0.5, "batch_size_mem": None, "policy": "reservoir"},
            source="Buzzega et al. 2020, arXiv 2004.07211; alpha and beta are Avalanche's, as in der-pp",
        ),
        StrategyInfo(
            name="mbpa",
            label="MbPA",
            summary="no rehearsal: the head is fitted to each test row's neighbours in a reservoir",
            builder="mbpa",
            sized="rows",
            options={"neighbours": 20, "steps": 10, "lr": 0.3, "beta": 0.0, "policy": "reservoir"},
            source="Sprechmann et al. 2018, arXiv 1802.10542; rates chosen in bench/mbpa_permuted_mnist.py",
        ),
        StrategyInfo(
            name="er-mbpa",
            label="ER + MbPA",
            summary="experience replay and MbPA from one reservoir",
            builder="er_mbpa",
            sized="rows",
            options={"neighbours": 20, "steps": 10, "lr": 0.3, "beta": 0.0, "policy": "reservoir"},
            source="as mbpa",
        ),
        StrategyInfo(
            name="er-mbpa-4bit",
            label="ER + MbPA, 4-bit",
            summary="the same from rows as er-4bit stores them",
            builder="er_mbpa",
            sized="rows",
            options={"neighbours": 20, "steps": 10, "lr": 0.3, "beta": 0.0, "policy": "reservoir"},
            source="as mbpa",
        ),
        StrategyInfo(
            name="er-mbpa-latent",
            label="ER + MbPA, latent",
            summary="the same from rows as er-latent stores them; 28 x 28 grey images only",
            builder="er_mbpa",
            sized="rows",
            options={"neighbours": 20, "steps": 10, "lr": 0.3, "beta": 0.0, "policy": "reservoir"},
            source="as mbpa",
        ),
        StrategyInfo(
            name="knn-4bit",
            label="1-NN, 4-bit",
            summary="no network: the class of the nearest row of those that er-4bit stores; the control for all others",
            builder="knn",
            sized="rows",
            options={"neighbours": 1, "policy": "reservoir"},
            source="Cover & Hart 1967",
        ),
        StrategyInfo(
            name="knn-latent",
            label="1-NN, latent",
            summary="the same of those that er-latent stores; 28 x 28 grey images only",
            builder="knn",
            sized="rows",
            options={"neighbours": 1, "policy": "reservoir"},
            source="as knn-4bit",
        ),
        StrategyInfo(
            name="gaussian",
            label="Gaussian",
            summary=f"replay drawn from one Gaussian a class over {_LATENT}",
            builder="replay",
            sized="bytes",
        ),
        StrategyInfo(
            name="kanerva",
            label="Kanerva",
            summary=f"replay from a dynamic Kanerva memory of each class over {_LATENT}",
            builder="replay",
            sized="bytes",
            source="Wu et al. 2018, arXiv 1811.09556",
        ),
        StrategyInfo(
            name="kanerva-shared",
            label="Kanerva, shared",
            summary="the same with one memory for all classes, the label a part of the code",
            builder="replay",
            sized="bytes",
            source="Wu et al. 2018, arXiv 1811.09556",
        ),
        StrategyInfo(
            name="energy",
            label="Energy",
            summary="rehearsal from an energy-based memory with thumbnails as cues; 28 x 28 grey images only",
            builder="replay",
            sized="bytes",
            source="Bartunov et al. 2020, arXiv 1910.02720; rehearsal from it is ours",
        ),
        StrategyInfo(
            name="vae",
            label="VAE replay",
            summary="deep generative replay (VAEReplay): a VAE that rehearses itself; with a budget one that is told "
            "the class, so that no copy of the model is kept for labels",
            builder="vae",
            sized="bytes",
            options={"steps": None, "prior": "fitted"},
            source=f"{_VAN_DE_VEN}: 2 x 400 units, codes of 100, Adam 1e-3, as many steps as the model",
        ),
    )
}

# In the order in which tables show them when nothing else is said.
_FIRST = ("naive", "replay", "rma", "er-reservoir", "mbpa", "er-mbpa", "cumulative")
_ALL = {**OURS, **BASELINES}
STRATEGIES: Mapping[str, StrategyInfo] = {name: _ALL[name] for name in dict.fromkeys((*_FIRST, *_ALL))}
