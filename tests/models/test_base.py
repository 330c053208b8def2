"""Laws of a base as a language model, over five architectures."""

import itertools

import pytest
import torch
from torch import nn

from collegium.core.errors import BaseModelError, ConfigError
from collegium.core.protocols import LanguageModel
from collegium.models import BASE_ROWS, Base, RowPlan, after_context
from collegium.models.sites import parse_layers
from collegium.models.tail import Tail, check_tail, plain_nats
from collegium.testing.pico import pico_base, random_adapter, random_base


def test_it_is_a_language_model(bare):
    assert isinstance(bare, LanguageModel)


def test_logprobs_are_the_models_own(bare, tokens):
    with torch.no_grad():
        own = bare.model(input_ids=tokens).logits.log_softmax(-1)
    torch.testing.assert_close(bare.logprobs(tokens), own, atol=1e-5, rtol=0)


def test_score_is_logprobs_at_the_tokens(bare, tokens):
    lengths, context = torch.tensor([20, 7, 13]), torch.tensor([1, 3, 5])
    score, full = bare.score(tokens, lengths=lengths, context=context), bare.logprobs(tokens)
    for row in range(3):
        for place in range(20):
            read = context[row] <= place < lengths[row]
            want = full[row, place - 1, tokens[row, place]] if read else torch.tensor(0.0)
            torch.testing.assert_close(score[row, place], want, atol=1e-5, rtol=0)


def test_one_context_for_all_rows_and_one_per_row_agree(bare, tokens):
    same = bare.score(tokens, context=torch.tensor([4, 4, 4]))
    assert torch.equal(bare.score(tokens, context=4), same)
    assert not torch.equal(bare.score(tokens, context=2), same)


def test_nothing_looks_ahead(base, tokens):
    plan = RowPlan.each(("deep", "base", "top"))
    changed = tokens.clone()
    changed[:, 11:] = (changed[:, 11:] + 1) % 256
    before, after = base.logprobs_rows(tokens, plan=plan), base.logprobs_rows(changed, plan=plan)
    assert torch.equal(before[:, :, :11], after[:, :, :11])
    assert not torch.equal(before[:, :, 11], after[:, :, 11])


def test_padding_moves_nothing(base, tokens):
    lengths, plan = torch.tensor([20, 7, 1]), RowPlan.each(("deep", "top"))
    other = torch.where(torch.arange(20) < lengths[:, None], tokens, 99)
    got = base.score_rows(other, lengths=lengths, plan=plan)
    assert torch.equal(got, base.score_rows(tokens, lengths=lengths, plan=plan))
    alone = base.score_rows(tokens[1:2, :7], plan=plan)
    torch.testing.assert_close(got[:, 1:2, :7], alone, atol=1e-5, rtol=0)
    assert not got[:, 1, 7:].any()


def test_what_is_not_scored_is_zero_and_not_computed(bare, tokens, monkeypatch):
    rows = []
    plain = Tail.__call__
    monkeypatch.setattr(Tail, "__call__", lambda self, hidden: (rows.append(len(hidden)), plain(self, hidden))[1])
    scored = torch.zeros_like(tokens, dtype=torch.bool)
    scored[0, 5] = scored[2, 9] = True
    got = bare.score_rows(tokens, scored=scored)
    assert sum(rows) == 2
    assert torch.equal(got[0] != 0, scored)


