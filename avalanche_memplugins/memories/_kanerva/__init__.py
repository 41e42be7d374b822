"""What the Kanerva memories share: posteriors by class or for all classes, their reads, and replay from them."""

from avalanche_memplugins.memories._kanerva.receipts import Items, Written
from avalanche_memplugins.memories._kanerva.replay import KanervaBase

__all__ = ["Items", "KanervaBase", "Written"]
