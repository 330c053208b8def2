"""What lm-evaluation-harness asks is our own score, perplexity and generate; and a batch changes nothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.compose import Ensemble, Mix, SlotVoices
from collegium.core.errors import ConfigError, DataError
from collegium.data import Document
from collegium.infer import Sampling, generate, perplexity
from collegium.infer.harness import Scored, fitted, greedy, log_likelihoods, rolling, sampling_of
from collegium.routers import fixed, posterior
from collegium.routers.held import HeldRouter
from collegium.testing.pico import byte_tokenizer, pico_base, random_adapter


def college(kind: str):
    base = pico_base()
    keys = {"law": "law", "code": "code"}
    for seed, name in enumerate(keys, start=1):
        base.attach(name, random_adapter(base, seed))
    match kind:
        case "base":
            return base
        case "mix":
            return Mix(base, keys, fixed({"law": 0.7, "code": 0.3}).bind(("law", "code")))
        case "held":
            return Ensemble(SlotVoices(base, keys), HeldRouter(("law", "code"), by_sum))
    return Ensemble(SlotVoices(base, keys), posterior().bind(("law", "code")))


def by_sum(context):
    """Weights that depend on every token of the context, so that reading more or less of it shows."""
    sums = context.tokens.clamp(min=0).sum(-1, keepdim=True) % 7 / 7
    return torch.cat([sums, 1 - sums], dim=-1).float()


KINDS = ["base", "mix", "held", "posterior"]


def requests(seed: int, many: int = 7) -> list[Scored]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 24, (many,), generator=draw).tolist()
    return [
        Scored(tuple(torch.randint(0, 256, (length,), generator=draw).tolist()), 1 + place % (length - 2))
        for place, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_log_likelihoods_are_sums_of_the_models_own_scores(kind):
    model, asked = college(kind), requests(0)
    found = log_likelihoods(model, asked, batch=3)
    for each, value in zip(asked, found, strict=True):
        own = model.score(torch.tensor([each.tokens]), context=each.context).sum()
        assert value == pytest.approx(float(own), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_changes_nothing(kind):
    model, asked = college(kind), requests(1)
    alone = log_likelihoods(model, asked, batch=1, read=6)
    assert greedy(model, asked, batch=1) == greedy(model, asked, batch=5)
    for batch in (2, 7):
        assert log_likelihoods(model, asked, batch=batch, read=6) == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_likeliest_token_at_every_place(kind):
    model = college(kind)
    prompts = [each.tokens[: each.context] for each in requests(2)]
    said = generate(model, prompts, sampling=Sampling(tokens=5, temperature=0.0))
    asked = []
    for place, (prompt, each) in enumerate(zip(prompts, said, strict=True)):
        wrong = list(each.tokens)
        wrong[place % len(wrong)] = (wrong[place % len(wrong)] + 1) % 256
        asked += [Scored((*prompt, *each.tokens), len(prompt)), Scored((*prompt, *wrong), len(prompt))]
        asked.append(Scored((*prompt, *each.tokens[:2]), len(prompt)))
    wanted = []
    for each in asked:
        likeliest = model.logprobs(torch.tensor([each.tokens]), context=each.context)[0].argmax(-1).tolist()
        wanted.append(tuple(likeliest[each.context - 1 : -1]) == each.continuation)
    assert greedy(model, asked, batch=4) == wanted
    assert set(wanted) == {True, False}


def test_nothing_to_say_is_said_by_anyone():
    asked = [Scored((1, 2), 2)]
    assert log_likelihoods(pico_base(), asked) == [0.0]
    assert greedy(pico_base(), asked) == [True]
    assert log_likelihoods(pico_base(), []) == greedy(pico_base(), []) == []


def windows_without_overlap(tokens, prefix, most):
    """The law below must reject these: each window starts from the prefix again and knows nothing before it."""
    return [Scored((prefix, *tokens[at : at + most - 1]), 1) for at in range(0, len(tokens), most - 1)]


def check_windows(tokens, most, windows):
    assert [token for each in windows for token in each.continuation] == tokens
    done = 0
    for each in windows:
        done += len(each.continuation)
        assert each.context >= 1
        assert each.tokens == tuple([-1, *tokens][max(0, done + 1 - most) : done + 1])


@given(tokens=st.lists(st.integers(0, 9), max_size=40), most=st.integers(2, 12))
def test_rolling_scores_each_token_once_with_as_much_context_as_fits(tokens, most):
    check_windows(tokens, most, rolling(tokens, prefix=-1, most=most))


def test_windows_that_forget_are_seen():
    with pytest.raises(AssertionError):
        check_windows([1, 2, 3, 4, 5], 4, windows_without_overlap([1, 2, 3, 4, 5], -1, 4))


def beginning_tokenizer():
    """The byte tokenizer as one that writes a begin-of-text token before every text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    begin = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("read", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_rolling_is_our_perplexity_on_the_same_windows(kind, read):
    model = college(kind)
    base = model if kind == "base" else model.base if kind == "mix" else model.voices.base
    base.tokenizer = beginning_tokenizer()
    documents = [Document(text=f"{n} bottles of beer on the wall, take {n} down.") for n in range(3)]
    texts = [base.tokenizer.encode(each.text, add_special_tokens=False) for each in documents]
    windows = [window for text in texts for window in rolling(text, prefix=base.tokenizer.bos_token_id, most=64)]
    assert len(windows) == 3
    if read == 1:
        nats, tokens = -sum(log_likelihoods(model, windows)), sum(map(len, texts))
    else:  # what lies between is a sum of its own, in which the router has read the first token alone
        heads = [Scored(each.tokens[:read], 1) for each in windows]
        nats = sum(log_likelihoods(model, heads)) - sum(log_likelihoods(model, windows, read=read))
        tokens = sum(len(text) - read + 1 for text in texts)
    wanted = perplexity(model, documents, window=64, context=read)
    assert math.exp(nats / tokens) == pytest.approx(wanted, rel=1e-5)


def test_a_router_may_read_before_it_decides_but_not_ahead():
    model = college("held")
    text = requests(3, many=1)[0].tokens
    one, six = (log_likelihoods(model, [Scored(text, 1)], read=read)[0] for read in (1, 6))
    assert abs(one - six) > 1e-3
    head = float(model.score(torch.tensor([text[:6]]), context=1).sum())
    rest = float(model.score(torch.tensor([text]), context=6).sum())
    assert six == pytest.approx(head + rest, abs=1e-4)


def test_contexts_are_cut_from_their_left_and_continuations_never():
    assert fitted([1, 2, 3], [4], most=9) == Scored((1, 2, 3, 4), 3)
    assert fitted([1, 2, 3], [4, 5], most=3) == Scored((3, 4, 5), 1)
    with pytest.raises(DataError, match="max_length"):
        fitted([1], [2, 3, 4], most=3)
    with pytest.raises(DataError, match="at least 2"):
        rolling([1], prefix=0, most=1)


def test_generation_keywords():
    assert sampling_of({}) == Sampling(tokens=256, temperature=0.0)
    assert sampling_of({"do_sample": False, "temperature": 0.7}).temperature == 0
    assert sampling_of({"temperature": 0.7}).temperature == 0.7
    assert sampling_of({"do_sample": True}).temperature == 1
    assert sampling_of({"until": "END", "max_new_tokens": 3}) == Sampling(tokens=3, temperature=0.0, stop=("END",))
    assert sampling_of({"num_beams": 1, "use_cache": True}) == sampling_of({})
    with pytest.raises(ConfigError, match=r"num_beams=4.*temprature=1: Did you mean 'temperature'"):
        sampling_of({"num_beams": 4, "temprature": 1})


def test_a_prompt_with_a_seed_of_its_own_draws_as_alone():
    model = college("mix")
    together = generate(model, ["to be", "or"], sampling=Sampling(tokens=6), seed=[5, 9])
    alone = [
        generate(model, prompt, sampling=Sampling(tokens=6), seed=seed)[0] for prompt, seed in (("to be", 5), ("or", 9))
    ]
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    with pytest.raises(ConfigError, match="one for each prompt; got 3 for 2"):
        generate(model, ["to be", "or"], seed=[1, 2, 3])