def test_chunks_of_the_output_layer_change_nothing(bare, tokens, monkeypatch):
    whole, nats = bare.score(tokens), bare.token_nats(tokens)
    monkeypatch.setattr("collegium.models.tail._CHUNK_NUMBERS", 258 * 7)
    torch.testing.assert_close(bare.score(tokens), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(bare.token_nats(tokens), nats, atol=1e-6, rtol=0)


def test_packed_documents_are_as_if_alone(base, tokens):
    segments = torch.tensor([[0] * 7 + [1] * 13, [0] + [1] + [2] * 18, [0] * 15 + [-1] * 5])
    got = base.token_nats(tokens, segments=segments, plan=RowPlan.one("deep"))
    for row, cuts in enumerate(([0, 7, 20], [0, 1, 2, 20], [0, 15])):
        for start, end in itertools.pairwise(cuts):
            alone = base.token_nats(tokens[row : row + 1, start:end], plan=RowPlan.one("deep"))
            torch.testing.assert_close(got[row : row + 1, start:end], alone, atol=2e-5, rtol=0)
    assert not got[2, 15:].any()


def test_packing_without_segments_breaks_the_law(bare, tokens):
    """The law above can fail: a window read as one text is not its documents read alone."""
    apart = bare.token_nats(tokens[:1, 7:])
    assert float((bare.token_nats(tokens[:1])[:, 8:] - apart[:, 1:]).abs().max()) > 1e-3


def test_nats_are_minus_scores_and_their_gradient_is_autograds(base, tokens):
    hidden = base.hidden(tokens).reshape(-1, 64).requires_grad_()
    goals = tokens.reshape(-1)
    weights = torch.rand(60)
    from collegium.models.tail import target_nats

    got = target_nats(base.output, hidden, goals)
    want = nn.functional.cross_entropy(base.output(hidden), goals, reduction="none")
    torch.testing.assert_close(got, want)
    (ours,) = torch.autograd.grad(got @ weights, hidden)
    (theirs,) = torch.autograd.grad(want @ weights, hidden)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(base.token_nats(tokens), -base.score(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("positions", "numbers"), [(1024, 2**21), (7, 50), (3, 1)])
def test_a_walk_through_the_vocabulary_is_the_loss_and_its_slope(monkeypatch, positions, numbers):
    monkeypatch.setattr("collegium.models.tail._WALK_POSITIONS", positions)
    monkeypatch.setattr("collegium.models.tail._WALK_NUMBERS", numbers)
    hidden, weight = torch.randn(20, 16), torch.randn(33, 16)
    goals = torch.arange(20)
    exact = hidden.double().requires_grad_()
    want = nn.functional.cross_entropy(0.5 * exact @ weight.double().T, goals, reduction="none")
    (slopes,) = torch.autograd.grad(want.sum(), exact)
    nats, got = plain_nats(hidden, goals, weight, factor=0.5)
    torch.testing.assert_close(nats.double(), want.detach(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(got.double(), slopes, atol=1e-5, rtol=1e-5)
    assert plain_nats(hidden[:0], goals[:0], weight)[0].shape == (0,)


def test_a_whole_model_can_be_trained_through_it(tokens):
    base = pico_base(3)
    base.model.requires_grad_(True)
    base.token_nats(tokens).sum().backward()
    assert all(weight.grad is not None for weight in base.model.parameters())


def test_tail_that_is_not_the_models_own_is_refused():
    base = random_base("gemma3")
    plain = Tail(base.output.layer, base.vocab_size)
    with pytest.raises(BaseModelError, match="does more to its logits"):
        check_tail(base.model, base.inner, plain)


def test_a_model_without_an_output_layer_is_refused():
    from transformers import LlamaModel

    inner = pico_base().inner
    assert isinstance(inner, LlamaModel)
    with pytest.raises(BaseModelError, match="no output layer"):
        Base.from_model(inner, name="inner")
    with pytest.raises(BaseModelError, match="transformers causal language model"):
        Base.from_model(nn.Linear(2, 2), name="linear")


def test_a_text_longer_than_the_base_reads_is_refused(bare):
    with pytest.raises(BaseModelError, match="at most 512 tokens, got 513"):
        bare.logprobs(torch.zeros(1, 513, dtype=torch.long))
    with pytest.raises(BaseModelError, match="at most 512"):
        bare.open_rows([[1] * 513])


@pytest.mark.parametrize(("layers", "count"), [("all", 2), ("top:1", 1), ([0], 1), ((0, 1), 2)])
def test_sites_by_layer(bare, layers, count):
    per_block = {"llama": 7, "qwen3": 7, "gemma3": 7, "gpt2": 4, "gpt_neox": 4}[bare.name.removeprefix("random-")]
    sites = bare.linear_sites(layers=layers)
    assert len(sites) == count * per_block
    for path, (inputs, outputs) in sites.items():
        probe = bare.model.get_submodule(path)(torch.zeros(1, inputs))
        assert probe.shape == (1, outputs)


def test_sites_by_target():
    base = random_base("llama")
    assert len(base.linear_sites(["q_proj", "v_proj"])) == 4
    assert list(base.linear_sites(r".*\.1\..*down_proj")) == ["model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize(
    ("targets", "layers", "message"),
    [
        (["q_prj"], "all", "Did you mean 'q_proj'"),
        ("nothing", "all", "matches no linear layer"),
        ("(", "all", "not a regular expression"),
        (None, "top:3", "at most `top:2`"),
        (None, "top:0", "layers are"),
        (None, [2], "from 0 to 1"),
        (None, [], "from 0 to 1"),
    ],
)
def test_wrong_sites_teach(targets, layers, message):
    with pytest.raises(ConfigError, match=message):
        random_base("llama").linear_sites(targets, layers)


@pytest.mark.parametrize("layers", [["a"], ["1"], [1.5], [True], 1, None])
def test_layers_are_whole_numbers(layers):
    with pytest.raises(ConfigError, match="indices from 0 to 1, got"):
        parse_layers(layers, 2)


def test_fingerprint_tells_weights_and_tokenizers_apart():
    one, again, other = random_base("llama", 0), random_base("llama", 0), random_base("llama", 1)
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint.weights != other.fingerprint.weights
    assert one.fingerprint.config == other.fingerprint.config
    assert one.fingerprint.tokenizer == "none"
    assert pico_base().fingerprint.tokenizer not in {"none", ""}


def test_describes_itself(pico):
    assert pico.vocab_size == 258
    assert pico.context_tokens == 512
    assert pico.memory_bytes >= 4 * sum(weight.numel() for weight in pico.model.parameters())
    assert "toy" in pico.source
    assert (pico.device.type, pico.dtype) == ("cpu", torch.float32)


def test_training_pico_taught_it_something(pico):
    tokens = torch.tensor([pico.tokenizer.encode("To be, or not to be, that is the question")])
    untrained = pico_base().score(tokens).mean()
    assert float(pico.score(tokens).mean()) > float(untrained) + 2


def test_after_context_of_zero_keeps_everything():
    assert bool(after_context(torch.zeros(1, 4, dtype=torch.long), 0).all())


def test_base_rows_are_the_plain_model(base, tokens):
    assert torch.equal(base.logprobs_rows(tokens, plan=BASE_ROWS)[0], base.logprobs(tokens))
    assert set(random_adapter(base)) == set(base.linear_sites())
