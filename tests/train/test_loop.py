"""Laws of the fit loop: resume, accumulation, early stop, faults."""

import dataclasses
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from toy import Parameters, Toy, fresh

from collegium.core.errors import ConfigError, TrainingError
from collegium.train import (
    Checkpoints,
    DivergenceWatch,
    Epochs,
    Fit,
    LoopConfig,
    Loss,
    MemoryLogger,
    Snapshot,
    fit,
    learning_rate_at,
    steps_of_budget,
)


def equal(one: Parameters, other: Parameters) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def in_two_halves(folder: Path, checkpoints: type[Checkpoints] = Checkpoints) -> tuple[Toy, Fit]:
    Toy().fit(checkpoints=checkpoints(folder, "toy"), until=20)
    second = Toy()
    return second, second.fit(checkpoints=checkpoints(folder, "toy"))


@pytest.fixture(scope="module")
def unbroken() -> tuple[Toy, Fit]:
    toy = Toy()
    return toy, toy.fit()


def test_n_steps_and_n_more_are_twice_n_bit_for_bit(tmp_path, unbroken):
    toy, done = in_two_halves(tmp_path)
    assert equal(toy.weights, unbroken[0].weights)
    assert done == unbroken[1]


def test_the_law_rejects_a_checkpoint_without_optimiser_state(tmp_path, unbroken):
    class Forgetful(Checkpoints):
        def latest(self) -> Snapshot | None:
            found = super().latest()
            return found and dataclasses.replace(found, tensors={**found.tensors, "first": {}, "second": {}})

    toy, _ = in_two_halves(tmp_path, Forgetful)
    assert not equal(toy.weights, unbroken[0].weights)


def test_a_finished_fit_is_not_made_again(tmp_path, unbroken):
    Toy().fit(checkpoints=Checkpoints(tmp_path, "toy"))
    again, logger = Toy(), MemoryLogger()
    done = again.fit(checkpoints=Checkpoints(tmp_path, "toy"), logger=logger)
    assert logger.rows == []
    assert equal(again.weights, unbroken[0].weights)
    assert done == unbroken[1]


def test_parts_of_unequal_counts_add_up_to_one_batch():
    counts = (1, 5, 0, 2)

    def run(parts: int) -> Parameters:
        weights = fresh()
        toy = Toy()
        toy.weights = weights

        def loss(step: int, part: int) -> Loss:
            first, last = (0, sum(counts)) if parts == 1 else (sum(counts[:part]), sum(counts[: part + 1]))
            rows = torch.arange(first, last) + 8 * step
            predicted = torch.tanh(toy.inputs[rows] @ weights["first"].T + weights["bias"]) @ weights["second"].T
            return Loss((predicted - toy.targets[rows]).square().sum(), last - first)

        fit(weights, loss, config=LoopConfig(5, 0.01, accumulation=parts))
        return weights

    whole, split = run(1), run(len(counts))
    for name in whole:
        torch.testing.assert_close(whole[name], split[name], rtol=1e-4, atol=1e-6)
    assert not equal(whole, fresh())


def overfitting(patience: int, worse_after: int = 10, steps: int = 100) -> tuple[torch.Tensor, Fit]:
    weight = torch.zeros(1, requires_grad=True)
    seen = iter(range(1000))
    done = fit(
        {"w": weight},
        lambda step, part: Loss((weight - 1).square().sum(), 1),
        config=LoopConfig(steps, 0.001, evaluate_every=2, patience=patience),
        evaluate=lambda: abs(next(seen) - worse_after / 2),
    )
    return weight, done


def test_early_stop_gives_back_the_best_weights():
    weight, done = overfitting(patience=3)
    assert (done.ended, done.step) == ("patience", 10)
    assert len(done.history.steps) == 16
    reference = torch.zeros(1, requires_grad=True)
    fit(
        {"w": reference},
        lambda step, part: Loss((reference - 1).square().sum(), 1),
        config=LoopConfig(100, 0.001),
        until=10,
    )
    assert torch.equal(weight, reference)


def test_without_patience_all_steps_are_made_and_the_best_still_comes_back():
    _, done = overfitting(patience=0)
    assert (done.ended, done.step, len(done.history.steps)) == ("steps", 10, 100)


