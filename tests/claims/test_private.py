"""The experiment on private experts, whole, on a pico base and made-up texts."""

import dataclasses
import math

import pytest
import torch
from one_seed import write_rows

from collegium.claims import EXPERIMENTS, read_ledger, run_claims
from collegium.claims.private import private_experiment
from collegium.claims.private_rows import METHODS, measured
from collegium.claims.private_score import (
    blended,
    constant,
    family_weights,
    own_family,
    uniform_scores,
    windows_in,
)
from collegium.claims.private_setup import (
    PrivateSettings,
    family_of,
    judged_text,
    mixed_windows,
    own_passages,
    pairs,
    private_names,
)
from collegium.claims.private_train import random_agreement, share_of
from collegium.claims.small_growth import some_rows
from collegium.claims.small_setup import materials
from collegium.claims.tables import read_table
from collegium.compose import Cast
from collegium.core.errors import DataError
from collegium.core.routing import Routing
from collegium.infer import score_text
from collegium.library import ParameterClusters
from collegium.testing.pico import byte_tokenizer, pico_base, random_adapter

NAMES = ("alpha", "beta", "gamma", "delta")
UNSEEN = ("omega", "psi")


@pytest.fixture(scope="module")
def settings(pico_settings) -> PrivateSettings:
    sizes = dataclasses.replace(pico_settings, rates=(1e-2,))
    return PrivateSettings(sizes=sizes, gate_steps=2, gate_tokens=512, searches=15, drawn=20)


@pytest.fixture(scope="module")
def found(pico_texts, settings):
    return materials(pico_texts, byte_tokenizer(), settings.sizes, 0)


@pytest.fixture(scope="module")
def text(found, settings):
    return judged_text(found, NAMES, UNSEEN, middle=settings.middle)


@pytest.fixture
def cast() -> Cast:
    base = pico_base()
    names = [name for domain in NAMES[:2] for name in private_names(domain, 2)]
    for number, name in enumerate(names):
        base.attach(name, random_adapter(base, number))
    return Cast(base, {name: name for name in names}, {})


def test_private_experts_share_no_passage(found, settings):
    drawn = [own_passages(found, name, settings.parts) for name in private_names("beta", settings.parts)]
    assert {len(each) for each in drawn} == {8}
    assert len({passage.hash for each in drawn for passage in each}) == 24
    assert all(passage in found.passages["beta"] for each in drawn for passage in each)
    with pytest.raises(DataError, match="too few for 25 private experts"):
        own_passages(found, "beta-0", 25)


def test_a_cluster_learns_all_that_its_members_read(found, settings):
    tokenizer = byte_tokenizer()
    alone = [share_of(name, [name], found, tokenizer=tokenizer, settings=settings) for name in ("alpha-0", "beta-2")]
    both = share_of("cluster-0", ["alpha-0", "beta-2"], found, tokenizer=tokenizer, settings=settings)
    assert both.train == (*alone[0].train, *alone[1].train)
    assert both.dev == (*alone[0].dev, *alone[1].dev)
    assert both.parts == 2
    same = share_of("cluster-1", ["alpha-0", "alpha-1"], found, tokenizer=tokenizer, settings=settings)
    assert same.dev == alone[0].dev


def test_mixed_windows_are_halves_of_held_out_windows(text, settings):
    middle = settings.middle
    for first, second in pairs(NAMES):
        [row] = torch.nonzero(text.of(f"{first}+{second}")).flatten().tolist()
        for domain, part in ((first, slice(0, middle)), (second, slice(middle, None))):
            own = text.tokens[text.of(domain)][:, part]
            assert (own == text.tokens[row, part]).all(1).any()
        counted = text.counted[row]
        assert counted[:middle].sum() == 20
        assert counted[middle:].sum() in (19, 20)
    assert len(text.domains) == len(text.of("alpha").nonzero()) * 6 + 12
    short = dataclasses.replace(text, lengths=text.lengths.clamp(max=middle))
    with pytest.raises(DataError, match="no held-out window has over 28 tokens"):
        mixed_windows(short, NAMES, middle=middle)


def test_nothing_that_is_judged_was_trained_on_or_chosen_by(found, text):
    assert set(text.domain_names) == {*NAMES, *UNSEEN, *(f"{first}+{second}" for first, second in pairs(NAMES))}
    tokenizer = byte_tokenizer()
    read = "\n".join(each.plain for each in (*found.all_passages, *found.all_dev))
    for domain in NAMES:
        rows = text.tokens[text.of(domain)]
        assert not any(tokenizer.decode(row.tolist(), skip_special_tokens=True)[:30] in read for row in rows)


def test_random_clusters_of_the_same_sizes_agree_by_chance():
    labels = torch.tensor([0, 0, 1, 1])
    found = ParameterClusters(("a", "b", "c", "d"), labels, torch.eye(4))
    # two of the six equally likely assignments agree wholly, four not at all
    assert random_agreement(found, ["x", "x", "y", "y"], drawn=2000, seed=0) == pytest.approx(1 / 3, abs=0.025)


