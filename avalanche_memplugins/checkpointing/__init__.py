"""Run states without pickle, and help for Avalanche's own checkpoints."""

from avalanche_memplugins.checkpointing.compat import avalanche_checkpoint_compat
from avalanche_memplugins.checkpointing.errors import CheckpointError
from avalanche_memplugins.checkpointing.run_state import load_run_state, save_run_state

__all__ = ["CheckpointError", "avalanche_checkpoint_compat", "load_run_state", "save_run_state"]
