"""Laws of bases that read and do not speak: encoders, whose tokens see all others, and sequence classifiers."""

import copy
import json

import peft
import pytest
import torch
from torch import nn

from collegium.core.errors import BaseModelError, IncompatibleExpert
from collegium.experts.fresh import with_tensors
from collegium.models import (
    Base,
    BottleneckWeights,
    FfnWeights,
    Group,
    Ia3Weights,
    LoraWeights,
    PrefixWeights,
    RowPlan,
    load_base,
)
from collegium.models.architectures import opening_of
from collegium.models.rotary import base_keys
from collegium.models.trunk import Trunk
from collegium.testing.pico import ENCODERS, random_adapter, random_base, random_classifier

CLOSE = 1e-5
LENGTHS = torch.tensor([12, 5, 9])
DECODERS = ("llama", "gpt2", "gpt_neox", "qwen3", "gemma3")


@pytest.fixture(scope="module", params=ENCODERS)
def bare(request) -> Base:
    """A random encoder that no test attaches anything to."""
    return random_base(request.param)


@pytest.fixture
def base(bare):
    """An encoder that is left as it was."""
    yield bare
    for name in bare.attached:
        bare.detach(name)


@pytest.fixture
def tokens():
    return torch.randint(2, 250, (3, 12), generator=torch.Generator().manual_seed(1))


def real(hidden, lengths=LENGTHS):
    """The states of tokens that are no padding."""
    return [hidden[row, :length] for row, length in enumerate(lengths.tolist())]


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ffn_of(base, *, noise=0.0):
    return {
        path: FfnWeights(
            {
                name: value.detach() + noise * drawn(*value.shape, seed=site.block)
                for name, value in base.module(path).named_parameters()
            }
        )
        for path, site in base.sites.items()
        if site.what == "feed_forward"
    }


def test_an_encoder_reads_both_ways_and_does_not_speak(bare, tokens):
    assert (bare.speaks, bare.causal, bare.output) == (False, False, None)
    assert (bare.vocab_size, bare.context_tokens) == (258, 512)
    assert bare.hidden(tokens[:1, :1].expand(1, 512)).shape == (1, 512, 64)
    with pytest.raises(BaseModelError, match="at most 512 tokens"):
        bare.hidden(tokens[:1, :1].expand(1, 513))


@pytest.mark.parametrize("architecture", DECODERS)
def test_a_decoder_under_a_head_reads_in_order_and_does_not_speak(architecture, tokens):
    base = Base.from_model(random_classifier(architecture), name="judge")
    assert (base.speaks, base.causal, base.output) == (False, True, None)
    assert base.model.score.weight.shape == (1, 64)
    segments = torch.tensor([[0] * 5 + [1] * 7] * 3)
    alone = base.hidden(tokens[:, 5:])
    torch.testing.assert_close(base.hidden(tokens, segments=segments)[:, 5:], alone, atol=CLOSE, rtol=0)


def test_one_that_speaks_says_so():
    base = random_base("llama")
    assert base.speaks
    assert base.causal


@pytest.mark.parametrize(
    "say",
    [
        lambda base, tokens: base.logprobs(tokens),
        lambda base, tokens: base.score(tokens),
        lambda base, tokens: base.token_nats(tokens),
        lambda base, tokens: base.score_rows(tokens),
        lambda base, tokens: base.logprobs_rows(tokens),
        lambda base, tokens: base.open(tokens.tolist()),
        lambda base, tokens: base.open_rows(tokens.tolist()),
    ],
)
def test_what_only_a_speaker_can_do_is_refused(say, tokens):
    for model in (random_base("bert"), Base.from_model(random_classifier("llama"), name="judge")):
        with pytest.raises(BaseModelError, match="no output layer over a vocabulary; use it for rewards"):
            say(model, tokens)


