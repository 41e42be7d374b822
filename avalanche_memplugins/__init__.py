"""Memory for continual learning, as plugins and strategies for Avalanche.

Names are resolved on first use, so that the command line answers without importing torch and Avalanche.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalanche_memplugins.codecs import LatentCodec, StreamCodec
    from avalanche_memplugins.memories import (
        CodedMemory,
        DifferentiableNeuralDictionary,
        DynamicKanervaMemory,
        EnergyMemory,
        EpisodicMemory,
        GaussianMemory,
        KanervaMemory,
        LatentMemory,
        MixedMemory,
        RandomMemory,
        RandomProjectionMemory,
        Recall,
        VAEMemory,
    )
    from avalanche_memplugins.plugins import (
        DarkReplayPlugin,
        EnergyReplayPlugin,
        GradientAveragingPlugin,
        LatentReplayPlugin,
        LeanStepPlugin,
        LocalAdaptationPlugin,
        MemoryPredictionPlugin,
        MemoryReplayPlugin,
        NearestNeighbourPlugin,
        RandomMemoryPlugin,
        TensorLoaderPlugin,
    )
    from avalanche_memplugins.rehearsal import Mixed, Rehearsal

__version__ = "0.1.0"
_HOME = {
    "CodedMemory": "memories",
    "DarkReplayPlugin": "plugins",
    "DifferentiableNeuralDictionary": "memories",
    "DynamicKanervaMemory": "memories",
    "EnergyMemory": "memories",
    "EnergyReplayPlugin": "plugins",
    "EpisodicMemory": "memories",
    "GaussianMemory": "memories",
    "GradientAveragingPlugin": "plugins",
    "KanervaMemory": "memories",
    "LatentCodec": "codecs",
    "LatentMemory": "memories",
    "LatentReplayPlugin": "plugins",
    "LeanStepPlugin": "plugins",
    "LocalAdaptationPlugin": "plugins",
    "MemoryPredictionPlugin": "plugins",
    "MemoryReplayPlugin": "plugins",
    "MixedMemory": "memories",
    "NearestNeighbourPlugin": "plugins",
    "RandomMemory": "memories",
    "RandomMemoryPlugin": "plugins",
    "RandomProjectionMemory": "memories",
    "Mixed": "rehearsal",
    "Recall": "memories",
    "Rehearsal": "rehearsal",
    "StreamCodec": "codecs",
    "TensorLoaderPlugin": "plugins",
    "VAEMemory": "memories",
}
__all__ = [
    "CodedMemory",
    "DarkReplayPlugin",
    "DifferentiableNeuralDictionary",
    "DynamicKanervaMemory",
    "EnergyMemory",
    "EnergyReplayPlugin",
    "EpisodicMemory",
    "GaussianMemory",
    "GradientAveragingPlugin",
    "KanervaMemory",
    "LatentCodec",
    "LatentMemory",
    "LatentReplayPlugin",
    "LeanStepPlugin",
    "LocalAdaptationPlugin",
    "MemoryPredictionPlugin",
    "MemoryReplayPlugin",
    "Mixed",
    "MixedMemory",
    "NearestNeighbourPlugin",
    "RandomMemory",
    "RandomMemoryPlugin",
    "RandomProjectionMemory",
    "Recall",
    "Rehearsal",
    "StreamCodec",
    "TensorLoaderPlugin",
    "VAEMemory",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
