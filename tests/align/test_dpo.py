"""DPO against its closed form on an enumerable model."""

import math

import torch
from test_target import SIZE, every_text

from collegium.align.dpo import PairDraws, dev_loss, fit_preferences, margins, pair_draws
from collegium.align.policy import AdapterPolicy
from collegium.core.randomness import generator
from collegium.data.preferences import Pair
from collegium.experts.recipe import FitConfig, resolve
from collegium.testing.pico import pico_base
from collegium.testing.table_policy import TablePolicy
from collegium.testing.tiny import tiny_lm
from collegium.train import LoopConfig

BETA = 0.8


def preferences(many: int, seed: int = 0) -> tuple[PairDraws, torch.Tensor]:
    """Return pairs of texts ranked by the rule of Bradley and Terry on their size, and every text's size."""
    texts = every_text(tiny_lm(0))
    reward = SIZE(texts.samples).double()
    random = generator(seed, "pairs")
    one, two = torch.randint(len(texts), (2, many), generator=random)
    wins = torch.rand(many, generator=random, dtype=torch.float64) < (reward[one] - reward[two]).sigmoid()
    chosen, rejected = torch.where(wins, one, two), torch.where(wins, two, one)
    return PairDraws(texts.take(chosen), texts.take(rejected)), reward


def test_the_loss_of_a_policy_that_has_not_moved_is_log_two() -> None:
    pairs, _ = preferences(20)
    policy = TablePolicy(tiny_lm(0))
    assert float(margins(policy, tiny_lm(0), pairs, beta=BETA).detach().abs().max()) < 1e-12
    assert abs(dev_loss(policy, tiny_lm(0), pairs, beta=BETA, batch=7) - math.log(2)) < 1e-12


def test_its_optimum_is_the_target_of_kl_control() -> None:
    pairs, reward = preferences(6000)
    model, policy = tiny_lm(0), TablePolicy(tiny_lm(0))
    fit_preferences(policy, model, pairs, config=LoopConfig(150, 0.05), batch=600, beta=BETA)
    texts = every_text(model)
    log_a = texts.log_prob(model)
    log_p = (log_a + reward / BETA).log_softmax(0)
    moved = texts.log_prob(policy.speaker())
    before, after = ((log_p.exp() * (log_p - each)).sum() for each in (log_a, moved))
    assert float(after) < 0.1 * float(before)


def test_pairs_of_texts_end_and_are_learnt_by_an_adapter() -> None:
    base = pico_base()
    pairs = [Pair("say ", f"yes {n}", f"no {n}") for n in range(6)] + [Pair("say ", "y" * 40, "n")]
    drawn = pair_draws(base, pairs, text_tokens=24)
    last = drawn.chosen.tokens[torch.arange(7), drawn.chosen.lengths - 1]
    assert (last == base.tokenizer.eos_token_id).tolist() == [True] * 6 + [False]
    config = resolve(FitConfig(rank=4, layers="top:1"))
    policy = AdapterPolicy.fresh(base, config)
    assert float(margins(policy, base, drawn, beta=BETA).detach().abs().max()) < 1e-3
    history = fit_preferences(policy, base, drawn, dev=drawn, config=LoopConfig(20, 1e-2, evaluate_every=10), batch=7)
    assert history.evaluations[-1].loss < history.evaluations[0].loss - 0.05
