"""What ``memplugins train-energy`` takes. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from avalanche_memplugins.lab.options import UNSET


@dataclass(frozen=True)
class EnergyTraining:
    """Meta-train an energy network: write patterns, read them from damaged cues, learn from the error.

    Training that was stopped in any way goes on from its last checkpoint when the same command is given again.
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File for the weights, .safetensors. The checkpoint lies beside it."""
    data: Literal["strings", "digits", "omniglot", "mnist", "fashion", "codes"] = "strings"
    """Patterns: random bits, scikit-learn's digits, images of a data set, or Omniglot's codes under omniglot28-vae."""
    size: int = 28
    """Side to which images are reduced. The digits stay 8 x 8."""
    bits: int = 128
    """Length of a string of bits."""
    data_root: Annotated[Path | None, UNSET] = None
    """Folder of the data sets, as torchvision lays them out; MEMPLUGINS_DATA if not given."""
    network: Literal["gated", "fully-connected", "convolutional"] = "gated"
    """The energy: hops on the (whitened) pattern, or one of the paper's image networks."""
    writable: int = 64
    """Columns or channels that are written."""
    width: int = 192
    """Width of the state."""
    hops: int = 1
    """Refinements of the state."""
    rank: int = 256
    """Whitened coordinates of images."""
    write_steps: int = 10
    """Steps of gradient descent in a write. 0 gives a network that cannot write, as a control."""
    read_steps: int = 5
    """Steps of a read."""
    write_rate: float = 40.0
    """First value of the rate of writing."""
    read_rate: float = 1.0
    """First value of the step size of reading."""
    slope_rate: Annotated[float | None, UNSET] = None
    """First value of the rate of the gradient norm's term; by default there is no such term."""
    deviation_rate: Annotated[float | None, UNSET] = None
    """First value of the rate of the pull to the initial weights; by default there is no such term."""
    patterns: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT [INT ...]")] = (32, 64, 96)
    """Patterns an episode; one of these numbers is drawn for each step."""
    rows: int = 256
    """Patterns a step; a step has as many episodes as hold them."""
    cue: Literal["block", "thumbnail", "both"] = "block"
    """How images are damaged: a block of half the side erased, the image enlarged from a quarter, or either."""
    classes: int = 0
    """Draw each episode's images from so many classes; 0 draws from all."""
    thicken: float = 0.0
    """Share of the images whose strokes are thickened."""
    thicken_pixels: int = 1
    """Most pixels by which strokes are thickened."""
    label_bits: int = 0
    """Classes to remember with the images, as entries behind their pixels; 0 remembers none."""
    init: Annotated[Path | None, UNSET] = None
    """File of an energy network of the same sizes to start from. Further steps repeat its last ones."""
    minutes: Annotated[float | None, UNSET] = None
    """CPU minutes to train; by default 10, unless steps are given. The learning rate falls over this time."""
    steps: Annotated[int | None, UNSET] = None
    """Steps to train instead. The weights are then the same, whatever the machine's load."""
    lr: float = 5e-3
    """Learning rate of AdamW, after 100 steps of warm-up and before a cosine to 0."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    last: float = 5.0
    """Weight of the last read step's error; the others weigh 1."""
    average: float = 0.999
    """Decay of the average of the weights, which is validated and kept."""
    validate_every: int = 500
    """Steps between validations, each with a checkpoint."""
    checkpoint: bool = False
    """Compute writes and reads again for the backward pass: less memory, more time."""
    first_order: bool = False
    """Treat the gradients of writes as constants: faster, but worse."""
    seed: int = 0
    """Seed of weights, episodes and cues."""
