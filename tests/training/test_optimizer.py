"""Parameter groups, optimizers and schedules."""

from __future__ import annotations

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from budgerigar.encoder.interface import Trainable
from budgerigar.recipe import OPTIMIZERS, SHARED_OPTIMIZER_FIELDS
from budgerigar.training import optimizer
from budgerigar.training.optimizer import Rates

RATES = Rates(base=1e-3, head=5e-3, layers={2: 1e-4}, decay=0.5, lora_plus=16.0, depth=4)


def trainable(name, part="adapter", layer=None, factor="") -> Trainable:
    return Trainable(name, torch.nn.Parameter(torch.zeros(3, 2)), part, layer, factor)


def test_rates_by_place():
    assert RATES.of("head", None) == 5e-3
    assert RATES.of("adapter", 3, "A") == 1e-3
    assert RATES.of("adapter", 3, "B") == 16e-3
    assert RATES.of("adapter", 2, "A") == 1e-4 * 0.5
    assert RATES.of("other", 0) == 1e-3 * 0.5**3
    assert RATES.of("other", None) == 1e-3 * 0.5**4


def test_each_parameter_stands_in_exactly_one_group():
    every = [
        trainable("a", layer=3, factor="A"),
        trainable("b", layer=3, factor="B"),
        trainable("c", layer=2, factor="A"),
        trainable("d", part="other"),
        trainable("e", part="head"),
    ]
    made = optimizer.build(every, RATES, "adamw", {}, 0.01)
    held = [id(p) for group in made.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(one.tensor) for one in every)
    assert {group["peak"] for group in made.param_groups} == {
        RATES.of(one.part, one.layer, one.factor) for one in every
    }
    optimizer.set_rates(made, 0.25)
    assert all(group["lr"] == group["peak"] * 0.25 for group in made.param_groups)


@pytest.mark.parametrize("name", optimizer.CAPTURABLE)
def test_optimizers_that_step_together_step_as_each_alone(name):
    """Of three runs the last has another option, so that its groups are its own."""
    ended = []
    for is_together in (False, True):
        torch.manual_seed(2)
        runs = [
            [trainable("a", layer=3), trainable("b", layer=3), trainable("c", part="head")]
            for _ in range(3)
        ]
        made = [
            optimizer.build(own, RATES, name, {"eps": 1e-3 if number == 2 else 1e-8}, 0.01)
            for number, own in enumerate(runs)
        ]
        together = optimizer.Together(made)
        for step in range(4):
            for own, one in zip(runs, made, strict=True):
                optimizer.set_rates(one, 1 - step / 4)
                for parameter in own:
                    parameter.tensor.grad = torch.randn(3, 2)
            for one in [together] if is_together else made:
                one.step()
        states = [[one.state[p.tensor] for p in own] for own, one in zip(runs, made, strict=True)]
        ended.append(([[p.tensor for p in own] for own in runs], states))
    (alone, states), (found, others) = ended
    for own, other in zip(alone, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    for own, other in zip(states, others, strict=True):
        for one, two in zip(own, other, strict=True):
            assert set(one) == set(two) != set()
            assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_of_the_recipes_takes_its_options_and_steps(name):
    options = OPTIMIZERS[name](name=name).model_dump(exclude=SHARED_OPTIMIZER_FIELDS)
    one = trainable("a", layer=1)
    made = optimizer.build([one], RATES, name, options, 0.01)
    one.tensor.grad = torch.ones(3, 2)
    made.step()
    assert (one.tensor < 0).all()
    for option, value in options.items():
        assert made.param_groups[0][option] == (tuple(value) if option == "betas" else value)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_options_have_the_defaults_of_torch(name):
    """Each default of ours that torch has too is torch's own, or differs on purpose."""
    one = trainable("a", layer=1)
    plain = optimizer.CLASSES[name]([one.tensor])
    ours = OPTIMIZERS[name](name=name).model_dump(exclude=SHARED_OPTIMIZER_FIELDS)
    on_purpose = {("sgd", "momentum"), ("nadam", "decoupled_weight_decay")}
    on_purpose |= {("radam", "decoupled_weight_decay")}
    for option, value in ours.items():
        assert option in plain.param_groups[0]
        if (name, option) not in on_purpose:
            assert plain.param_groups[0][option] == value


@pytest.mark.parametrize(
    ("name", "make"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
@pytest.mark.parametrize(("total", "warmup"), [(100, 0.1), (37, 0.1), (5, 0.0), (1, 0.1)])
def test_schedules_are_those_of_transformers(name, make, total, warmup):
    rising = -int(-total * warmup // 1)
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = make(plain, rising, total)
    for step in range(total):
        expected = theirs.get_last_lr()[0]
        assert optimizer.schedule(name, step, total, warmup) == pytest.approx(expected, abs=1e-12)
        plain.step()
        theirs.step()


def test_constant_stays_at_the_peak_after_the_warm_up():
    shares = [optimizer.schedule("constant", step, 20, 0.2) for step in range(20)]
    assert shares == [0.0, 0.25, 0.5, 0.75] + [1.0] * 16