def test_a_fit_that_only_does_harm_gives_back_its_start():
    weight, done = overfitting(patience=2, worse_after=0)
    assert done.step == 0
    assert torch.equal(weight, torch.zeros(1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_way_out(bad):
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(TrainingError, match=r"loss of step 4 is (nan|inf).*Lower the learning rate \(now 0.001\)"):
        fit(
            {"w": weight},
            lambda step, part: Loss((weight + (bad if step == 3 else 1)).sum(), 1),
            config=LoopConfig(10),
        )
    assert torch.isfinite(weight).all()


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change():
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(TrainingError, match="norm of the gradient of step 1 is"):
        fit({"w": weight}, lambda step, part: Loss(weight.abs().sqrt().sum(), 1), config=LoopConfig(10))
    assert torch.equal(weight, torch.zeros(1))


def test_a_held_out_loss_that_is_not_finite_stops():
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(TrainingError, match="held-out loss after step 0"):
        fit(
            {"w": weight},
            lambda step, part: Loss(weight.sum(), 1),
            config=LoopConfig(3),
            evaluate=lambda: float("nan"),
        )


def test_divergence_stops_with_the_way_out():
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(TrainingError, match=r"diverged: the last 10 losses.*Lower the learning rate"):
        fit(
            {"w": weight},
            lambda step, part: Loss(weight.sum() * 0 + (3.0 if step < 30 else 5.0), 1),
            config=LoopConfig(100),
        )


def test_noise_and_a_single_jump_are_no_divergence():
    drawn = torch.Generator().manual_seed(0)
    watch = DivergenceWatch(1.5, 10)
    noisy = (3 - torch.arange(200) / 100 + torch.randn(200, generator=drawn)).tolist()
    assert not any(watch.add(loss) for loss in [*noisy[:100], 50.0, *noisy[100:]])


def test_a_watch_resumes_from_earlier_losses():
    losses = [3.0] * 12 + [9.0] * 10
    whole = DivergenceWatch(1.5, 10)
    told = [whole.add(loss) for loss in losses]
    assert told == [False] * 21 + [True]
    halves = DivergenceWatch(1.5, 10, losses[:17])
    assert [halves.add(loss) for loss in losses[17:]] == told[17:]


def test_an_interrupt_leaves_a_checkpoint_that_goes_on_exactly(tmp_path, unbroken):
    class Interrupting(Toy):
        def loss(self, step: int, part: int) -> Loss:
            if step == 7 and part == 1:
                raise KeyboardInterrupt
            return super().loss(step, part)

    with pytest.raises(KeyboardInterrupt):
        Interrupting().fit(checkpoints=Checkpoints(tmp_path, "toy", every=1000))
    found = Checkpoints(tmp_path, "toy").latest()
    assert found is not None
    assert found.step == 7
    toy = Toy()
    assert toy.fit(checkpoints=Checkpoints(tmp_path, "toy")) == unbroken[1]
    assert equal(toy.weights, unbroken[0].weights)


def test_decay_touches_matrices_alone():
    matrix, vector = torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    fit(
        {"m": matrix, "v": vector},
        lambda step, part: Loss(0 * (matrix.sum() + vector.sum()), 1),
        config=LoopConfig(3, 0.1, weight_decay=0.5),
    )
    assert (matrix < 1).all()
    assert (vector == 1).all()


def test_the_gradient_is_clipped_to_its_global_norm():
    weight = torch.zeros(3, requires_grad=True)
    done = fit({"w": weight}, lambda step, part: Loss(30 * weight.sum(), 1), config=LoopConfig(1, clip=0.5))
    assert done.history.steps[0].gradient_norm == pytest.approx(30 * 3**0.5)


def test_the_learning_rate_warms_up_and_falls_to_its_end():
    config = LoopConfig(100, 2.0, warmup_steps=10, final_fraction=0.1)
    rates = [learning_rate_at(step, config) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[9] == max(rates)
    assert sorted(rates[9:], reverse=True) == rates[9:]
    assert rates[-1] == pytest.approx(0.2)


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(ConfigError, match=r"learning_rate is positive, got 0.0; .*clip is positive, got -1"):
        LoopConfig(10, learning_rate=0.0, clip=-1.0)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"steps": 7}, 7), ({"tokens": 1000}, 10), ({"seconds": 60.0, "tokens_per_second": 50.0}, 30), ({"tokens": 3}, 1)],
)
def test_budgets_become_steps(budget, steps):
    assert steps_of_budget(tokens_per_step=100, **budget) == steps


@pytest.mark.parametrize("budget", [{}, {"seconds": 10.0}])
def test_a_budget_that_decides_nothing_is_refused(budget):
    with pytest.raises(ConfigError):
        steps_of_budget(tokens_per_step=100, **budget)


def test_every_epoch_reads_every_row_once_and_numbers_may_be_asked_in_any_order():
    epochs = Epochs(10, 4, 3)
    stream = torch.cat([epochs.rows(number) for number in range(5)])
    assert sorted(stream[:10].tolist()) == sorted(stream[10:].tolist()) == list(range(10))
    assert not torch.equal(stream[:10], stream[10:])
    for number in (4, 0, 3):
        assert torch.equal(Epochs(10, 4, 3).rows(number), stream[4 * number : 4 * number + 4])


def every_other(step: int) -> tuple[str, ...]:
    """Return who is idle: `second` in every odd step."""
    return ("second",) if step % 2 else ()


def halves(folder: Path | None, *, until: int | None = None, weights: Parameters | None = None) -> Parameters:
    weights = fresh() if weights is None else weights
    checkpoints = None if folder is None else Checkpoints(folder, "idle", every=5)
    config = LoopConfig(20, 0.05, weight_decay=0.5)

    def loss(step: int, part: int) -> Loss:
        del part
        return Loss(sum((each - step % 3).square().sum() for each in weights.values()), 1)  # pyright: ignore[reportArgumentType]

    fit(weights, loss, config=config, checkpoints=checkpoints, until=until, idle=every_other)
    return weights


def test_an_idle_parameter_is_left_to_the_bit_and_its_means_with_it():
    seen = fresh()
    before = {name: each.detach().clone() for name, each in seen.items()}
    config = LoopConfig(1, 0.05, weight_decay=0.5)
    everything = lambda step, part: Loss(sum(each.square().sum() for each in seen.values()), 1)  # noqa: E731
    fit(seen, everything, config=config, idle=lambda step: {"second", "bias"})
    assert torch.equal(seen["second"], before["second"])
    assert torch.equal(seen["bias"], before["bias"])
    assert not torch.equal(seen["first"], before["first"])


def test_a_resumed_fit_knows_how_often_each_parameter_was_idle(tmp_path):
    straight = halves(None)
    halves(tmp_path, until=9)
    assert equal(halves(tmp_path), straight)


def test_the_law_rejects_counting_updates_that_a_parameter_sat_out(tmp_path, monkeypatch):
    straight = halves(None)
    halves(tmp_path, until=9)
    monkeypatch.setattr("collegium.train.loop.Counter", lambda names: defaultdict(int))
    assert not equal(halves(tmp_path), straight)
