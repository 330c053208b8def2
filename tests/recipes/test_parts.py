"""Stages that are done once, plans that add up, texts that keep their letters."""

import dataclasses
import math
from pathlib import Path
from typing import get_args

import pytest
import torch

from collegium.core.errors import ConfigError, ResourceError
from collegium.data import Corpus, Document, Domain
from collegium.experts import FitConfig
from collegium.experts.recipe import SETTINGS, AdapterKind
from collegium.recipes import build, train
from collegium.recipes.budget import Budget, parse_budget
from collegium.recipes.building import plan as planning
from collegium.recipes.building.parts import Parts
from collegium.recipes.building.samples import Passage, coloured
from collegium.recipes.generate import parse_weights
from collegium.recipes.report import Report, expert_colours, render
from collegium.testing import byte_tokenizer, pico_base

CORPUS = Corpus(
    tuple(Domain(name, tuple(Document(text=f"{name} {n} " * 50) for n in range(5))) for name in ("law", "sea"))
)
FIT = FitConfig(rank=4, window=32)


def test_a_part_is_computed_once_and_again_when_its_inputs_change(tmp_path):
    parts, calls = Parts(tmp_path), []

    def compute() -> dict:
        calls.append(1)
        return {"x": len(calls)}

    assert parts.values("a", inputs=[1], compute=compute) == {"x": 1}
    assert Parts(tmp_path).values("a", inputs=[1], compute=compute) == {"x": 1}
    assert parts.values("a", inputs=[2], compute=compute) == {"x": 2}


def test_read_only_parts_are_used_and_leave_nothing(tmp_path):
    parts = Parts(tmp_path / "run", read_only=True)
    assert parts.values("a", inputs=[1], compute=lambda: 1) == 1
    assert parts.tensors("t", inputs=[1], compute=lambda: {"x": torch.ones(2)})["x"].sum() == 2
    assert not (tmp_path / "run").exists()
    Parts(tmp_path / "run").values("a", inputs=[1], compute=lambda: 2)
    assert parts.values("a", inputs=[1], compute=lambda: 3) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00\x01"])
def test_a_torn_part_is_computed_anew(tmp_path, damage):
    parts = Parts(tmp_path)
    parts.values("a", inputs=[1], compute=lambda: 1)
    parts.tensors("t", inputs=[1], compute=lambda: {"x": torch.ones(2)})
    (tmp_path / "a.json").write_bytes(damage)
    (tmp_path / "t.safetensors").write_bytes(damage)
    assert parts.values("a", inputs=[1], compute=lambda: 2) == 2
    assert parts.tensors("t", inputs=[1], compute=lambda: {"x": torch.zeros(2)})["x"].sum() == 0


def test_tensors_come_back_to_the_bit(tmp_path):
    drawn = torch.randn(3, 4)
    Parts(tmp_path).tensors("t", inputs=[1], compute=lambda: {"x": drawn})
    assert torch.equal(Parts(tmp_path).tensors("t", inputs=[1], compute=lambda: {})["x"], drawn)


@pytest.fixture
def speeds(monkeypatch):
    monkeypatch.setattr(planning, "tokens_per_second", lambda base, fit: 1000.0)
    monkeypatch.setattr(planning, "scoring_tokens_per_second", lambda base: 2000.0)


@pytest.mark.parametrize("minutes", [5.0, 10.0, 60.0])
def test_a_plan_stays_within_its_time(speeds, minutes):
    plan = planning.make_plan(pico_base(), CORPUS, FIT, budget=Budget(seconds=60 * minutes), eval_tokens=4096)
    assert 0.8 * 60 * minutes < plan.expected_seconds <= 60 * minutes


def test_a_full_plan_counts_what_it_compares_with(speeds):
    few = planning.make_plan(pico_base(), CORPUS, FIT, budget=Budget(tokens=20 * 128), eval_tokens=0)
    full = planning.make_plan(pico_base(), CORPUS, dataclasses.replace(FIT, steps=20), budget=Budget(), eval_tokens=0)
    assert few.fit.steps == full.fit.steps == 20
    assert full.expected_seconds > 7 * few.expected_seconds


def test_a_token_budget_is_spent_per_expert(speeds):
    plan = planning.make_plan(pico_base(), CORPUS, FIT, budget=Budget(tokens=12_800), eval_tokens=4096)
    assert plan.fit.steps == 12_800 // FIT.tokens_per_step
    assert "12,800 tokens each" in "\n".join(plan.lines())


