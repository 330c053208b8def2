"""Making experts of every kind: what they start from, where they go, what they learn."""

import dataclasses

import pytest
import torch

from collegium.core.errors import BaseModelError, ConfigError
from collegium.data import Document, Domain
from collegium.experts import FitConfig, fit_domain, fit_expert, resolve
from collegium.experts.fresh import fresh_adapter, numbers_of, places_of
from collegium.experts.recipe import recipe_of
from collegium.models import KINDS, Base, RowPlan
from collegium.testing.pico import ARCHITECTURES, random_base

CONFIG = FitConfig(steps=24, batch=2, window=32, evaluate_every=8, dev_tokens=256)
LAW = Domain(
    "law",
    tuple(
        Document(text=f"Article {n}. The court of appeal finds for tenant {n} in all points. " * 4) for n in range(12)
    ),
)
TEXT = torch.randint(0, 250, (2, 12), generator=torch.Generator().manual_seed(3))
SOME = {"rank": 3, "prefix_tokens": 5}


def settings(kind, **fields):
    heeded = {"lora": ["rank"], "bottleneck": ["rank"], "prefix": ["prefix_tokens"]}.get(kind, [])
    return resolve(dataclasses.replace(CONFIG, kind=kind, **{name: SOME[name] for name in heeded}, **fields))


def fresh(base, kind, **fields):
    return fresh_adapter(base, settings(kind, **fields), "law", tokens=TEXT)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"prefix"}))
def test_a_fresh_adapter_changes_nothing(kind, architecture):
    base = random_base(architecture)
    before = base.logprobs(TEXT)
    base.attach("fresh", fresh(base, kind))
    found = base.logprobs_rows(TEXT, plan=RowPlan.one("fresh"))[0]
    torch.testing.assert_close(found, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_rejects_weights_that_are_not_fresh(kind):
    base = random_base("llama")
    adapter = fresh(base, kind)
    with torch.no_grad():
        for part in adapter.values():
            for tensor in part.tensors.values():
                tensor.add_(0.3)
    base.attach("stale", adapter)
    assert (base.logprobs_rows(TEXT, plan=RowPlan.one("stale"))[0] - base.logprobs(TEXT)).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "qwen3"])
def test_a_fresh_prefix_is_the_base_that_has_read_its_tokens(architecture):
    base = random_base(architecture)
    base.attach("fresh", fresh(base, "prefix"))
    found = base.logprobs_rows(TEXT, plan=RowPlan.one("fresh"))[0]
    read = torch.cat([TEXT[:1, :5].expand(2, -1), TEXT], dim=1)
    torch.testing.assert_close(found, base.logprobs(read)[:, 5:], rtol=0, atol=2e-5)
    assert (found - base.logprobs(TEXT)).abs().max() > 1e-3, "so it is no adapter that changes nothing"


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3"])
def test_a_fresh_prefix_is_finite_on_other_bases(architecture):
    base = random_base(architecture)
    base.attach("fresh", fresh(base, "prefix"))
    assert torch.isfinite(base.logprobs_rows(TEXT, plan=RowPlan.one("fresh"))).all()


