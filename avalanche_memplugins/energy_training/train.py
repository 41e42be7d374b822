"""The training loop of energy networks. It goes on from its last checkpoint after an interruption."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from avalanche_memplugins._folders import CorruptedFolderError, holds_folder, load_folder, save_folder
from avalanche_memplugins.functional.energy import reconstruction_loss
from avalanche_memplugins.lab.store import check_writable
from avalanche_memplugins.networks.energy import EnergyNetwork
from avalanche_memplugins.pretrained import load_energy, save_energy

from .build import build, start_from
from .options import EnergyTraining
from .tasks import Task, tasks

KIND = "EnergyTraining"
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
WARM_UP = 100
MINUTES = 10.0
VALIDATION_EPISODES = 8
VALIDATION_SEED = 20_200_213


class Score(NamedTuple):
    """How well held-out patterns are read; means over the options' numbers of patterns."""

    error: float
    """squared error of a pattern after the last read"""
    cue: float
    """squared error of its cue"""
    wrong: float
    """entries on the wrong side of 0.5"""


class Training:
    """Meta-training of one network. It goes on from the checkpoint if there is one.

    :param options: what to train, on what data, for how long.
    :raises ValueError: for options that do not fit together, or a checkpoint made with others.
    """

    def __init__(self, options: EnergyTraining) -> None:
        _check(options)
        self.options = options
        self.train_task, self.validation_task = tasks(options)
        # The global generator makes the first weights; the caller's is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.network = build(options, self.train_task)
        if options.init is not None:
            start_from(self.network, load_energy(options.init).network)
        self.average = copy.deepcopy(self.network)
        self.best = copy.deepcopy(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), options.lr, weight_decay=1e-6)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.best_score: Score | None = None
        self.history: list[list[float]] = []
        self.folder = options.out.with_suffix(".checkpoint")
        # A crash while a new checkpoint takes the old one's place leaves the old one aside.
        if holds_folder(self.folder):
            self._resume()

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        if self.options.steps is not None:
            return min(1.0, self.step / self.options.steps)
        return min(1.0, self.seconds / (60 * (self.options.minutes or MINUTES)))

    def run(self, console: Console | None = None) -> Score:
        """Train to the end; returns the best validation score. The weights that reached it are kept."""
        console = console or Console()
        check_writable(self.options.out.parent)
        try:
            return self._run(console)
        except KeyboardInterrupt:
            if self.best_score is not None:
                kept = f"stopped at step {self.step}: {self.folder} has what the same command goes on from"
                console.print(kept, style="yellow", soft_wrap=True)
            raise

    def _run(self, console: Console) -> Score:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            shown = bar.add_task("starting", total=1.0)
            bar.update(shown, completed=self.progress)
            while self.progress < 1:
                self._round()
                score = self.validate()
                if self.best_score is None or math.isnan(self.best_score.error) or score.error < self.best_score.error:
                    self.best_score, self.best = score, copy.deepcopy(self.average.state_dict())
                self.history.append([self.step, self.seconds, *score])
                self._save()
                line = (
                    f"step {self.step}: error {score.error:.3f} of {score.cue:.2f}, {score.wrong:.2f} wrong; "
                    f"best {self.best_score.error:.3f}"
                )
                bar.update(shown, completed=self.progress, description=line)
                if not console.is_terminal:
                    console.print(f"{100 * self.progress:5.1f} % {line}", soft_wrap=True)
        if self.best_score is None:
            raise ValueError("minutes, steps: expected more than 0, got nothing to do")
        return self.best_score

    def save(self) -> Path:
        """Write the best weights to the file that the options name, with recipe and score; returns its path."""
        if self.best_score is None:
            raise ValueError("minutes, steps: expected more than 0, got nothing to save")
        manifest = {
            "options": _kept(self.options),
            "steps": self.step,
            "cpu_minutes": round(self.seconds / 60, 1),
            "validation": self.best_score._asdict(),
        }
        return save_energy(
            self.options.out, self.best_network(), patterns=max(self.options.patterns), manifest=manifest
        )

    def best_network(self) -> EnergyNetwork:
        """The network with the best weights, in eval mode."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.best)
        return network.eval()

    def _round(self) -> None:
        """Steps up to the next validation."""
        begun, before = time.process_time(), self.seconds
        for _ in range(self.options.validate_every):
            self._one_step()
            self.seconds = before + time.process_time() - begun
            if self.progress >= 1:
                break

    def _one_step(self) -> None:
        options = self.options
        x, cue = self._episode()
        weights = self.network.write(x, first_order=options.first_order, checkpoint=options.checkpoint)
        # Reads stay exact: of reads with constant gradients, only the step sizes would learn.
        reads = self.network.read(cue, weights, checkpoint=options.checkpoint)
        loss = reconstruction_loss(reads, x, last=options.last)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_grad_norm_(self.network.parameters(), options.clip)
        self.step += 1
        if not math.isfinite(float(norm)):
            self.skipped += 1
            return
        rate = options.lr * min(1.0, self.step / WARM_UP) * 0.5 * (1 + math.cos(math.pi * self.progress))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        # A short average at first, or the first weights would stay in it for long.
        decay = min(options.average, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)

    def _episode(self) -> tuple[Tensor, Tensor]:
        counts = self.options.patterns
        patterns = counts[int(torch.randint(len(counts), (), generator=self.generator))]
        episodes = max(1, self.options.rows // patterns)
        x = self.train_task.episodes(episodes, patterns, generator=self.generator)
        return x, self.train_task.cues(x, generator=self.generator)

    @torch.no_grad()
    def validate(self) -> Score:
        """Score of the averaged weights on held-out episodes, which are the same each time."""
        scores = [evaluate(self.average, self.validation_task, patterns) for patterns in self.options.patterns]
        return Score(*(sum(values) / len(scores) for values in zip(*scores, strict=True)))

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        parts = {"network": self.network.state_dict(), "average": self.average.state_dict(), "best": self.best}
        for part, state in parts.items():
            tensors.update({f"{part}.{name}": value for name, value in state.items()})
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{number}.{name}": value for name, value in state.items()})
        manifest: dict[str, Any] = {
            "kind": KIND,
            "options": _kept(self.options),
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "best_score": self.best_score,
            "history": self.history,
        }
        save_folder(self.folder, tensors, manifest)

    def _resume(self) -> None:
        tensors, manifest = load_folder(self.folder, kind=KIND)
        theirs, mine = manifest.get("options"), _kept(self.options)
        if not isinstance(theirs, dict):
            raise self._damaged(f"options: expected names and values, got {short(theirs)}")
        differ = sorted(name for name in mine.keys() | theirs.keys() if theirs.get(name) != mine.get(name))
        if differ:
            raise ValueError(
                f"out: {self.folder} is the checkpoint of a training with other options ({', '.join(differ)}); "
                "remove it or give another file"
            )
        # All is looked at before anything is taken up.
        moments = self._checked_tensors(tensors)
        step, seconds, skipped, best_score, history = self._checked_numbers(manifest)

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self.average.load_state_dict(part("average."))
        self.best = part("best.")
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.generator.set_state(tensors["generator"])
        self.step, self.seconds, self.skipped = step, seconds, skipped
        self.best_score, self.history = best_score, history

    def _checked_tensors(self, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """The optimiser's moments; raises an error unless all tensors are those of this training."""
        wanted = {"generator": self.generator.get_state()}
        state = self.network.state_dict()
        wanted |= {f"{part}.{name}": value for part in ("network", "average", "best") for name, value in state.items()}
        parameters = list(self.network.parameters())
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                number, _, key = name.removeprefix("optimizer.").partition(".")
                if not number.isascii() or not number.isdigit() or int(number) >= len(parameters):
                    raise self._damaged(f"there is no parameter of {name}")
                if key not in _MOMENTS:
                    raise self._damaged(f"the optimiser has no {name}")
                moments.setdefault(int(number), {})[key] = value
                wanted[name] = torch.zeros(()) if key == "step" else parameters[int(number)]
        if strange := sorted(tensors.keys() ^ wanted.keys()):
            raise self._damaged(f"tensor {strange[0]}: expected and not found, or the other way round")
        for place, held in moments.items():
            if held.keys() != _MOMENTS:
                raise self._damaged(f"optimizer.{place}: expected {sorted(_MOMENTS)}, got {sorted(held)}")
        for name, value in wanted.items():
            got = tensors[name]
            if got.shape != value.shape or got.dtype != value.dtype:
                raise self._damaged(f"{name}: expected {_kind(value)}, got {_kind(got)}")
            if got.is_floating_point() and not bool(got.isfinite().all()):
                raise self._damaged(f"{name}: expected finite numbers")
        try:
            torch.Generator().set_state(tensors["generator"])
        except RuntimeError as problem:
            raise self._damaged("generator: expected the state of a random generator") from problem
        return moments

    def _checked_numbers(self, manifest: dict[str, Any]) -> tuple[int, float, int, Score | None, list[list[float]]]:
        """Step, seconds, skipped steps, best score and history; raises an error for impossible values."""
        step, skipped = (manifest.get(name) for name in ("step", "skipped"))
        seconds, best, history = (manifest.get(name) for name in ("seconds", "best_score", "history"))
        for name, count in (("step", step), ("skipped", skipped)):
            if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**53:
                raise self._damaged(f"{name}: expected an integer >= 0, got {short(count)}")
        if not _are_numbers([seconds], 1) or not 0 <= seconds < math.inf:  # type: ignore[operator]
            raise self._damaged(f"seconds: expected a number >= 0, got {short(seconds)}")
        # Scores of a network that has diverged are NaN, and the training may yet find a better one.
        if best is not None and not _are_numbers(best, len(Score._fields)):
            raise self._damaged(f"best_score: expected {len(Score._fields)} numbers, got {short(best)}")
        if not isinstance(history, list) or not all(_are_numbers(row, 2 + len(Score._fields)) for row in history):
            raise self._damaged(f"history: expected rows of {2 + len(Score._fields)} numbers, got {short(history)}")
        return step, float(seconds), skipped, None if best is None else Score(*best), history  # type: ignore

    def _damaged(self, what: str) -> CorruptedFolderError:
        return CorruptedFolderError(f"out: the checkpoint {self.folder} is damaged: {what}; remove it to begin anew")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    )


