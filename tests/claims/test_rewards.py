"""The experiments on reward models, whole, on pico bases and little data."""

import dataclasses

import pytest
import torch
from one_seed import write_rows

from collegium.claims import EXPERIMENTS, read_ledger, run_claims
from collegium.claims.experiment import Place
from collegium.claims.reward_continue import continued
from collegium.claims.reward_measure import conflict, growth, lightweight, specialists
from collegium.claims.reward_setup import PLANS, RewardSettings, draw_pairs, seen_of
from collegium.claims.reward_work import RewardWork, equal_rank
from collegium.claims.rewards import CONFLICT, TOY, TOY_RATES, pieces_of, reward_experiment, wide_pico
from collegium.claims.tables import read_table
from collegium.core.samples import Sample
from collegium.data.synthetic_preferences import conflicting_domains, toy_domains
from collegium.library import Library
from collegium.rewards import RewardConfig, fit_judge, fit_whole_judge, open_reward
from collegium.testing.pico import pico_base

QUICK = RewardConfig(train_pairs=16, dev_pairs=8, passes=1.0, rank=4, layers="top:1", threads=1)
NAMES = ("salt", "gold", "wind")
LITTLE = RewardSettings(NAMES, 60, judged=6, config=QUICK, rates={"adapter": (1e-3, 3e-3), "whole": (1e-3,)})


@pytest.fixture(scope="module")
def corpus():
    return toy_domains(3, 80, 0)


@pytest.fixture(scope="module")
def base():
    torch.set_num_threads(1)
    return pico_base()


def run(tmp_path, settings, *ids, experiment, scale="toy", pairs=None):
    made = reward_experiment(
        settings, base=pico_base, corpus=pairs or (lambda seed: toy_domains(3, 80, seed)), other=wide_pico
    )
    ledger = write_rows(tmp_path / "ledger", ids, scale=scale)
    results = tmp_path / "results"
    outcomes = run_claims(
        folder=tmp_path / "run", ledger=ledger, results=results, experiments={experiment: made}, command="test"
    )
    return outcomes, results


@pytest.mark.recipe
def test_all_claims_of_a_base_with_a_larger_one(tmp_path):
    outcomes, results = run(
        tmp_path, dataclasses.replace(LITTLE, partner="larger"), "R1", "R2", "R3", "R9", "R10", experiment="toy_rewards"
    )
    assert [each.claim.id for each in outcomes] == ["R1", "R2", "R3", "R9", "R10"]
    assert {each.state for each in outcomes} == {"measured"}
    tables = {each.result.table for each in outcomes if each.result}
    assert len(tables) == 1, "one run, one table"
    rows = {row["model"]: row for row in read_table(tables.pop(), folder=results)}
    assert rows["floor: words alone (tf-idf)"]["mean"] == pytest.approx(rows["arliss"]["floor"])
    assert rows["joint-wide"]["active"] >= rows["more"]["active"] > rows["joint"]["active"]
    assert rows["larger-joint-whole"]["resident"] > 2 * rows["more"]["resident"]
    assert rows["arliss, adding wind"]["pairs"] == 16
    assert set(rows["rodos's judge of gold"]["accuracy"]) == set(NAMES)
    assert set(rows["arliss, before wind"]["accuracy"]) == {"salt", "gold"}


@pytest.mark.recipe
def test_a_smaller_partner_and_no_choice_of_rates(tmp_path):
    settings = dataclasses.replace(LITTLE, partner="smaller", rates={})
    outcomes, results = run(tmp_path, settings, "R9", experiment="small_rewards", scale="small")
    (outcome,) = outcomes
    assert outcome.state == "measured"
    rows = {row["model"]: row for row in read_table(outcome.result.table, folder=results)}
    assert rows["smaller-arliss"]["resident"] > rows["joint"]["resident"], "the other base is a wide one here"