def test_the_oracle_gives_a_mixed_window_to_one_family_after_the_other(cast, text, settings):
    weights = family_weights(cast, text, middle=settings.middle)
    assert weights.shape == (*text.tokens.shape, 4)
    [row] = torch.nonzero(text.of("beta+alpha")).flatten().tolist()
    assert weights[row, settings.middle - 1].tolist() == [0, 0, 0.5, 0.5]
    assert weights[row, settings.middle].tolist() == [0.5, 0.5, 0, 0]
    assert (weights[text.of("alpha")] == torch.tensor([0.5, 0.5, 0, 0])).all()
    assert not weights[text.of("omega")].any()


@pytest.mark.parametrize(
    "weights", [{}, {"beta-1": 1.0}, {"alpha-0": 0.25, "beta-0": -0.5}, dict.fromkeys(["alpha-0", "beta-1"], 0.5)]
)
def test_a_blend_scores_as_its_experts_folded_into_the_base(cast, text, weights):
    text = some_rows(text, range(3))
    found = blended(cast, text, constant(cast, weights, text), batch=2)
    folded = score_text(cast.merged(weights) if weights else cast.base, text)
    torch.testing.assert_close(found[text.counted], folded[text.counted], atol=1e-4, rtol=1e-4)


def test_uniform_weights_sum_to_one(cast, text):
    text = some_rows(text, range(3))
    folded = score_text(cast.merged(dict.fromkeys(cast.names, 0.25)), text)
    found = uniform_scores(cast, text, batch=2)
    torch.testing.assert_close(found[text.counted], folded[text.counted], atol=1e-4, rtol=1e-4)
    assert (found - score_text(cast.base, text))[text.counted].abs().max() > 1e-3


def test_who_is_chosen_is_told_by_expert_for_texts_and_by_domain_for_tokens(text):
    own = windows_in(text, ("alpha", "beta"))
    experts = ("alpha-0", "alpha-1", "beta-0", "beta-1")
    # the one largest is of beta, the larger sum is alpha's; what is not scored does not count
    weights = torch.tensor([0.3, 0.3, 0.4, 0.0]).repeat(*own.tokens.shape, 1)
    weights[~own.counted] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    beta = windows_in(own, ("beta",))
    found = own_family(Routing(experts, weights[own.of("beta")]), beta)
    assert found == {"texts": 1.0, "tokens": 0.0}
    both = own_family(Routing(experts, weights), own)
    assert both["texts"] == pytest.approx(len(beta.domains) / len(own.domains))
    assert both["tokens"] == pytest.approx(1 - float(beta.counted.sum() / own.counted.sum()))


@pytest.mark.recipe
def test_all_claims_on_private_experts_come_out_of_one_pico_experiment(pico_texts, settings, tmp_path):
    base = pico_base()
    experiment = private_experiment(settings, NAMES, base=lambda: base, texts=lambda: pico_texts)
    claims = {claim.id: claim for claim in read_ledger() if claim.experiment == "private"}
    assert set(claims) == {"B1", "B4", "B5", "B6", "B7"}
    outcomes = run_claims(
        ledger=write_rows(tmp_path / "ledger", claims, scale="small"),
        folder=tmp_path / "run",
        results=tmp_path / "results",
        experiments={**EXPERIMENTS, "private": experiment},
    )
    assert all(each.state == "measured" for each in outcomes)
    [name] = {each.result.table for each in outcomes}
    rows = {row["model"]: row for row in read_table(name, folder=tmp_path / "results") if row["seed"] == 0}
    assert len(rows) == len(METHODS)
    assert all(set(row["perplexity"]) == {*NAMES, *UNSEEN, "mixed"} for row in rows.values())
    assert rows["private uniform"]["tokens"] == rows["private oracle"]["tokens"]
    tokens = [rows[name]["tokens"] for name in ("private uniform", "clusters uniform")]
    assert max(tokens) <= 1.2 * min(tokens)
    assert rows["private oracle"]["perplexity"]["alpha"] < rows["base"]["perplexity"]["alpha"]
    steps = 12 * settings.gate_steps
    assert {"fitting_seconds", "own_family_tokens"} <= set(rows["private xlora"])
    _check_metrics(tmp_path / "run" / "private" / "seed-0", steps)


def _check_metrics(folder, steps):
    import json

    done = {path.stem: json.loads(path.read_text())["result"] for path in folder.glob("*.json")}
    values = measured(done, domains=NAMES)
    assert all(math.isfinite(value) for value in values.values())
    assert done["fit-phatgoose"]["steps"] == done["fit-xlora"]["steps"] == steps
    oracle, base = (done[f"score-{name}"]["nats"] for name in ("oracle", "base"))
    assert values["arrow_minus_oracle"] == pytest.approx(
        sum(done["score-arrow"]["nats"][name] - oracle[name] for name in NAMES) / 4
    )
    assert set(oracle) == set(base)
    members = [name for each in done["clusters"]["members"] for name in each]
    assert sorted(members) == sorted(name for domain in NAMES for name in private_names(domain, 3))
    assert {family_of(name) for name in members} == set(NAMES)