@torch.no_grad()
def evaluate(
    network: EnergyNetwork,
    task: Task,
    patterns: int,
    *,
    episodes: int = VALIDATION_EPISODES,
    seed: int = VALIDATION_SEED,
    write: bool = True,
) -> Score:
    """Score of a network on episodes of a task.

    :param network: of patterns as the task's.
    :param task: where patterns and cues come from.
    :param patterns: how many are written together.
    :param episodes: how many.
    :param seed: of patterns and cues.
    :param write: False leaves the memory empty.
    """
    generator = torch.Generator().manual_seed(seed)
    x = task.episodes(episodes, patterns, generator=generator)
    cue = task.cues(x, generator=generator)
    read = network.read(cue, network.write(x) if write else None)[-1]

    def error(of: Tensor) -> float:
        return float((of - x).square().sum(-1).mean())

    wrong = ((read > 0.5) != (x > 0.5)).sum(-1).float().mean()
    return Score(error(read), error(cue), float(wrong))


def _kept(options: EnergyTraining) -> dict[str, Any]:
    """Options that must be the same in a checkpoint, as JSON values."""
    values = {name: value for name, value in asdict(options).items() if name not in ("out", "data_root")}
    kept: dict[str, Any] = json.loads(json.dumps(values, default=lambda path: path.name))
    return kept


