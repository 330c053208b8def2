"""Turning keys: what the base itself does to them when its text starts elsewhere."""

import pytest
import torch

from collegium.core.errors import IncompatibleExpert
from collegium.models.rotary import base_keys, turned, why_not_rotary
from collegium.testing.pico import random_base

ROTARY = ("llama", "gpt_neox", "qwen3", "gemma3")


@pytest.mark.parametrize("architecture", ROTARY)
@pytest.mark.parametrize("by", [1, 7])
def test_turned_keys_are_those_of_the_moved_text(architecture, by):
    base = random_base(architecture)
    here, there = (dict(enumerate(base_keys(base, [5, 9, 40], start=start))) for start in (2, 2 + by))
    found = turned(base, {block: keys for block, (keys, _) in here.items()}, by=by)
    for block, (keys, values) in there.items():
        torch.testing.assert_close(found[block], keys, rtol=0, atol=1e-4)
        torch.testing.assert_close(here[block][1], values, rtol=0, atol=1e-4)
        assert (here[block][0] - keys).abs().max() > 1e-2, "and they do move"


@pytest.mark.parametrize("architecture", ROTARY)
def test_turning_back_undoes_it(architecture):
    base = random_base(architecture)
    heads, size = next(site.shape for site in base.sites.values() if site.what == "attention")
    keys = {0: torch.randn(heads, 3, size, generator=torch.Generator().manual_seed(0)), 1: torch.ones(heads, 3, size)}
    again = turned(base, turned(base, keys, by=5), by=-5)
    for block, each in keys.items():
        torch.testing.assert_close(again[block], each, rtol=0, atol=1e-5)


def test_a_base_with_learned_positions_is_refused_by_name():
    base = random_base("gpt2")
    assert why_not_rotary(base) == "has no rotary positions"
    with pytest.raises(IncompatibleExpert, match=r"random-gpt2 \(GPT2LMHeadModel\) has no rotary positions"):
        turned(base, {}, by=1)


def test_a_base_that_turns_otherwise_is_found_out_by_trying(monkeypatch):
    base = random_base("llama")
    frequencies = base.inner.rotary_emb.inv_freq.clone()
    said = base.inner.rotary_emb.forward

    def interleaved(x, position_ids):
        cos, sin = said(x, position_ids)
        return (cos.flip(-1), sin.flip(-1)) if position_ids.shape[1] == 2 else (cos, sin)  # ours alone asks for two

    monkeypatch.setattr(base.inner.rotary_emb, "forward", interleaved)
    assert torch.equal(base.inner.rotary_emb.inv_freq, frequencies)
    assert "otherwise than by halves" in why_not_rotary(base, by=3)


def test_frequencies_that_depend_on_the_length_are_refused(monkeypatch):
    base = random_base("llama")
    monkeypatch.setattr(base.inner.rotary_emb, "rope_type", "dynamic")
    assert "type 'dynamic'" in why_not_rotary(base)
