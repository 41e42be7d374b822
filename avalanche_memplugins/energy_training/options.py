"""What ``memplugins train-energy`` takes. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class EnergyTraining:
    """Meta-train an energy network: write patterns, read them from damaged cues, learn from the error.

    Stopped in any way and started again with the same options, it goes on from its last checkpoint.
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """file for the weights, .safetensors; the checkpoint lies beside it"""
    data: Literal["strings", "digits", "omniglot", "mnist", "fashion", "codes"] = "strings"
    """random bits; scikit-learn's digits; training images of a data set; or Omniglot's codes under omniglot28-vae"""
    size: int = 28
    """side to which images are reduced by area; the digits are 8 x 8 as they are"""
    bits: int = 128
    """length of a string"""
    data_root: Path | None = None
    """folder of the data sets, as torchvision lays them out; MEMPLUGINS_DATA if not given"""
    network: Literal["gated", "fully-connected", "convolutional"] = "gated"
    """the energy: hops on the (whitened) pattern, or one of the paper's image networks"""
    writable: int = 64
    """columns or channels that are written"""
    width: int = 192
    """of the state"""
    hops: int = 1
    """refinements of the state"""
    rank: int = 256
    """whitened coordinates of images"""
    write_steps: int = 10
    """steps of gradient descent in a write; 0: a network that cannot write, the control"""
    read_steps: int = 5
    """steps of a read"""
    write_rate: float = 40.0
    """rate of writing to start from"""
    read_rate: float = 1.0
    """step size of reading to start from"""
    slope_rate: float | None = None
    """rate of the gradient norm's term to start from; without the term if not given"""
    deviation_rate: float | None = None
    """rate of the pull to the initial weights; without the term if not given"""
    patterns: tuple[int, ...] = (32, 64, 96)
    """patterns an episode, drawn anew for each step"""
    rows: int = 256
    """patterns a step: as many episodes as hold them"""
    cue: Literal["block", "thumbnail", "both"] = "block"
    """of images: a block of half the side erased, a quarter of the side enlarged again, or either"""
    classes: int = 0
    """draw each episode's images from so many classes, as an experience's are; 0: from all"""
    thicken: float = 0.0
    """share of the images whose strokes are thickened"""
    thicken_pixels: int = 1
    """by how much at most"""
    label_bits: int = 0
    """classes to be remembered with the images, as entries behind their pixels; 0: none"""
    init: Path | None = None
    """file of an energy network of the same sizes to start from; further steps repeat its last ones"""
    minutes: float | None = None
    """CPU time to train for, 10 if neither this nor steps is given; the learning rate falls with it"""
    steps: int | None = None
    """steps to train for instead: the same weights whatever the machine's load"""
    lr: float = 5e-3
    """learning rate of AdamW, after 100 steps of warm-up and before a cosine to 0"""
    clip: float = 1.0
    """largest norm of a gradient"""
    last: float = 5.0
    """weight of the last read step's error; the others weigh 1"""
    average: float = 0.999
    """decay of the average of weights that is validated and kept"""
    validate_every: int = 500
    """steps between validations and checkpoints"""
    checkpoint: bool = False
    """compute writes and reads again for the backward pass: less memory, more time"""
    first_order: bool = False
    """take the gradients of writes as constants: faster, and worse"""
    seed: int = 0
    """of weights, episodes and cues"""