def test_a_prefix_longer_than_the_text_begins_again():
    adapter = fresh_adapter(random_base("llama"), settings("prefix"), "law", tokens=torch.tensor([[7, 9, -1]]))
    again = fresh_adapter(random_base("llama"), settings("prefix"), "law", tokens=torch.tensor([[7, 9, 7, 9, 7]]))
    assert all(torch.equal(adapter[path].tensors["keys"], part.tensors["keys"]) for path, part in again.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_counted_are_the_numbers_made(kind, architecture):
    base = random_base(architecture)
    adapter = fresh(base, kind, layers="top:1")
    assert adapter.keys() == places_of(base, settings(kind, layers="top:1")).keys()
    assert {base.sites[path].block for path in adapter} == {1}
    made = sum(tensor.numel() for part in adapter.values() for tensor in part.tensors.values())
    assert made == numbers_of(base, settings(kind, layers="top:1"))


RESCALED = {
    "llama": {"k_proj": "output", "v_proj": "output", "down_proj": "input"},
    "qwen3": {"k_proj": "output", "v_proj": "output", "down_proj": "input"},
    "gemma3": {"k_proj": "output", "v_proj": "output", "down_proj": "input"},
    "gpt2": {"c_attn": "output", "c_proj": "input"},
    "gpt_neox": {"query_key_value": "output", "dense_4h_to_h": "input"},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ia3_rescales_keys_values_and_the_inside_of_feed_forward_blocks(architecture):
    adapter = fresh(random_base(architecture), "ia3")
    assert {path.rpartition(".")[2]: part.side for path, part in adapter.items()} == RESCALED[architecture]


def test_ia3_goes_where_targets_say():
    adapter = fresh(random_base("llama"), "ia3", targets=("q_proj", "up_proj", "down_proj"), layers=(0,))
    sides = {path.rpartition(".")[2]: (part.side, len(part.factors)) for path, part in adapter.items()}
    assert sides == {"q_proj": ("output", 64), "up_proj": ("output", 128), "down_proj": ("input", 128)}


def renamed(names):
    """A base that has none of these places."""
    base = random_base("llama")
    sites = {path: site for path, site in base.sites.items() if not any(f".{name}" in path for name in names)}
    base.sites = sites
    return base


def test_bases_without_known_places_are_refused_with_the_way_out():
    with pytest.raises(BaseModelError, match=r"no feed-forward module.*kind 'ffn'.*self_attn.*Use kind lora"):
        places_of(renamed(["mlp"]), FitConfig(kind="ffn"))
    with pytest.raises(BaseModelError, match=r"no attention module.*kind 'prefix'"):
        places_of(renamed(["self_attn"]), FitConfig(kind="prefix"))
    with pytest.raises(ConfigError, match=r"keys and values.*--targets"):
        places_of(renamed(["mlp", "k_proj", "v_proj"]), FitConfig(kind="ia3"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_of_every_kind_gains_on_its_own_domain(pico: Base, kind):
    before = {name: tensor.clone() for name, tensor in pico.model.state_dict().items()}
    trained = fit_domain(pico, LAW, config=dataclasses.replace(CONFIG, kind=kind))
    card, evaluations = trained.expert.card, trained.history.evaluations
    assert (card.kind, card.recipe["method"], card.warnings) == (kind, f"fit {kind}", ())
    assert min(each.loss for each in evaluations) < evaluations[0].loss - 0.01
    assert card.trained_parameters == numbers_of(pico, dataclasses.replace(CONFIG, kind=kind))
    assert all(torch.equal(tensor, before[name]) for name, tensor in pico.model.state_dict().items())
    assert not any(
        tensor.requires_grad for part in trained.expert.payload.adapter.values() for tensor in part.tensors.values()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_of_every_kind_is_made_again_to_the_bit_and_goes_on_after_an_interruption(pico: Base, kind, tmp_path):
    config = dataclasses.replace(CONFIG, kind=kind, steps=8, evaluate_every=4)
    whole = fit_expert(pico, LAW, config=config)

    class Stop:
        def log(self, step, values):
            if step == 5:
                raise KeyboardInterrupt

        def close(self):
            pass

    with pytest.raises(KeyboardInterrupt):
        fit_expert(pico, LAW, config=config, checkpoint=tmp_path, logger=Stop())
    again = fit_expert(pico, LAW, config=config, checkpoint=tmp_path)
    assert again.digest == whole.digest
    assert fit_expert(pico, LAW, config=dataclasses.replace(config, learning_rate=1e-4)).digest != whole.digest


def test_each_kind_has_its_own_recipe_and_hash(pico: Base):
    recipes = {kind: recipe_of(settings(kind), kind, pico) for kind in KINDS}
    assert len({str(recipe) for recipe in recipes.values()}) == len(KINDS)
    assert {"rank", "alpha", "targets", "layers"} <= recipes["lora"].keys()
    assert "prefix_tokens" not in recipes["lora"]
    assert not {"rank", "alpha", "prefix_tokens"} & recipes["ia3"].keys()
    assert recipes["prefix"]["prefix_tokens"] == 5
    assert not {"rank", "targets"} & recipes["prefix"].keys()


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("ia3", {"rank": 2}, "rank is for lora and bottleneck alone"),
        ("lora", {"prefix_tokens": 2}, "prefix_tokens is for prefix alone"),
        ("ffn", {"targets": ("q_proj",)}, "targets is for lora and ia3 alone"),
        ("prefix", {"alpha": 2.0}, "alpha is for lora and bottleneck alone"),
    ],
)
def test_settings_that_a_kind_would_not_heed_are_refused(kind, fields, words):
    with pytest.raises(ConfigError, match=words):
        resolve(FitConfig(kind=kind, **fields))


def test_a_whole_model_has_no_kind_of_small_expert():
    with pytest.raises(ConfigError, match="kind is for small experts alone"):
        resolve(FitConfig(kind="ia3"), "whole")


def test_a_prefix_longer_than_the_base_reads_is_refused(pico: Base):
    with pytest.raises(BaseModelError, match="reads at most 512 tokens"):
        fit_expert(pico, LAW, config=dataclasses.replace(CONFIG, kind="prefix", prefix_tokens=600))
    assert pico.attached == ()