_AT_LEAST = {
    **dict.fromkeys(("size", "bits", "writable", "width", "hops", "rank", "rows", "validate_every", "steps"), 1),
    **dict.fromkeys(("write_steps", "read_steps", "classes", "thicken_pixels", "label_bits", "seed"), 0),
}
_ABOVE_ZERO = ("minutes", "lr", "clip", "last")
_NUMBERS = ("write_rate", "read_rate", "slope_rate", "deviation_rate")
_MOST = 2**31 - 1


def _check(options: EnergyTraining) -> None:
    if options.steps is not None and options.minutes is not None:
        raise ValueError("minutes, steps: expected one of them, got both")
    for name, least in _AT_LEAST.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= _MOST:
            raise ValueError(f"{name}: expected an integer from {least} to {_MOST}, got {value}")
    for name in (*_ABOVE_ZERO, *_NUMBERS):
        value = getattr(options, name)
        if value is not None and (not math.isfinite(value) or (name in _ABOVE_ZERO and value <= 0)):
            raise ValueError(f"{name}: expected a finite number{' > 0' * (name in _ABOVE_ZERO)}, got {value}")
    if not options.patterns or not all(1 <= count <= _MOST for count in options.patterns):
        raise ValueError(f"patterns: expected numbers >= 1, got {options.patterns}")
    for name, end in (("average", "1)"), ("thicken", "1]")):
        value = getattr(options, name)
        if not 0 <= value <= 1 or (name == "average" and value == 1):
            raise ValueError(f"{name}: expected a number in [0, {end}, got {value}")
    if options.out.suffix != ".safetensors":
        raise ValueError(f"out: expected a file .safetensors, got {str(options.out)!r}")
    if options.out.is_dir():
        raise ValueError(f"out: expected a file, got the folder {options.out}")