@pytest.mark.parametrize("steps", [1, 3])
def test_few_steps_that_were_asked_for_are_planned(speeds, steps):
    few = dataclasses.replace(FIT, steps=steps)
    asked = Budget(tokens=steps * FIT.tokens_per_step)
    assert planning.make_plan(pico_base(), CORPUS, few, budget=Budget(), eval_tokens=0).fit.steps == steps
    assert planning.make_plan(pico_base(), CORPUS, few, budget=asked, eval_tokens=0).fit.steps == steps
    hurried = planning.make_plan(pico_base(), CORPUS, few, budget=Budget(seconds=1.0), eval_tokens=0)
    assert hurried.fit.steps == planning.LEAST_STEPS


def test_a_plan_that_does_not_fit_the_disk_is_refused(speeds, tmp_path):
    plan = planning.make_plan(pico_base(), CORPUS, FIT, budget=Budget(tokens=12_800), eval_tokens=0)
    planning.check_disk(plan, tmp_path / "not" / "yet")
    with pytest.raises(ResourceError, match="MB free"):
        planning.check_disk(dataclasses.replace(plan, disk_bytes=10**18), tmp_path)


def test_budgets_are_read_as_people_write_them():
    assert parse_budget("90s") == Budget(seconds=90.0)
    assert parse_budget("2h") == Budget(seconds=7200.0)
    assert parse_budget("1.5M") == Budget(tokens=1_500_000)
    assert parse_budget("reduced", reduced=7) == Budget(tokens=7)
    assert parse_budget("full") == Budget()


@pytest.mark.parametrize("text", ["", "fast", "-3", "0k", "5 apples", "10kk"])
def test_other_budgets_are_told(text):
    with pytest.raises(ConfigError, match="--budget"):
        parse_budget(text)


def test_coloured_pieces_spell_the_text_with_characters_kept_whole():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("Öl und Brot")
    part = Passage("t", ids, ["law"] * len(ids), [0.5] * len(ids))
    pieces = coloured(part, tokenizer).pieces
    assert "".join(text for text, _, _ in pieces) == "Öl und Brot"
    assert all("\ufffd" not in text for text, _, _ in pieces)


def test_a_report_escapes_what_texts_say():
    page = render(
        Report(
            title="<b>",
            summary="s",
            facts={},
            charts=[],
            texts=[],
            tables=[("h", "n", ["a"], [["<script>"]])],
            commands=[],
            colours=expert_colours(["law"]),
        )
    )
    assert "<script>" not in page
    assert "&lt;b&gt;" in page


def test_weights_are_read_or_told():
    assert parse_weights("a=.7,b=.3") == {"a": 0.7, "b": 0.3}
    assert parse_weights("") is None
    with pytest.raises(ConfigError, match="--experts"):
        parse_weights("a:0.7")
    assert math.isclose(sum((parse_weights("a=1") or {}).values()), 1)


def settings(kind, **more):
    """Ask whether a build of this kind of expert may begin; nothing is read for that."""
    fit = FitConfig(kind=kind, steps=more.pop("steps", build.FULL_STEPS))
    build.check_settings(build.BuildConfig(Path("texts"), Path("library"), fit=fit, **more))


@pytest.mark.parametrize("kind", get_args(AdapterKind))
def test_full_compares_experts_that_have_a_rank(kind):
    settings(kind, budget="20k")
    if "rank" in SETTINGS[kind]:
        settings(kind, budget="full", steps=30)
        return
    with pytest.raises(ConfigError, match=f"of kind {kind} have no rank. Give --kind lora or bottleneck, or a time"):
        settings(kind, budget="full")
    with pytest.raises(ConfigError, match=r"--budget 15360 for as many tokens an expert\.$"):
        settings(kind, steps=30)


def test_settings_that_a_kind_does_not_heed_are_told_before_anything_is_read():
    with pytest.raises(ConfigError, match="rank is for lora and bottleneck alone, got 4"):
        build.check_settings(build.BuildConfig(Path("texts"), Path("library"), fit=FitConfig("ia3", rank=4)))


@pytest.mark.parametrize("budget", ["", "full", "reduced"])
@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_train_keeps_its_steps_where_no_time_or_tokens_are_said(kind, budget):
    config = train.TrainConfig(Path("texts"), Path("library"), budget=budget, fit=FitConfig(kind=kind, steps=7))
    assert train.resolve_fit(config, pico_base(), threads=1).steps == 7
