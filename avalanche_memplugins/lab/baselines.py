"""Avalanche's own strategies by name, and those that are left out. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .strategy_info import StrategyInfo

_CLB = "continual-learning-baselines"
_OWN = "Avalanche's default"

BASELINES: Mapping[str, StrategyInfo] = {
    info.name: info
    for info in (
        StrategyInfo(
            name="naive",
            label="Naive",
            summary="fine-tuning without a memory: the floor (Avalanche)",
            builder="naive",
        ),
        StrategyInfo(
            name="cumulative",
            label="Cumulative",
            summary="trains on all data so far: the ceiling (Avalanche)",
            builder="cumulative",
        ),
        StrategyInfo(
            name="joint",
            label="Joint",
            summary="trains on the whole stream at once, which no continual learner may (Avalanche's JointTraining)",
            builder="joint",
            note="all training is done before the first test, so its forgetting is 0 by construction",
        ),
        StrategyInfo(
            name="replay",
            label="Replay (Avalanche)",
            summary="Avalanche's ReplayPlugin with its default buffer, balanced by experience",
            builder="replay",
            sized="rows",
            note="the default buffer stops taking rows on streams of many small experiences",
        ),
        StrategyInfo(
            name="replay-reservoir",
            label="Replay, reservoir",
            summary="Avalanche's ReplayPlugin with its ReservoirSamplingBuffer",
            builder="replay",
            sized="rows",
        ),
        StrategyInfo(
            name="replay-class-balanced",
            label="Replay, balanced",
            summary="Avalanche's ReplayPlugin with its ClassBalancedBuffer",
            builder="replay",
            sized="rows",
        ),
        StrategyInfo(
            name="replay-online",
            label="Replay, online",
            summary="Avalanche's ReplayPlugin on a stream cut into experiences of one batch, class-balanced; one epoch",
            builder="replay_online",
            sized="rows",
            options={"batch_size_mem": 10},
            source=f"{_CLB}, split_mnist/online_replay.py",
            note="an experience a batch: about 20 ms each, three times ours (AVALANCHE#1086)",
        ),
        StrategyInfo(
            name="generative-replay",
            label="GR (Avalanche)",
            summary="Avalanche's GenerativeReplay as it is, with its MlpVAE",
            builder="generative_replay",
            options={"replay_size": None},
            source=f"{_OWN}: 2 latents, Adam 0.01",
            note="takes half the variance for the deviation, makes task labels floats; `vae` has neither fault",
        ),
        StrategyInfo(
            name="ewc",
            label="EWC",
            summary="elastic weight consolidation (Avalanche)",
            builder="ewc",
            options={"ewc_lambda": 1.0, "mode": "separate", "decay_factor": None},
            source=f"{_CLB}, permuted_mnist/ewc.py; Kirkpatrick et al. 2017, arXiv 1612.00796",
        ),
        StrategyInfo(
            name="si",
            label="SI",
            summary="synaptic intelligence (Avalanche)",
            builder="si",
            options={"si_lambda": 0.1, "eps": 0.1},
            source=f"{_CLB}, permuted_mnist/synaptic_intelligence.py; Zenke et al. 2017, arXiv 1703.04200",
            note="does nothing on a CPU: what it keeps as old weights is a view of the new ones, so every "
            "importance is 0",
        ),
        StrategyInfo(
            name="lwf",
            label="LwF",
            summary="learning without forgetting (Avalanche)",
            builder="lwf",
            options={"alpha": 1.0, "temperature": 1.0},
            source=f"{_CLB}, split_mnist/lwf.py; Li & Hoiem 2016, arXiv 1606.09282 has temperature 2",
        ),
        StrategyInfo(
            name="mas",
            label="MAS",
            summary="memory aware synapses (Avalanche)",
            builder="mas",
            options={"lambda_reg": 1.0, "alpha": 0.5},
            source=f"{_OWN}; Aljundi et al. 2018, arXiv 1711.09601 has lambda 1",
        ),
        StrategyInfo(
            name="gem",
            label="GEM",
            summary="gradient episodic memory (Avalanche)",
            builder="gem",
            sized="rows",
            options={"memory_strength": 0.5},
            source="Lopez-Paz & Ranzato 2017, arXiv 1706.08840: gamma 0.5",
            requires="quadprog",
            note="wants the solver quadprog: pip install 'avalanche-memplugins[gem]'",
        ),
        StrategyInfo(
            name="agem",
            label="A-GEM",
            summary="averaged gradient episodic memory (Avalanche)",
            builder="agem",
            sized="rows",
            options={"sample_size": 64},
            source=f"{_OWN}; Chaudhry et al. 2019, arXiv 1812.00420 has 256",
        ),
        StrategyInfo(
            name="gdumb",
            label="GDumb",
            summary="keeps a balanced sample and trains anew on it alone (Avalanche)",
            builder="gdumb",
            sized="rows",
            source="Prabhu et al. 2020",
        ),
        StrategyInfo(
            name="gss",
            label="GSS-greedy",
            summary="gradient-based sample selection (Avalanche)",
            builder="gss",
            sized="rows",
            options={"mem_strength": 10},
            source="Aljundi et al. 2019, arXiv 1903.08671",
        ),
        StrategyInfo(
            name="mir",
            label="MIR",
            summary="replays the rows that the coming step would harm most (Avalanche)",
            builder="mir",
            sized="rows",
            options={"subsample": 50, "batch_size_mem": 10},
            source="Aljundi et al. 2019, arXiv 1908.04742: 50 candidates, 10 of them",
        ),
        StrategyInfo(
            name="der",
            label="DER",
            summary="dark experience replay: stored logits are matched (Avalanche)",
            builder="der",
            sized="rows",
            options={"alpha": 0.5, "beta": 0.0, "batch_size_mem": None},
            source="Buzzega et al. 2020, arXiv 2004.07211",
        ),
        StrategyInfo(
            name="der-pp",
            label="DER++",
            summary="DER that also learns the stored labels (Avalanche)",
            builder="der",
            sized="rows",
            options={"alpha": 0.1, "beta": 0.5, "batch_size_mem": None},
            source=f"{_OWN}; Buzzega et al. 2020, arXiv 2004.07211",
        ),
        StrategyInfo(
            name="er-ace",
            label="ER-ACE",
            summary="replay with a loss that leaves the old classes' outputs alone (Avalanche)",
            builder="er_ace",
            sized="rows",
            options={"batch_size_mem": 10},
            source="Caccia et al. 2022, arXiv 2104.05025",
        ),
        StrategyInfo(
            name="icarl",
            label="iCaRL",
            summary="herded exemplars, distillation, nearest class mean (Avalanche); class-incremental, model mlp",
            builder="icarl",
            sized="rows",
            source="Rebuffi et al. 2017, arXiv 1611.07725",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A strategy of Avalanche 0.6 that the lab leaves out.

    :param name: of Avalanche's class.
    :param reason: why.
    """

    name: str
    reason: str


_OWN_MODEL = "wants a model of its own"
_OTHER_LOOP = "meta-learning: another training loop, in which epochs and plugins mean something else"
ABSENT = tuple(
    Absent(name=name, reason=reason)
    for name, reason in (
        ("BiC", "fails on current torch: MultiStepLR no longer takes verbose="),
        ("ExpertGateStrategy", "wants an AlexNet from the internet"),
        ("AR1", "wants its MobileNet, whose weights are downloaded"),
        ("StreamingLDA", "wants a pretrained feature extractor"),
        ("LearningToPrompt", "wants a pretrained vision transformer"),
        ("CWRStar", _OWN_MODEL),
        ("PNNStrategy", _OWN_MODEL),
        ("LFL", _OWN_MODEL),
        ("FeatureReplay", _OWN_MODEL),
        ("SCR", _OWN_MODEL),
        ("ER_AML", _OWN_MODEL),
        ("CoPE", _OWN_MODEL),
        ("MER", _OTHER_LOOP),
        ("LaMAML", _OTHER_LOOP),
        ("RWalkPlugin", "near to EWC and SI, which are there"),
        ("FromScratchTraining", "forgets all on purpose, below naive"),
    )
)
