"""Laws of whole-model merges from files: they are the merges in memory, and nothing is half-written."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from collegium.core.errors import ConfigError, CorruptExpert, IncompatibleExpert
from collegium.experts.streaming import (
    MergeRecipe,
    MergeSource,
    merge_models,
    read_recipe,
    write_recipe,
)
from collegium.experts.streaming import (
    merge as merging,
)
from collegium.models import load_base
from collegium.testing.pico import pico_base

METHODS = ("task_arithmetic", "ties", "dare_linear", "dare_ties")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base and three models near it, as transformers saves them."""
    place = tmp_path_factory.mktemp("models")
    base = pico_base(0)
    for number, name in enumerate(("base", "law", "code", "chat")):
        model = pico_base(0).model
        with torch.no_grad():
            for tensor in model.parameters():
                draw = torch.Generator().manual_seed(number)
                tensor.add_(torch.randn(tensor.shape, generator=draw), alpha=0.02 * (number > 0))
        model.save_pretrained(place / name, max_shard_size="60KB" if name == "code" else "5GB")
        base.tokenizer.save_pretrained(place / name)
    return place


def weights(folder):
    return load_file(folder / "model.safetensors")


def whole(folders, name):
    return {
        key: value for file in sorted((folders / name).glob("*.safetensors")) for key, value in load_file(file).items()
    }


def merged(folders, tmp_path, method, parts, *, name="out", **how):
    sources = tuple(MergeSource(str(folders / each), *rest) for each, *rest in parts)
    base = None if method == "linear" else str(folders / "base")
    recipe = MergeRecipe(method, sources, base, **how)
    merge_models(recipe, tmp_path / name)
    return weights(tmp_path / name)


def test_a_model_alone_is_itself_to_the_bit(folders, tmp_path):
    assert (folders / "code" / "model.safetensors.index.json").is_file()
    got = merged(folders, tmp_path, "linear", [("code",)])
    want = whole(folders, "code")
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_is_the_weighted_sum(folders, tmp_path, normalize):
    got = merged(folders, tmp_path, "linear", [("law", 0.6), ("code", 0.9)], normalize=normalize)
    law, code = whole(folders, "law"), whole(folders, "code")
    for key, value in got.items():
        want = (0.6 * law[key].double() + 0.9 * code[key].double()) / (1.5 if normalize else 1.0)
        torch.testing.assert_close(value.double(), want, atol=1e-6, rtol=0)


def test_task_arithmetic_with_weights_that_sum_to_one_is_linear(folders, tmp_path):
    parts = [("law", 0.3), ("code", 0.7)]
    one, other = (
        merged(folders, tmp_path, "task_arithmetic", parts),
        merged(folders, tmp_path, "linear", parts, name="b"),
    )
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_one_model_at_full_density_is_that_model(folders, tmp_path, method):
    got, want = merged(folders, tmp_path, method, [("law", 1.0, 1.0)]), whole(folders, "law")
    for key, value in got.items():
        torch.testing.assert_close(value, want[key], atol=1e-6, rtol=0)


def test_dare_that_drops_nothing_is_task_arithmetic(folders, tmp_path):
    parts = [("law", 0.5), ("chat", 0.8)]
    one, other = (
        merged(folders, tmp_path, "dare_linear", parts),
        merged(folders, tmp_path, "task_arithmetic", parts, name="b"),
    )
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("normalize", [True, False])
def test_ties_is_its_definition(folders, tmp_path, normalize, monkeypatch):
    monkeypatch.setattr(merging, "_PIECE", 1000)
    parts = [("law", 0.5, 0.3), ("code", 1.0, 0.6), ("chat", 0.8, 1.0)]
    got = merged(folders, tmp_path, "ties", parts, normalize=normalize)
    base = whole(folders, "base")
    for key, value in got.items():
        kept = []
        for name, weight, density in parts:
            change = (whole(folders, name)[key] - base[key]).flatten()
            count = max(1, round(density * change.numel()))
            keep = change.abs().argsort(descending=True, stable=True)[:count]
            mask = torch.zeros_like(change).index_fill_(0, keep, 1.0)
            kept.append(weight * change * mask)
        sign = torch.stack(kept).sum(0).sign()
        agree = torch.stack([each * sign > 0 for each in kept])
        total = (torch.stack(kept) * agree).sum(0)
        share = (agree * torch.tensor([weight for _, weight, _ in parts])[:, None]).sum(0)
        want = total / share.clamp(min=1e-12) if normalize else total
        torch.testing.assert_close(value.flatten(), base[key].flatten() + want, atol=1e-6, rtol=0)


def test_dare_keeps_the_change_in_expectation_and_follows_its_seed(folders, tmp_path):
    parts = [("law", 1.0, 0.25)]
    total, draws = {}, 40
    for seed in range(draws):
        got = merged(folders, tmp_path, "dare_linear", parts, name=f"s{seed}", seed=seed + 1)
        total = {key: total.get(key, 0) + value.double() / draws for key, value in got.items()}
        shutil.rmtree(tmp_path / f"s{seed}")
    base, law = whole(folders, "base"), whole(folders, "law")
    key = "model.layers.0.mlp.up_proj.weight"
    noise = (total[key] - law[key]).std() / (law[key] - base[key]).std()
    assert float(noise) == pytest.approx((0.75 / 0.25 / draws) ** 0.5, rel=0.1)
    again = merged(folders, tmp_path, "dare_linear", parts, seed=5)
    assert all(
        torch.equal(value, again[key])
        for key, value in merged(folders, tmp_path, "dare_linear", parts, name="c", seed=5).items()
    )


