"""Models by name: outputs, options, what is frozen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from avalanche_memplugins.lab import RunSpec
from avalanche_memplugins.lab.models import MODELS, find_model
from avalanche_memplugins.lab.run import execute
from avalanche_memplugins.lab.strategies.recipe import with_defaults
from avalanche_memplugins.lab.training import make_optimizer, make_schedule

SHAPES = {"slim-resnet18": (3, 32, 32)}


@pytest.mark.parametrize("name", [*MODELS, "torchvision:resnet18", "torchvision:mobilenet_v2"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 37, 50)])
def test_every_model_makes_an_output_a_class(name: str, shape: tuple[int, ...]) -> None:
    shape = SHAPES.get(name, shape)
    model = find_model(name).make(shape, 7).eval()
    out = model(torch.rand(2, *shape))
    assert out.shape == (2, 7)
    # Untrained, MobileNet's many normalisations leave next to nothing of a row.
    assert not torch.equal(out[0], out[1]) or name in ("linear-zero", "torchvision:mobilenet_v2")


def test_a_frozen_backbone_keeps_its_weights_and_its_statistics() -> None:
    model = find_model("torchvision:resnet18").make((3, 32, 32), 5, freeze_backbone=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer("sgd", model.parameters(), lr=0.1)
    model.train()
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"network.fc.weight", "network.fc.bias"}


def test_models_that_do_not_suit_the_rows_say_so() -> None:
    with pytest.raises(ValueError, match=r"slim-resnet18 expected images of \(3, 32, 32\), got rows of \(1, 8, 8\)"):
        find_model("slim-resnet18").make((1, 8, 8), 5)
    with pytest.raises(ValueError, match=r"cnn expected images \(C, H, W\) of at least 4 x 4"):
        find_model("cnn").make((128, 1, 1), 5)
    with pytest.raises(ValueError, match=r"model: no 'resnet81'; did you mean 'resnet18'"):
        find_model("torchvision:resnet81").make((3, 32, 32), 5)
    with pytest.raises(ValueError, match="expected images of 1 or 3 channels"):
        find_model("torchvision:resnet18").make((4, 32, 32), 5)


def test_defaults_are_those_of_the_functions() -> None:
    assert with_defaults("x", {}, MODELS["cnn"].options) == {"channels": 32}
    shapes = [tuple(weight.shape) for weight in find_model("cnn").make((1, 8, 8), 3, channels=4, hidden=6).parameters()]
    assert shapes[0] == (4, 1, 3, 3)
    assert shapes[-2] == (3, 6)


def test_schedules_begin_anew_in_each_experience_and_end_where_they_should(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    from avalanche_memplugins.lab import run as lab_run

    rates: list[float] = []
    build = lab_run.build

    def spy(*arguments: object) -> object:
        built = build(*arguments)
        update = built.strategy.optimizer_step

        def step() -> None:
            rates.append(built.strategy.optimizer.param_groups[0]["lr"])
            update()

        built.strategy.optimizer_step = step
        return built

    monkeypatch.setattr(lab_run, "build", spy)
    assert execute(spec(optimizer="sgd", lr=0.5, momentum=0.9, schedule="cosine", iterations=8)).ok
    expected = [0.25 * (1 + float(torch.cos(torch.tensor(torch.pi * k / 8)))) for k in range(8)]
    assert rates == pytest.approx([*expected, *expected])
    rates.clear()
    assert execute(spec(optimizer="sgd", lr=0.5, schedule="step", iterations=8)).ok
    assert rates == pytest.approx([*[0.5] * 4, *[0.05] * 2, *[0.005] * 2] * 2)


def test_optimisers_are_torchs_with_momentum_and_decay() -> None:
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3), requires_grad=False)]
    sgd = make_optimizer("sgd", weights, lr=0.1, momentum=0.9, weight_decay=0.5)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.9, 0.5)
    assert [len(group["params"]) for group in sgd.param_groups] == [1], "what needs no gradient is left out"
    assert isinstance(make_optimizer("adamw", weights, lr=0.1), torch.optim.AdamW)
    assert make_schedule("constant", sgd, 5) is None


def test_a_cnn_learns_and_an_optimiser_of_torch_is_a_function_of_ones_own(spec: Callable[..., RunSpec]) -> None:
    result = execute(spec(model="cnn", hidden=64, epochs=8, optimizer="torch.optim:RAdam", lr=0.003, strategy="er"))
    assert result.ok, result.error
    assert result.final_accuracy > 0.6