def test_states_depend_neither_on_padding_nor_on_neighbours(bare, tokens):
    together = bare.hidden(tokens, lengths=LENGTHS)
    padding = torch.arange(12) >= LENGTHS[:, None]
    other = bare.hidden(torch.where(padding, 77, tokens), lengths=LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = bare.hidden(tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(together[row, :length], alone, atol=CLOSE, rtol=0)
        torch.testing.assert_close(other[row, :length], alone, atol=CLOSE, rtol=0)


def test_without_lengths_padding_is_read(bare, tokens):
    """The law above can fail: an encoder that is not told of padding reads it."""
    alone = bare.hidden(tokens[1:2, :5])[0]
    assert float((bare.hidden(tokens)[1, :5] - alone).abs().max()) > 1e-3
    torch.testing.assert_close(bare.hidden(tokens, lengths=torch.tensor([12] * 3)), bare.hidden(tokens))


def test_the_states_are_the_models_own(bare, tokens):
    mask = (torch.arange(12) < LENGTHS[:, None]).long()
    want = bare.model.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    for got, own in zip(real(bare.hidden(tokens, lengths=LENGTHS)), real(want), strict=True):
        assert torch.equal(got, own)


@pytest.mark.parametrize("architecture", DECODERS)
def test_lengths_change_nothing_for_who_reads_in_order(architecture, tokens):
    base = random_base(architecture)
    for got, want in zip(real(base.hidden(tokens, lengths=LENGTHS)), real(base.hidden(tokens)), strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_packed_documents_are_refused_where_tokens_see_the_whole_window(bare, tokens):
    with pytest.raises(BaseModelError, match="documents cannot be packed"):
        bare.hidden(tokens, segments=torch.zeros_like(tokens))


@pytest.mark.parametrize("kind", ["lora", "ia3", "bottleneck", "ffn"])
@pytest.mark.parametrize("layers", ["all", "top:1"])
def test_rows_of_many_experts_are_each_text_alone(base, tokens, kind, layers):
    for number, name in enumerate(("one", "two")):
        base.attach(name, random_adapter(base, number, kind=kind, layers=layers))
    weights = torch.rand(3, 12, 2, generator=torch.Generator().manual_seed(4))
    groups = (Group(("one",)), Group(), Group(("one", "two"), weights))
    together = base.hidden(tokens, lengths=LENGTHS, plan=RowPlan(groups)).view(3, 3, 12, 64)
    for row, length in enumerate(LENGTHS.tolist()):
        own = Group(("one", "two"), weights[row : row + 1, :length])
        for number, group in enumerate((*groups[:2], own)):
            alone = base.hidden(tokens[row : row + 1, :length], plan=RowPlan((group,)))[0]
            torch.testing.assert_close(together[number, row, :length], alone, atol=5 * CLOSE, rtol=0)
    assert float((together[0, 0] - together[1, 0]).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["lora", "ia3", "bottleneck", "ffn"])
def test_the_trunk_below_the_experts_stands_in_for_itself(base, tokens, kind):
    base.attach("new", random_adapter(base, 1, kind=kind, layers="top:1"))
    plan, trunk = RowPlan.one("new"), Trunk(base, 1)
    assert trunk.refusal(tokens, lengths=LENGTHS, plan=plan) is None
    assert trunk.refusal(tokens, plan=plan) is None
    want = base.hidden(tokens, lengths=LENGTHS, plan=plan)
    with trunk.given(trunk.states(tokens, lengths=LENGTHS)):
        got = base.hidden(tokens, lengths=LENGTHS, plan=plan)
    with trunk.given(trunk.states(tokens)):
        blind = base.hidden(tokens, lengths=LENGTHS, plan=plan)
    for one, other, unpadded in zip(real(want), real(got), real(blind), strict=True):
        assert torch.equal(one, other)
        assert len(one) == 12 or not torch.allclose(one, unpadded, atol=1e-4), "a trunk reads padding unless told"


def test_there_are_places_for_every_kind(bare):
    kinds = [site.what for site in bare.sites.values()]
    assert (kinds.count("linear"), kinds.count("feed_forward"), kinds.count("attention")) == (12, 2, 2)


def test_an_exchanged_block_that_is_the_bases_own_changes_nothing(base, tokens):
    base.attach("same", ffn_of(base))
    want = base.hidden(tokens, lengths=LENGTHS)
    got = base.hidden(tokens, lengths=LENGTHS, plan=RowPlan.one("same"))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_an_exchanged_block_is_the_block_exchanged_by_hand(base, tokens):
    adapter = ffn_of(base, noise=0.2)
    changed = copy.deepcopy(base.model)
    for path, part in adapter.items():
        site = base.sites[path]
        for name, tensor in part.tensors.items():
            prefix = path if site.first is None else path.rpartition(".")[0]
            owner, _, leaf = f"{prefix}.{name}".rpartition(".")
            changed.get_submodule(owner).register_parameter(leaf, nn.Parameter(tensor))
    mask = (torch.arange(12) < LENGTHS[:, None]).long()
    want = changed.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    base.attach("one", adapter)
    base.attach("two", ffn_of(base, noise=0.5))
    alone, one_hot = (
        base.hidden(tokens, lengths=LENGTHS, plan=plan)
        for plan in (RowPlan.one("one"), RowPlan.blend(("one", "two"), torch.tensor([[[1.0, 0.0]]])))
    )
    for got, other, right in zip(real(alone), real(one_hot), real(want), strict=True):
        torch.testing.assert_close(got, right, atol=CLOSE, rtol=0)
        torch.testing.assert_close(other, right, atol=CLOSE, rtol=0)
    assert float((want - base.hidden(tokens)).detach().abs().max()) > 1e-2


def test_a_bottleneck_stands_beside_the_whole_block(base, tokens):
    path, site = next((path, site) for path, site in base.sites.items() if site.what == "feed_forward" and site.block)
    part = BottleneckWeights(
        drawn(5, 64, seed=1) / 8, drawn(5, seed=2), drawn(64, 5, seed=3) / 2, drawn(64, seed=4), 0.7
    )
    base.attach("beside", {path: part})
    read, said = [], []

    def watch(module, args, output):
        read.append(args[0 if site.first is None else 1])
        said.append(output.clone())

    handle = base.model.get_submodule(path).register_forward_hook(watch, prepend=True)
    hidden = base.hidden(tokens, plan=RowPlan.one("beside"))
    handle.remove()
    step = torch.relu(read[0] @ part.down.T + part.down_bias) @ part.up.T + part.up_bias
    want = said[0] + part.scale * step
    if site.first is None:  # DistilBERT normalises behind its block
        want = base.blocks[1].output_layer_norm(want + read[0])
    torch.testing.assert_close(hidden, want, atol=CLOSE, rtol=0)


def test_a_prefix_is_seen_by_every_token(base, tokens):
    adapter = {
        path: PrefixWeights(drawn(*site.shape[:1], 4, site.shape[1], seed=1), drawn(4, 4, site.shape[1], seed=2))
        for path, site in base.sites.items()
        if site.what == "attention"
    }
    base.attach("seen", adapter)
    plan, before = RowPlan.one("seen"), base.hidden(tokens, lengths=LENGTHS)
    together = base.hidden(tokens, lengths=LENGTHS, plan=plan)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = base.hidden(tokens[row : row + 1, :length], plan=plan)[0]
        torch.testing.assert_close(together[row, :length], alone, atol=CLOSE, rtol=0)
        assert float((alone - before[row, :length]).abs().amax(-1).min()) > 1e-3
    hushed = base.hidden(tokens, plan=RowPlan.blend(("seen",), torch.zeros(1, 1, 1)))
    torch.testing.assert_close(hushed, base.hidden(tokens), atol=CLOSE, rtol=0)
    with pytest.raises(IncompatibleExpert, match="keeps no keys and values"):
        base_keys(base, [1, 2])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("architecture", "targets"), [("bert", ["query", "value"]), ("roberta", ["key", "output.dense"])]
)
def test_states_are_pefts(architecture, targets, tokens):
    base = random_base(architecture)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=targets, r=3, lora_alpha=5)
    theirs = peft.get_peft_model(copy.deepcopy(base.model), config).eval()
    adapter = {}
    for path in base.linear_sites(targets):
        layer = theirs.base_model.model.get_submodule(path)
        for half in (layer.lora_A, layer.lora_B):
            half["default"].weight.data = drawn(*half["default"].weight.shape, seed=len(adapter)) / 4
        a, b = (half["default"].weight.detach() for half in (layer.lora_A, layer.lora_B))
        adapter[path] = LoraWeights(a, b, 5 / 3)
    assert sum("lora_A" in name for name, _ in theirs.named_parameters()) == len(adapter)
    base.attach("it", adapter)
    mask = (torch.arange(12) < LENGTHS[:, None]).long()
    want = theirs.base_model.model.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    got = base.hidden(tokens, lengths=LENGTHS, plan=RowPlan.one("it"))
    for ours, own in zip(real(got), real(want), strict=True):
        torch.testing.assert_close(ours, own, atol=CLOSE, rtol=0)
    assert float((got - base.hidden(tokens, lengths=LENGTHS)).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["lora", "ia3", "bottleneck", "ffn"])
def test_experts_on_an_encoder_learn(base, tokens, kind):
    drawn_adapter = random_adapter(base, 1, kind=kind)
    adapter = with_tensors(drawn_adapter, lambda tensor: tensor.detach().clone().requires_grad_())
    base.attach("it", adapter)
    pooled = base.hidden(tokens, lengths=LENGTHS, plan=RowPlan.one("it"))[:, 0]
    (pooled @ drawn(64, seed=9)).sum().backward()
    slopes = [tensor.grad for part in adapter.values() for tensor in part.tensors.values()]
    assert all(slope is not None and bool(slope.isfinite().all()) for slope in slopes)
    assert sum(bool(slope.any()) for slope in slopes if slope is not None) > len(slopes) / 2


def test_linear_changes_fold_into_an_encoder(base, tokens):
    path = next(iter(base.linear_sites()))
    base.attach("it", {path: Ia3Weights(1 + drawn(64, seed=1) / 2)})
    folded = base.folded({"it": 1.0})
    want = base.hidden(tokens, lengths=LENGTHS, plan=RowPlan.one("it"))
    torch.testing.assert_close(folded.hidden(tokens, lengths=LENGTHS), want, atol=CLOSE, rtol=0)
    assert not folded.speaks


# Folders


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoders_folder_is_opened_with_a_head_of_its_own(architecture, tmp_path, tokens):
    own = random_base(architecture)
    own.inner.save_pretrained(tmp_path)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    base = load_base(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again = load_base(tmp_path)
    assert torch.equal(base.hidden(tokens, lengths=LENGTHS), own.hidden(tokens, lengths=LENGTHS))
    assert base.sites == own.sites
    assert base.model.config.num_labels == 1
    both = (base.model.state_dict(), again.model.state_dict())
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())


def test_what_an_encoder_cannot_do_without_is_missed(tmp_path):
    from safetensors.torch import load_file, save_file

    random_base("bert").inner.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: each for name, each in state.items() if "pooler" not in name},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    assert not load_base(tmp_path).speaks
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=r"lacks 1 weights, 'bert.encoder.layer.1.output.dense.weight'"):
        load_base(tmp_path)


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_a_classifiers_folder_keeps_its_head(architecture, tmp_path):
    from safetensors.torch import load_file, save_file

    model = random_classifier(architecture, labels=3)
    model.save_pretrained(tmp_path)
    base, name = load_base(tmp_path), "classifier.weight" if architecture == "bert" else "score.weight"
    assert torch.equal(base.model.state_dict()[name], model.state_dict()[name])
    assert not base.speaks
    state = load_file(tmp_path / "model.safetensors")
    del state[name]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=f"lacks 1 weights, '{name}'"):
        load_base(tmp_path)


def test_an_impossible_encoder_teaches(tmp_path):
    random_base("bert").inner.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": 7}))
    with pytest.raises(BaseModelError, match="cannot be loaded as an encoder"):
        load_base(tmp_path)


def test_an_encoder_whose_weights_are_not_finite_is_refused():
    model = random_classifier("bert")
    model.bert.encoder.layer[0].output.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(BaseModelError, match="not finite"):
        Base.from_model(model, name="damaged")


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "a causal language model"),
        ({"model_type": "llama"}, "a causal language model"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "a causal language model"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "a sequence classifier"),
        ({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}, "a sequence classifier"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "an encoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "an encoder"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "a causal language model"),
        ({"model_type": "roberta", "is_decoder": True}, "a causal language model"),
        ({"model_type": "xlm-roberta"}, "an encoder"),
        ({"model_type": ["bert"], "architectures": "BertModel"}, "a causal language model"),
        ({"model_type": "bart"}, "a causal language model"),
    ],
)
def test_a_configuration_says_how_it_is_opened(config, what):
    assert opening_of(config).what == what
