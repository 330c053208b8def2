"""Folded models say what hooks on every layer say, written from the definition: low-rank, rescaled, both at once."""

import copy

import pytest
import torch

from collegium.core.errors import IncompatibleExpert
from collegium.models import BottleneckWeights, FfnWeights, Ia3Weights, LoraWeights, PrefixWeights
from collegium.models.fold import folded_digest, folded_model, weighted_deltas
from collegium.testing.pico import random_adapter, random_base

ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "qwen3", "gemma3")
TOKENS = torch.randint(0, 250, (2, 7), generator=torch.Generator().manual_seed(0))


def rescaling(base, seed):
    """Factors for every linear layer, of its outputs and inputs in turn."""
    draw = torch.Generator().manual_seed(seed)
    sides = {}
    for number, (path, (inputs, outputs)) in enumerate(base.linear_sites().items()):
        side, size = ("output", outputs) if (number + seed) % 2 else ("input", inputs)
        sides[path] = Ia3Weights(1 + 0.5 * torch.randn(size, generator=draw), side)
    return sides


def hooked(base, adapters, weights):
    """The model's logits with y = l_out * (W (l_in * x) + b) + sum_e w_e s_e B_e A_e x at every layer."""
    model = copy.deepcopy(base.model)

    def factors(path, side):
        parts = [(weights[name], adapter.get(path)) for name, adapter in adapters.items()]
        own = [(w, p) for w, p in parts if isinstance(p, Ia3Weights) and p.side == side]
        return 1 + sum(weight * (part.factors - 1) for weight, part in own)

    def change(path):
        def before(module, inputs):
            module.seen = inputs[0]
            return (inputs[0] * factors(path, "input"),)

        def after(module, inputs, output):
            output = output * factors(path, "output")
            for name, adapter in adapters.items():
                part = adapter.get(path)
                if isinstance(part, LoraWeights):
                    output = output + weights[name] * part.scale * (module.seen @ part.a.T @ part.b.T)
            return output

        return before, after

    for path in base.linear_sites():
        before, after = change(path)
        site = model.get_submodule(path)
        site.register_forward_pre_hook(before)
        site.register_forward_hook(after)
    with torch.no_grad():
        return model(TOKENS).logits


def folded(base, adapters, weights):
    with torch.no_grad():
        return folded_model(base.model, weighted_deltas(adapters, weights), hooks=())(TOKENS).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kinds", [("ia3",), ("ia3", "ia3"), ("lora", "ia3"), ("ia3", "lora", "ia3", "lora")])
def test_folding_is_what_the_layers_compute(architecture, kinds):
    base = random_base(architecture)
    make = {"ia3": rescaling, "lora": random_adapter}
    adapters = {f"{kind}-{seed}": make[kind](base, seed) for seed, kind in enumerate(kinds)}
    weights = dict(zip(adapters, (0.8, -0.3, 0.5, 1.2), strict=False))
    found = folded(base, adapters, weights)
    with torch.no_grad():
        assert float((found - base.model(TOKENS).logits).abs().max()) > 1e-3
    torch.testing.assert_close(found, hooked(base, adapters, weights), atol=1e-4, rtol=1e-4)


def test_a_bias_is_rescaled_with_the_output_and_not_with_the_input():
    base = random_base("gpt2")
    path = next(iter(base.linear_sites()))
    inputs, outputs = base.linear_sites()[path]
    site = base.model.get_submodule(path)
    torch.nn.init.normal_(site.bias)
    for side, size, wanted in (("output", outputs, 3 * site.bias), ("input", inputs, site.bias)):
        deltas = weighted_deltas({"e": {path: Ia3Weights(torch.full((size,), 3.0), side)}}, {"e": 1.0})
        changed = folded_model(base.model, deltas, hooks=()).get_submodule(path)
        torch.testing.assert_close(changed.bias, wanted)
        torch.testing.assert_close(changed.weight, 3 * site.weight)


def test_the_base_stays_as_it_is():
    base = random_base("gpt2")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    folded(base, {"e": rescaling(base, 0)}, {"e": 1.0})
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())


def test_digests_tell_changes_apart():
    base = random_base("llama")
    path = next(path for path, shape in base.linear_sites().items() if shape[0] == shape[1])
    size = base.linear_sites()[path][0]
    changes = [
        weighted_deltas({"e": {path: part}}, {"e": weight})
        for weight in (1.0, 0.5)
        for part in (
            Ia3Weights(torch.full((size,), 3.0)),
            Ia3Weights(torch.full((size,), 3.0), "input"),
            LoraWeights(torch.ones(1, size), torch.ones(size, 1)),
        )
    ]
    digests = [folded_digest("base", change) for change in changes]
    assert len(set(digests)) == 6
    assert folded_digest("base", changes[0]) == digests[0]
    assert folded_digest("other", changes[0]) != digests[0]


@pytest.mark.parametrize(
    "part",
    [
        BottleneckWeights(torch.ones(1, 2), torch.ones(1), torch.ones(2, 1), torch.ones(2)),
        FfnWeights({"up": torch.ones(2, 2)}),
        PrefixWeights(torch.ones(1, 1, 2), torch.ones(1, 1, 2)),
    ],
)
def test_parts_that_change_no_matrix_are_refused_by_name(part):
    with pytest.raises(IncompatibleExpert, match=f"'odd' is of kind '{part.kind}'"):
        weighted_deltas({"odd": {"mlp": part}}, {"odd": 1.0})
