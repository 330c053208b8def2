"""RegMean against least squares, merged experts in the slots and on cards, and what is refused."""

import math

import pytest
import torch
from drawn_adapters import (
    INPUTS,
    OUTPUTS,
    TOKENS,
    deltas,
    dense,
    low_rank,
    rescaling,
)

from collegium.core.cards import ExpertCard, Fingerprint
from collegium.core.errors import ConfigError, IncompatibleExpert, RoutingError
from collegium.data import Document, cut
from collegium.experts import AdapterPayload, Expert, WholePayload
from collegium.experts.algebra import (
    collect_grams,
    compress,
    delta_of,
    deltas_of,
    merged_expert,
    regmean,
    ties,
    weighted_sum,
)
from collegium.models import (
    BottleneckWeights,
    FfnWeights,
    HeadWeights,
    Ia3Weights,
    PrefixWeights,
    RowPlan,
)
from collegium.testing.pico import pico_base, random_adapter, random_base


def test_regmean_is_the_least_squares_solution():
    draw = torch.Generator().manual_seed(0)
    adapters = [low_rank(seed, rank=seed + 1) for seed in range(3)]
    inputs = [torch.randn(INPUTS, count, generator=draw, dtype=torch.float64) for count in (12, 9, 30)]
    grams = [dict.fromkeys(("q", "v"), x @ x.T) for x in inputs]
    found = regmean(deltas(*adapters), grams, off_diagonal=1.0)
    for path in ("q", "v"):
        rows = torch.cat([x.T for x in inputs])
        wanted = torch.cat([(dense(adapter)[path].double() @ x).T for adapter, x in zip(adapters, inputs, strict=True)])
        solution = torch.linalg.lstsq(rows, wanted).solution.T
        torch.testing.assert_close(found.entries(path).double(), solution, atol=1e-5, rtol=1e-5)
    assert found.rank == 6, "the factors are kept"


def test_regmean_with_few_inputs_takes_the_smallest_change():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(INPUTS, 2, generator=draw, dtype=torch.float64)
    found = regmean(deltas(low_rank(0)), [dict.fromkeys(("q", "v"), x @ x.T)], off_diagonal=1.0).entries("q")
    change = dense(low_rank(0))["q"].double()
    torch.testing.assert_close(found.double() @ x, change @ x, atol=1e-5, rtol=1e-5)
    off = torch.eye(INPUTS, dtype=torch.float64) - x @ torch.linalg.pinv(x)
    assert float((found.double() @ off).abs().max()) < 1e-5


def test_regmean_without_correlations_weighs_columns():
    draw = torch.Generator().manual_seed(0)
    grams = [dict.fromkeys(("q", "v"), (x := torch.randn(INPUTS, 9, generator=draw)) @ x.T) for _ in range(2)]
    found = regmean(deltas(low_rank(0), low_rank(1)), grams, off_diagonal=0.0).entries("q")
    sizes = [gram["q"].diagonal() for gram in grams]
    wanted = sum(dense(low_rank(seed))["q"] * size for seed, size in enumerate(sizes)) / sum(sizes)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_regmean_says_what_it_lacks():
    eye = dict.fromkeys(("q", "v"), torch.eye(INPUTS))
    with pytest.raises(ConfigError, match="Gram matrix of every expert's inputs at v"):
        regmean(deltas(low_rank(0), low_rank(1)), [eye, {"q": torch.eye(INPUTS)}])
    with pytest.raises(ConfigError, match="one set of Gram matrices"):
        regmean(deltas(low_rank(0)), [])
    with pytest.raises(ConfigError, match="off the diagonal"):
        regmean(deltas(low_rank(0)), [eye], off_diagonal=2.0)
    with pytest.raises(IncompatibleExpert, match="sums of low-rank changes"):
        regmean(deltas(rescaling(0)), [dict.fromkeys(("k", "down"), torch.eye(6))])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_grams_are_of_the_inputs_the_expert_sees(architecture):
    base = pico_base() if architecture == "llama" else random_base(architecture)
    base.attach("law", random_adapter(base))
    tokenizer = pico_base().tokenizer
    text = cut([Document(text="to be or not to be, that is"), Document(text="fn")], tokenizer, window=16)
    path = next(iter(base.linear_sites()))
    seen = []
    site = base.model.get_submodule(path)
    handle = site.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for row in range(len(text)):
        base.hidden(text.tokens[row : row + 1, : text.lengths[row]], plan=RowPlan.one("law"))
    handle.remove()
    wanted = sum(x[0].double().T @ x[0].double() for x in seen)
    found = collect_grams(base, text, [path], expert="law")
    torch.testing.assert_close(found[path].double(), wanted, atol=1e-3, rtol=1e-4)
    assert not site._forward_pre_hooks


def test_grams_differ_between_base_and_expert():
    base = pico_base()
    base.attach("law", random_adapter(base))
    text = cut([Document(text="to be or not to be")], base.tokenizer, window=16)
    path = list(base.linear_sites(["down_proj"]))[-1]
    assert not torch.allclose(
        collect_grams(base, text, [path])[path], collect_grams(base, text, [path], expert="law")[path]
    )


# -- through the model ------------------------------------------------------------------------------------------------


