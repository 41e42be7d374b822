"""Memories, codecs, policies and plugins that break one promise each, by the name of the check that has to tell it."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib.util
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from avalanche_memplugins import GaussianMemory, RandomMemory
from avalanche_memplugins.codecs import Float16, Int8, Raw
from avalanche_memplugins.functional import reservoir_slots
from avalanche_memplugins.memories.comparators import HopfieldMemory
from avalanche_memplugins.memories.policies import Cycle, Placement, Reservoir, Ring, Uniform
from avalanche_memplugins.testing import CodecCase, MemoryCase, PluginCase, PolicyCase

_PATH = Path(__file__).parents[2] / "examples" / "own_memory.py"
_SPEC = importlib.util.spec_from_file_location("own_memory", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
own_memory = importlib.util.module_from_spec(_SPEC)
sys.modules["own_memory"] = own_memory  # pickle looks its class up there
_SPEC.loader.exec_module(own_memory)
Hardest: Any = own_memory.HardestMemory

BROKEN: dict[str, Any] = {}
ALSO: dict[str, set[str]] = {}
"""Other checks that cannot but notice."""


def breaks(check: str, case: Any, *also: str) -> None:
    BROKEN[check] = case
    ALSO[check] = {check, *also}


# ------------------------------------------------------------------------------------------------ memories


class ShortLabels(RandomMemory):
    def sample(self, n: int) -> Any:
        recall = super().sample(n)
        return recall._replace(y=recall.y.int())


class FalseIfEmpty(RandomMemory):
    def __bool__(self) -> bool:
        return len(self) > 0


class CountsOneMore(Hardest):
    def __len__(self) -> int:
        held = super().__len__()
        return held + (held > 0)


class GlobalNumbers(Hardest):
    def sample(self, n: int) -> Any:
        self._generator = torch.default_generator
        try:
            return super().sample(n)
        finally:
            self._generator = torch.Generator().manual_seed(0)


class OneSeed(Hardest):
    def __init__(self, capacity: int, seed: int) -> None:
        super().__init__(capacity, seed=0)


class MixedLabels(RandomMemory):
    def sample(self, n: int) -> Any:
        recall = super().sample(n)
        return recall._replace(y=recall.y.roll(1))


class InventedClasses(GaussianMemory):
    def sample(self, n: int) -> Any:
        recall = super().sample(n)
        return recall._replace(y=recall.y + 10)


class WritingRead(HopfieldMemory):
    reads = 0

    def read(self, cue: Tensor, known: Tensor | None = None) -> Tensor:
        self.reads += 1
        return super().read(cue, known) + self.reads


class FlatRead(Hardest):
    def read(self, cue: Tensor) -> Tensor:
        return cue.flatten()


class PredictsTheFirst(Hardest):
    def predict(self, x: Tensor) -> Tensor:
        return torch.eye(6)[torch.zeros(len(x), dtype=torch.int64)]


class Gradient(RandomMemory):
    def sample(self, n: int) -> Any:
        recall = super().sample(n)
        return recall._replace(x=recall.x.clone().requires_grad_())


class Evaluates(Hardest):
    def write(self, *args: Any, **kwargs: Any) -> None:
        self.eval()
        super().write(*args, **kwargs)


class DrawsFirst(Hardest):
    def write(self, *args: Any, **kwargs: Any) -> None:
        torch.rand(1, generator=self._generator)
        super().write(*args, **kwargs)


class TakesAnything(RandomMemory):
    def check_rows(self, *args: Any) -> None:
        pass


class ForgetsNothing(Hardest):
    def forget(self, *, classes: Any = None, **more: Any) -> int:
        return int(sum((self.labels[0] == value).sum() for value in classes))


class Boasts(RandomMemory):
    def summary(self) -> Any:
        summary = super().summary()
        return dataclasses.replace(summary, filled=summary.filled + 1)


class Diary(Hardest):
    def __init__(self, capacity: int, seed: int) -> None:
        super().__init__(capacity, seed=seed)
        self.diary: list[float] = []

    def write(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        super().write(x, *args, **kwargs)
        self.diary += x[:, 0].tolist()


class Shrinks(Hardest):
    @property
    def nbytes(self) -> int:
        return super().nbytes - (len(self) > 20)


class FixedGrows(Hardest):
    @property
    def nbytes_fixed(self) -> int:
        return len(self)


class Wasteful(RandomMemory):
    @classmethod
    def from_budget(cls, nbytes: Any, **kwargs: Any) -> Any:
        return super().from_budget(nbytes // 2, **kwargs)


class Slow(Hardest):
    def write(self, *args: Any, **kwargs: Any) -> None:
        super().write(*args, **kwargs)
        for _ in range(100 * len(self)):
            pass


class LosesItsGenerator(Hardest):
    def get_extra_state(self) -> Tensor:
        return torch.zeros(0)

    def set_extra_state(self, state: Tensor) -> None:
        pass


class SharesTensors(Hardest):
    def __deepcopy__(self, memo: Any) -> Any:
        return copy.copy(self)


class MovesInSilence(Hardest):
    def to(self, *args: Any) -> None:
        super().to(*args)


class LoadsWithoutGenerator(RandomMemory):
    def load(self, folder: Any) -> Any:
        super().load(folder)
        self._generator.manual_seed(0)
        return self


class Saves(Hardest):
    """Keeps what it promises."""

    def save(self, folder: Path) -> None:
        folder.mkdir()
        state = pickle.dumps({name: value.tolist() for name, value in self.state_dict().items()})
        (folder / "memory").write_bytes(hashlib.sha256(state).digest() + state)

    def load(self, folder: Path) -> Any:
        try:
            whole = (folder / "memory").read_bytes()
        except FileNotFoundError as error:
            raise ValueError("folder: no file") from error
        self._check(whole)
        self._take({name: torch.tensor(value) for name, value in pickle.loads(whole[32:]).items()})
        return self

    def _check(self, whole: bytes) -> None:
        if hashlib.sha256(whole[32:]).digest() != whole[:32]:
            raise ValueError("folder: damaged")

    def _take(self, state: dict[str, Tensor]) -> None:
        if len(state["loss"]) != self.capacity:
            raise ValueError("folder: another capacity")
        self.load_state_dict({**state, "_extra_state": state["_extra_state"].to(torch.uint8)})


class TakesAnyCapacity(Saves):
    def _take(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            if name != "_extra_state":
                self.register_buffer(name, value.to(self.get_buffer(name).dtype))
        self.set_extra_state(state["_extra_state"].to(torch.uint8))


class LoadsTheDamaged(Saves):
    def _check(self, whole: bytes) -> None:
        pass


GOOD_MEMORY = MemoryCase("saves", Saves)

breaks("check_samples_have_the_shapes_and_types_of_what_was_written", MemoryCase("short labels", ShortLabels))
breaks("check_an_empty_memory_has_no_rows", MemoryCase("false if empty", FalseIfEmpty))
breaks("check_len_counts_rows_up_to_the_capacity", MemoryCase("one more", CountsOneMore))
breaks("check_random_numbers_come_from_its_own_generator", MemoryCase("global", GlobalNumbers))
breaks("check_another_seed_makes_other_choices", MemoryCase("one seed", OneSeed))
breaks("check_only_written_rows_come_back", MemoryCase("mixed labels", MixedLabels))
breaks(
    "check_generated_rows_are_finite_and_of_written_classes",
    MemoryCase(
        "invented classes",
        lambda capacity, seed: InventedClasses(rank=1, seed=seed),
        error=None,
        grows="classes",
        sizes=(10, 800),
        from_budget=lambda nbytes: InventedClasses.from_budget(nbytes, classes=6, shape=(8,), seed=0),
        budget=(1_300, 0.8),
    ),
)
breaks(
    "check_reading_from_a_cue_is_finite_and_changes_nothing",
    MemoryCase(
        "writing read",
        lambda capacity, seed: WritingRead(16),
        rows=lambda n, seed: torch.randint(2, (n, 2, 16), generator=torch.Generator().manual_seed(seed)).float(),
        write=lambda memory, x, y, origin: memory.write(x),
        read=lambda memory, x: memory.read(torch.zeros(len(memory.held), 1, 16)),
        sizes=(40, 400),
    ),
    "check_a_state_dict_is_all_that_it_takes_to_go_on",
)
breaks("check_read_gives_the_shape_of_its_cue", MemoryCase("flat read", FlatRead))
breaks("check_predict_gives_finite_logits_and_written_classes_only", MemoryCase("the first", PredictsTheFirst))
breaks("check_what_is_read_has_no_gradient", MemoryCase("gradient", Gradient))
breaks("check_modes_of_its_networks_stay_as_they_are", MemoryCase("evaluates", Evaluates))
breaks("check_a_failed_write_changes_nothing", MemoryCase("draws first", DrawsFirst))
breaks("check_check_rows_tells_what_a_write_would", MemoryCase("takes anything", TakesAnything))
breaks("check_forgotten_rows_do_not_come_back", MemoryCase("forgets nothing", ForgetsNothing))
breaks("check_the_summary_agrees_with_the_memory", MemoryCase("boasts", Boasts))
breaks("check_nbytes_counts_what_is_held", MemoryCase("diary", Diary))
breaks("check_nbytes_does_not_shrink", MemoryCase("shrinks", Shrinks))
breaks("check_nbytes_fixed_does_not_depend_on_the_stream", MemoryCase("fixed grows", FixedGrows))
breaks("check_from_budget_uses_its_budget", MemoryCase("wasteful", Wasteful))
breaks("check_the_cost_of_a_write_and_a_read_does_not_grow_with_the_fill", MemoryCase("slow", Slow, fill=5_000))
breaks("check_a_state_dict_is_all_that_it_takes_to_go_on", MemoryCase("loses its generator", LosesItsGenerator))
breaks("check_copies_go_on_by_themselves", MemoryCase("shares tensors", SharesTensors))
breaks("check_it_moves_to_a_device", MemoryCase("moves in silence", MovesInSilence))
breaks("check_what_is_saved_loads_and_saves_equally", MemoryCase("without generator", LoadsWithoutGenerator))
breaks("check_a_folder_of_other_arguments_is_refused", MemoryCase("any capacity", TakesAnyCapacity))
breaks("check_a_damaged_folder_is_refused", MemoryCase("loads the damaged", LoadsTheDamaged))

# ------------------------------------------------------------------------------------------------ codecs


class SaysOtherwise(Float16):
    def spec(self, shape: Any, dtype: Any) -> Any:
        return shape, dtype


class StaysHalf(Float16):
    def decode(self, code: Tensor, shape: Any, dtype: Any) -> Tensor:
        return code


class Drifts(Int8):
    def decode(self, code: Tensor, shape: Any, dtype: Any) -> Tensor:
        return (code.to(dtype) + 0.6) * self.step


class AloneIsNothing(Raw):
    def encode(self, x: Tensor) -> Tensor:
        return x if len(x) > 1 else 0 * x


class InPlace(Raw):
    def decode(self, code: Tensor, shape: Any, dtype: Any) -> Tensor:
        return code.clamp_(-1, 1)


class NoCheck(Raw):
    def check(self, x: Tensor) -> None:
        pass


class Counts(Raw):
    nbytes_fixed = 0

    def encode(self, x: Tensor) -> Tensor:
        self.nbytes_fixed += 1
        return x


class Dithers(Raw):
    def encode(self, x: Tensor) -> Tensor:
        torch.rand(())
        return x


class Nameless(Raw):
    __repr__ = object.__repr__


breaks("check_the_code_is_as_stated", CodecCase("says otherwise", SaysOtherwise, error=None))
breaks("check_rows_come_back_in_their_shape_and_type", CodecCase("stays half", StaysHalf, error=None))
breaks("check_rows_come_back_within_the_error", CodecCase("coarse", lambda: Int8(step=0.5), error=0.03))
breaks("check_what_came_back_is_stored_without_further_loss", CodecCase("drifts", Drifts, error=None))
breaks("check_a_row_does_not_depend_on_its_batch", CodecCase("alone is nothing", AloneIsNothing))
breaks("check_its_arguments_stay_as_they_are", CodecCase("in place", InPlace, error=None))
breaks("check_a_row_takes_the_stated_bytes", CodecCase("raw", Raw, nbytes=31))
breaks("check_rows_that_cannot_be_stored_are_refused", CodecCase("no check", NoCheck))
breaks("check_fixed_bytes_are_stated", CodecCase("counts", Counts))
breaks("check_it_has_no_state_that_the_stream_changes", CodecCase("dithers", Dithers))
breaks("check_copies_have_the_same_name_and_codes", CodecCase("nameless", Nameless))

# ------------------------------------------------------------------------------------------------ policies


class RowsFromOne(Ring):
    def place(self, *args: Any) -> list[Placement]:
        return [Placement(torch.arange(rows.start, rows.stop) + 1, slots) for rows, slots in super().place(*args)]


class EveryWrite(Reservoir):
    def place(self, seen: int, batch: int, groups: Any, generator: torch.Generator) -> list[Placement]:
        slots = reservoir_slots(seen, batch, self.capacity, generator=generator)
        rows = (slots >= 0).nonzero().flatten()
        return [Placement(rows, slots[rows])]


class Backwards(Ring):
    def place(self, *args: Any) -> list[Placement]:
        return [
            Placement(rows, self.capacity - 1 - torch.arange(self.capacity)[slots])
            for rows, slots in super().place(*args)
        ]


class TouchesGlobal(Ring):
    def place(self, *args: Any) -> list[Placement]:
        torch.rand(())
        return super().place(*args)


class OwnCount(Ring):
    """Counts rows itself."""

    at = 0

    def start(self, capacity: int) -> None:
        super().start(capacity)
        self.at = 0

    def place(self, seen: int, batch: int, *args: Any) -> list[Placement]:
        placed = super().place(self.at, batch, *args)
        self.at += batch
        return placed


class NeverStartsAnew(OwnCount):
    def start(self, capacity: int) -> None:
        self.capacity = capacity

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class HidesItsBytes(Ring):
    def state_dict(self) -> dict[str, Any]:
        return {"table": torch.zeros(self.capacity)}


class Short(Uniform):
    def choose(self, *args: Any) -> Tensor:
        return super().choose(*args).int()


class Repeats(Uniform):
    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        return torch.randint(filled, (min(count, filled),), generator=generator)


class ReadsGlobal(Uniform):
    def choose(self, *args: Any) -> Tensor:
        torch.rand(())
        return super().choose(*args)


class CountsInPlace(Uniform):
    def start(self, capacity: int) -> None:
        self.count = torch.zeros(1)

    def choose(self, *args: Any) -> Tensor:
        self.count += 1
        return super().choose(*args)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class ForgetsItsPass(Cycle):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class PrefersTheLast(Uniform):
    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        return torch.multinomial(torch.arange(1.0, filled + 1), min(count, filled), generator=generator)


breaks("check_rows_and_slots_are_within_their_range", PolicyCase("rows from one", RowsFromOne))
breaks("check_a_slot_gets_at_most_one_row_of_a_batch", PolicyCase("every write", EveryWrite))
breaks("check_slots_fill_from_the_first_on", PolicyCase("backwards", Backwards))
breaks("check_choices_come_from_the_generator", PolicyCase("touches global", TouchesGlobal))
breaks("check_a_restored_write_policy_goes_on_exactly", PolicyCase("own count", OwnCount))
breaks("check_start_empties_the_policy", PolicyCase("never starts anew", NeverStartsAnew))
breaks("check_the_bytes_of_its_state_are_stated", PolicyCase("hides its bytes", HidesItsBytes))
breaks("check_every_row_is_kept_equally_often", PolicyCase("ring", Ring, uniform=True))
breaks("check_slots_that_are_chosen_hold_a_row", PolicyCase("short", Short))
breaks("check_a_row_is_chosen_once_at_a_time", PolicyCase("repeats", Repeats))
breaks("check_draws_come_from_the_generator", PolicyCase("reads global", ReadsGlobal))
breaks("check_a_draw_made_ahead_on_a_shallow_copy_does_not_count", PolicyCase("in place", CountsInPlace))
breaks("check_a_restored_read_policy_goes_on_exactly", PolicyCase("forgets its pass", ForgetsItsPass))
breaks("check_every_row_is_drawn_equally_often", PolicyCase("the last", PrefersTheLast, uniform=True))

# ------------------------------------------------------------------------------------------------ plugins


class Plugin(SupervisedPlugin):
    """Keeps what it promises: it does nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class DropsARow(Plugin):
    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.mbatch = [column[:-1] if len(column) > 1 else column for column in strategy.mbatch]