@pytest.mark.recipe
def test_two_domains_that_conflict(tmp_path):
    settings = dataclasses.replace(CONFLICT, pairs=60, judged=6, config=QUICK, rates={})
    pairs = lambda seed: conflicting_domains(80, seed)  # noqa: E731
    outcomes, results = run(tmp_path, settings, "R8", experiment="toy_conflict", pairs=pairs)
    (outcome,) = outcomes
    rows = {row["model"]: row for row in read_table(outcome.result.table, folder=results)}
    assert rows["joint-whole-long"]["pairs"] > rows["joint-whole"]["pairs"] == 32


def test_a_larger_scale_measures_what_the_toys_measure():
    metrics = {scale: {} for scale in ("toy", "small")}
    for claim in read_ledger():
        if claim.id.startswith("R") and claim.scale != "exact":
            metrics[claim.scale][claim.id] = {part.metric for part in claim.parts}
    together = metrics["small"].pop("R11")
    assert together == set().union(*(metrics["toy"][each] for each in ("R1", "R2", "R3", "R10")))
    assert metrics["small"] == {name: metrics["toy"][name] for name in metrics["small"]}


def test_learning_rates_are_tried_alike_for_every_model():
    once = EXPERIMENTS["toy_rewards"].once
    tried = [piece.removeprefix("rate.").rpartition(".")[0] for piece in once]
    assert {tried.count(name) for name in tried} == {3}
    assert set(tried) == {*TOY.models, "larger-joint-whole"}
    for rates in TOY_RATES.values():
        assert rates[1] / rates[0] == pytest.approx(3) == rates[2] / rates[1]
    assert EXPERIMENTS["small_rewards"].once == ()


def test_pieces_come_after_what_they_read():
    pieces = pieces_of(TOY)
    for earlier, later in (
        ("fit.joint", "fit.joint-wide"),
        ("fit.more", "fit.joint-wide"),
        ("member.rodos.wind", "found.rodos"),
        ("found.rodos", "grow.rodos"),
        ("fit.joint-old", "continue.joint"),
        ("grow.arliss", "judge.arliss"),
    ):
        assert pieces.index(earlier) < pieces.index(later)
    assert "member.rodos.moon" not in pieces, "the new domain's judge is made when it comes"
    assert {piece.split(".")[1] for piece in pieces} <= set(PLANS)


def test_a_seed_draws_pairs_of_its_own(corpus):
    one, same, other = (draw_pairs(corpus, LITTLE, seed) for seed in (0, 0, 1))
    assert one == same != other
    assert [len(each.pairs) for each in one] == [60, 60, 60]
    assert set(one["gold"].pairs) < set(corpus["gold"].pairs)
    whole = draw_pairs(corpus, dataclasses.replace(LITTLE, pairs=80), 0)
    assert whole["gold"].pairs == corpus["gold"].pairs


def test_no_pair_is_judged_by_that_was_learned_from_or_chosen_by(corpus):
    seen = seen_of(corpus, QUICK)
    judged = {pair.hash for domain in corpus for pair in domain.split().test}
    assert not judged & (seen.train | seen.dev)
    assert seen.pairs == 16


def test_an_equal_rank_is_the_least_that_is_as_active():
    base = pico_base()
    backbone = sum(each.numel() for each in base.inner.parameters())
    active = lambda rank: backbone + 64 + 1000 * rank  # noqa: E731
    assert equal_rank(4, active(4), active(9), base=base) == 9
    assert equal_rank(4, active(4), active(9) + 1, base=base) == 10
    assert equal_rank(4, active(4), active(2), base=base) == 4


@pytest.mark.parametrize("fit", [fit_judge, fit_whole_judge])
def test_a_judge_goes_on_from_where_it_was(base, corpus, tmp_path, fit):
    samples = [Sample(pair.prompt, pair.chosen) for pair in corpus["wind"].pairs[:6]]
    library = Library(tmp_path / "library", base=base)
    old = fit(base, [corpus["salt"], corpus["gold"]], config=QUICK, name="old").expert
    library.add(old)
    said = open_reward(base, library, "old").judge(samples, raw=True).rewards
    still = dataclasses.replace(QUICK, learning_rate=1e-12)
    for name, config in (("still", still), ("on", dataclasses.replace(QUICK, learning_rate=3e-3))):
        library.add(continued(base, library["old"], corpus["wind"], config=config, name=name))
    assert torch.allclose(open_reward(base, library, "still").judge(samples, raw=True).rewards, said, atol=1e-5)
    assert not torch.allclose(open_reward(base, library, "on").judge(samples, raw=True).rewards, said, atol=1e-3)
    assert torch.equal(open_reward(base, library, "old").judge(samples, raw=True).rewards, said)
    assert library.card("on").domain == "wind"