def random_rescaling(base, seed):
    """Factors of every layer's outputs."""
    draw = torch.Generator().manual_seed(seed)
    return {
        path: Ia3Weights(1 + 0.5 * torch.randn(outputs, generator=draw))
        for path, (_, outputs) in base.linear_sites().items()
    }


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3"])
def test_a_merged_expert_in_the_slots_is_the_merged_dense_model(architecture, kind):
    base = random_base(architecture)
    make = {"lora": lambda seed: random_adapter(base, seed, rank=seed + 2), "ia3": lambda s: random_rescaling(base, s)}
    adapters = {f"e{seed}": make[kind](seed) for seed in range(3)}
    weights = {"e0": 0.6, "e1": 0.4, "e2": -0.5}
    for name, adapter in adapters.items():
        base.attach(name, adapter)
    merged = weighted_sum(deltas(*adapters.values()), list(weights.values()))
    base.attach("merged", compress(merged).adapter)
    dense_model = base.folded(weights)
    through = base.logprobs_rows(TOKENS, plan=RowPlan.one("merged"))[0]
    torch.testing.assert_close(through, dense_model.logprobs(TOKENS), atol=1e-4, rtol=1e-4)
    blended = RowPlan.blend(list(weights), torch.tensor([[list(weights.values())]]))
    torch.testing.assert_close(through, base.logprobs_rows(TOKENS, plan=blended)[0], atol=1e-4, rtol=1e-4)
    assert float((through - base.logprobs(TOKENS)).abs().max()) > 1e-2


# -- experts ----------------------------------------------------------------------------------------------------------


def expert(name, adapter, *, base=None, **fields):
    head = HeadWeights(torch.ones(1, INPUTS)) if fields.get("task", "language") != "language" else None
    payload = AdapterPayload(adapter, head=head)
    return Expert(ExpertCard(name=name, kind=payload.kind, base=base, **fields), payload)


FIRST, SECOND = Fingerprint("a", "b", "c"), Fingerprint("x", "y", "z")


def test_a_merged_expert_says_where_it_comes_from():
    law = expert("law", low_rank(0), base=FIRST, documents={"train": ("1", "2"), "dev": ("3",)})
    code = expert("code", low_rank(1), base=FIRST, documents={"train": ("2", "4")})
    changes = deltas_of([law, code])
    recipe = {"expression": "law + code"}
    merged, made = merged_expert(
        "both", changes["law"] + changes["code"], [law, code], recipe=recipe, rank=2, documents={"dev": ("9",)}
    )
    assert merged.card.parents == {"law": law.digest, "code": code.digest}
    assert merged.card.recipe == {"expression": "law + code", "rank": 2, "relative_error": made.error}
    assert merged.card.base == FIRST
    assert merged.card.documents == {"train": ("1", "2", "4"), "dev": ("3", "9")}
    assert merged.card.trained_parameters == 2 * 2 * (INPUTS + OUTPUTS)
    unverified, _ = merged_expert("x", changes["law"], [expert("law", low_rank(0))], recipe={})
    assert unverified.card.base is None


def test_what_does_not_belong_together_is_refused():
    law = expert("law", low_rank(0), base=FIRST)
    with pytest.raises(IncompatibleExpert, match="experts of one base"):
        deltas_of([law, expert("code", low_rank(1), base=SECOND)])
    with pytest.raises(IncompatibleExpert, match="experts of one base"):
        delta_of(law) + delta_of(expert("code", low_rank(1), base=SECOND))
    with pytest.raises(IncompatibleExpert, match="of one kind"):
        deltas_of([law, expert("k", rescaling(0))])
    with pytest.raises(IncompatibleExpert, match="one task"):
        deltas_of([law, expert("judge", low_rank(1), base=FIRST, task="reward")])
    judges = [expert(name, low_rank(1), base=FIRST, task="reward") for name in ("strict", "kind")]
    with pytest.raises(IncompatibleExpert, match="have a head each"):
        deltas_of(judges)
    with pytest.raises(IncompatibleExpert, match="q: one expert changes"):
        delta_of(law) + delta_of(expert("wide", low_rank(1, inputs=INPUTS + 1)))
    with pytest.raises(IncompatibleExpert, match="different sides"):
        ties(deltas({"k": Ia3Weights(torch.ones(3), "input")}, {"k": Ia3Weights(torch.ones(3), "output")}))
    for nothing in (lambda: deltas_of([]), lambda: weighted_sum([], []), lambda: ties([]), lambda: regmean([], [])):
        with pytest.raises(IncompatibleExpert, match="at least one expert"):
            nothing()


PARTS = {
    "bottleneck": BottleneckWeights(torch.ones(1, 2), torch.ones(1), torch.ones(2, 1), torch.ones(2)),
    "ffn": FfnWeights({"up": torch.ones(2, 2)}),
    "prefix": PrefixWeights(torch.ones(1, 1, 2), torch.ones(1, 1, 2)),
}


@pytest.mark.parametrize("kind", list(PARTS))
def test_parts_without_a_change_are_refused_by_name(kind):
    with pytest.raises(IncompatibleExpert, match=f"expert 'odd' is of kind '{kind}'"):
        delta_of(expert("odd", {"mlp": PARTS[kind]}))


def test_whole_models_are_refused_by_name(tmp_path):
    whole = Expert(ExpertCard(name="tree", kind="whole"), WholePayload(tmp_path))
    with pytest.raises(IncompatibleExpert, match="'tree' is a whole model"):
        delta_of(whole)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_weights_are_finite(weight):
    (delta,) = deltas(low_rank(0))
    for scale in (lambda: weight * delta, lambda: weighted_sum([delta], [weight]), lambda: ties([delta], scale=weight)):
        with pytest.raises(RoutingError, match="finite"):
            scale()


def test_a_sum_has_one_weight_per_expert():
    with pytest.raises(ConfigError, match="got 1 for 2"):
        weighted_sum(deltas(low_rank(0), low_rank(1)), [1.0])