class OtherLoss(Plugin):
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss = 2 * strategy.loss


class Noise(Plugin):
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            strategy.model.features[0].bias += int.from_bytes(os.urandom(4), "big") / 2**32


class HiddenCount(Plugin):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "count": 0}

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.count += 1
        for group in strategy.optimizer.param_groups:
            group["lr"] = 0.05 / self.count


class Thaws(Plugin):
    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        strategy.model.requires_grad_(True)


class WakesUp(Plugin):
    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        for module in strategy.model.modules():
            module.training = True


class LeavesAHook(Plugin):
    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.hook: Any = strategy.model.classifier.register_forward_hook(lambda *args: None)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.hook.remove()
        self.hook = None


class ScalesTheLoss(Plugin):
    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss = 1.5 * strategy.loss

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss = strategy.loss / 1.5


class NotUnderAutocast(Plugin):
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if torch.is_autocast_enabled("cpu"):
            nn.init.constant_(strategy.model.classifier.bias, float("nan"))


class KnowsOneArgument(Plugin):
    def before_training_exp(self, strategy: Any, num_workers: int = 0) -> None:
        pass


breaks("check_streams_of_every_kind_and_the_evaluator_sees_their_rows_only", PluginCase("drops a row", DropsARow))
breaks("check_metrics_are_those_of_the_streams_rows", PluginCase("other loss", OtherLoss))
breaks(
    "check_a_run_is_repeatable_bit_for_bit",
    PluginCase("noise", Noise),
    "check_a_plugin_restored_at_a_boundary_goes_on_exactly",
    "check_its_place_in_the_list_changes_no_number",
)
breaks("check_a_plugin_restored_at_a_boundary_goes_on_exactly", PluginCase("hidden count", HiddenCount))
breaks("check_nothing_of_it_enters_optimizer_model_or_criterion", PluginCase("thaws", Thaws))
breaks("check_a_frozen_layer_in_eval_mode_stays_so", PluginCase("wakes up", WakesUp))
breaks("check_an_exception_leaves_nothing_behind", PluginCase("leaves a hook", LeavesAHook))
breaks("check_its_place_in_the_list_changes_no_number", PluginCase("scales the loss", ScalesTheLoss))
breaks("check_autocast", PluginCase("not under autocast", NotUnderAutocast))
breaks("check_it_takes_whatever_avalanche_passes_on", PluginCase("one argument", KnowsOneArgument))

GOOD = [
    GOOD_MEMORY,
    CodecCase("raw", Raw, nbytes=32),
    PolicyCase("own count", NeverStartsAnew, {"check_start_empties_the_policy": "it goes on"}),
    PluginCase("nothing", Plugin),
]
