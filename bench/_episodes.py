"""Episodes for associative memories; what the library trains on, too."""

from avalanche_memplugins.functional.episodes import corrupt_strings, erase_block, image_episodes, string_episodes

__all__ = ["corrupt_strings", "erase_block", "image_episodes", "string_episodes"]