def test_pieces_change_nothing(folders, tmp_path, monkeypatch):
    parts = [("law", 0.5), ("chat", 0.8)]
    one = merged(folders, tmp_path, "ties", parts)
    monkeypatch.setattr(merging, "_PIECE", 777)
    other = merged(folders, tmp_path, "ties", parts, name="b")
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_result_loads_and_keeps_its_dtype(folders, tmp_path):
    merged(folders, tmp_path, "task_arithmetic", [("law", 0.5), ("chat", 0.5)], dtype="bfloat16")
    base = load_base(str(tmp_path / "out"), dtype="bfloat16")
    assert base.tokenizer is not None
    assert base.score(torch.arange(20)[None]).isfinite().all()
    assert weights(tmp_path / "out")["model.norm.weight"].dtype == torch.bfloat16


def damaged(folders, tmp_path, change):
    shutil.copytree(folders / "law", tmp_path / "bad")
    tensors = weights(tmp_path / "bad")
    change(tensors)
    save_file(tensors, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    return MergeRecipe("linear", (MergeSource(str(folders / "law")), MergeSource(str(tmp_path / "bad"))))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda t: t["model.norm.weight"].fill_(float("nan")), CorruptExpert, "'model.norm.weight' holds NaN"),
        (lambda t: t.pop("model.norm.weight"), IncompatibleExpert, "'model.norm.weight' and 0 more"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), IncompatibleExpert, r"\[64\] in .* and \[3\] in"),
    ],
)
def test_models_that_do_not_fit_are_named_and_nothing_is_written(folders, tmp_path, change, error, says):
    recipe = damaged(folders, tmp_path, change)
    with pytest.raises(error, match=says):
        merge_models(recipe, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_pickles_and_missing_folders_are_refused(folders, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(CorruptExpert, match="pickle"):
        merge_models(MergeRecipe("linear", (MergeSource(str(tmp_path / "old")),)), tmp_path / "out")
    with pytest.raises(CorruptExpert, match="there is no model"):
        merge_models(MergeRecipe("linear", (MergeSource(str(tmp_path / "none")),)), tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        merge_models(MergeRecipe("linear", (MergeSource(str(folders / "law")),)), tmp_path / "out")


def test_another_architecture_is_refused(folders, tmp_path):
    shutil.copytree(folders / "law", tmp_path / "bad")
    config = json.loads((tmp_path / "bad" / "config.json").read_text())
    (tmp_path / "bad" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    recipe = MergeRecipe("linear", (MergeSource(str(folders / "law")), MergeSource(str(tmp_path / "bad"))))
    with pytest.raises(IncompatibleExpert, match="different architecture"):
        merge_models(recipe, tmp_path / "out")


@given(
    st.sampled_from(["linear", *METHODS]),
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(0.01, 1)), min_size=1, max_size=4),
    st.sampled_from([None, True, False]),
    st.integers(0, 9),
)
def test_a_recipe_is_read_as_it_was_written(method, parts, normalize, seed):
    dropping = method not in ("linear", "task_arithmetic")
    sources = tuple(
        MergeSource(f"m{n}", weight, density if dropping else 1.0) for n, (weight, density) in enumerate(parts)
    )
    recipe = MergeRecipe(
        method,
        sources,
        None if method == "linear" else "base",
        normalize,
        "float32",
        seed if method.startswith("dare") else 0,
    )
    again = read_recipe(write_recipe(recipe))
    assert (again.method, again.models, again.base_model, again.normalized, again.seed, again.dtype) == (
        recipe.method,
        recipe.models,
        recipe.base_model,
        recipe.normalized,
        recipe.seed,
        recipe.dtype,
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "not YAML"),
        ("merge_method: linear", "models, a list"),
        ("merge_method: lineal\nmodels: [{model: a}]", "Did you mean 'linear'"),
        ("merge_method: ties\nmodels: [{model: a}]", "say base_model"),
        ("merge_method: linear\nmodels: []", "at least one model"),
        ("merge_method: linear\nmodels: [{model: a}]\nslices: []", "'slices' is not supported"),
        ("merge_method: linear\nmodels: [{model: a, parameters: {weight: [1, 2]}}]", "weights per layer"),
        ("merge_method: linear\nmodels: [{model: a, parameters: {weight: .nan}}]", "finite"),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: a, parameters: {density: 0}}]", "above 0"),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]",
            "sum to zero",
        ),
        ("merge_method: linear\nmodels: [a]", "model: FOLDER"),
        ("merge_method: linear\nmodels: [{model: a}]\ndtype: int8", "dtype is one of"),
    ],
)
def test_recipes_that_cannot_be_done_say_why(text, says):
    with pytest.raises(ConfigError, match=says):
        read_recipe(text)