@pytest.mark.parametrize("design", ["arliss", "rodos"])
def test_a_stage_that_was_interrupted_before_it_was_noted_runs_again(base, corpus, tmp_path, design):
    settings = dataclasses.replace(LITTLE, rates={})
    work = RewardWork(settings, lambda seed: base, lambda seed: base, lambda seed: corpus)
    place = Place(0, tmp_path, tmp_path, {}, lambda line: None)
    for piece in ("member.{}.salt", "member.{}.salt", "member.{}.gold", "found.{}", "found.{}", "grow.{}"):
        done = work.run(piece.format(design), place)
        assert done.get("pairs", 16) == 16, "what is noted is what it costs, not what an earlier run left over"
    again = work.run(f"grow.{design}", place)
    assert done["came"] == again["came"] == ["wind"]
    assert set(work.run(f"judge.{design}", place)["accuracy"]) == set(NAMES)
    assert not base.attached


def test_specialists_are_read_from_the_matrix_by_row():
    matrix = {"a": {"a": 0.9, "b": 0.6}, "b": {"a": 0.7, "b": 0.5}}
    found = specialists({f"judge.{design}": {"matrix": matrix} for design in ("arliss", "rodos")})
    assert found["rodos_own_minus_best_other"] == pytest.approx(-0.2)
    assert found["rodos_own_minus_others"] == pytest.approx(0.05)


def test_numbers_of_growth():
    accuracy = lambda old, new: {"accuracy": {"salt": old, "gold": old, "wind": new}}  # noqa: E731
    done = {}
    for design, joint in (("arliss", "joint"), ("rodos", "joint-whole")):
        done |= {
            f"grow.{design}": {"pairs": 10, "prompts": 20, "seconds": 2.0},
            f"fit.{joint}": {"pairs": 40, "seconds": 8.0},
            f"judge.{design}": accuracy(0.9, 0.7),
            f"judge.{joint}": accuracy(0.8, 0.75),
            f"continue.{joint}": accuracy(0.6, 0.9),
            f"found.{design}": {"accuracy": {"salt": 0.92, "gold": 0.9}},
        }
    found = growth(done, LITTLE)
    expected = {
        "texts_ratio": 0.5,
        "seconds_ratio": 0.25,
        "old_change": -0.01,
        "old_minus_retrained": 0.1,
        "new_minus_retrained": -0.05,
        "old_minus_continued": 0.3,
    }
    assert found == {
        f"{name}_{key}": pytest.approx(value) for name in ("arliss", "rodos") for key, value in expected.items()
    }


def test_the_larger_model_is_held_against_the_larger_of_the_small_ones():
    judged = lambda share, size: {"accuracy": {"a": share}, "parameters_resident": size}  # noqa: E731
    done = {
        "judge.arliss": judged(0.9, 30),
        "judge.more": judged(0.8, 40),
        "judge.larger-joint-whole": judged(0.85, 100),
    }
    found = lightweight(done, partner="larger")
    assert found["resident_ratio"] == 2.5
    assert found["more_minus_larger_joint"] == pytest.approx(-0.05)


def test_conflict_is_judged_by_the_worse_domain():
    names = {"joint": (0.5, 0.9), "joint-whole": (0.6, 0.55), "arliss": (0.8, 0.9), "rodos": (1.0, 0.9)}
    found = conflict(
        {f"judge.{name}": {"accuracy": dict(zip("ab", each, strict=True))} for name, each in names.items()}
    )
    assert found["arliss_minus_joint_worst"] == pytest.approx(0.3)
    assert found["rodos_minus_joint_whole_worst"] == pytest.approx(0.35)
    assert found["joint_whole_worst"] == 0.55
