"""Generation is scoring read forwards: same log-probabilities, same voices, reproducible draws."""

import pytest
import torch

from collegium.compose import Ensemble, JoinedVoices, Mix, SeparateVoices, SlotVoices
from collegium.core.errors import ConfigError, DataError
from collegium.core.protocols import context_limit
from collegium.data import Document
from collegium.data.documents import Message
from collegium.data.encoding import encode
from collegium.infer import Sampling, chat_prompt, generate
from collegium.routers import posterior, uniform
from collegium.testing.pico import byte_tokenizer, pico_base, random_adapter, random_base
from collegium.testing.tiny import LetterTokenizer, TinyLM, bigram_lm, tiny_lm

ALPHABET = "\nabcdefghijklmnopqrstuvwxyz ."


def letters(seed: int) -> TinyLM:
    model = bigram_lm(seed, symbols=len(ALPHABET))
    return TinyLM(model.logits, 1, eos=None, tokenizer=LetterTokenizer(ALPHABET))


def college() -> Ensemble:
    return Ensemble(SeparateVoices({"law": letters(0), "code": letters(1)}), posterior().bind(("law", "code")))


def test_generated_log_prob_is_the_scored_one():
    model = college()
    found = generate(model, ["to be", "or"], sampling=Sampling(tokens=9, temperature=1.0))
    for prompt, each in zip(("to be", "or"), found, strict=True):
        ids = model.tokenizer.encode(prompt)
        text = torch.tensor([[*ids, *each.tokens]])
        scored = model.score(text, context=len(ids)).sum()
        assert each.log_prob == pytest.approx(float(scored), abs=1e-4)


def test_greedy_takes_the_likeliest_token_every_time():
    model = college()
    each = generate(model, "to be", sampling=Sampling(tokens=6, temperature=0.0))[0]
    ids = model.tokenizer.encode("to be")
    for token in each.tokens:
        assert token == int(model.logprobs(torch.tensor([ids]), context=5)[0, -1].argmax())
        ids.append(token)


def test_a_prompt_in_a_batch_is_as_alone():
    model = college()
    together = generate(model, ["to be", "a", "hello there"], sampling=Sampling(tokens=7, temperature=0.0))
    for prompt, each in zip(("to be", "a", "hello there"), together, strict=True):
        assert generate(model, prompt, sampling=Sampling(tokens=7, temperature=0.0))[0].tokens == each.tokens


def test_equal_seeds_draw_equal_texts_and_others_do_not():
    model = college()
    drawn = [generate(model, "to be", sampling=Sampling(tokens=20), seed=seed)[0].tokens for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_draws_follow_the_distribution():
    model = tiny_lm(0, symbols=4, order=1, eos=None)
    prompts = [[1]] * 2000
    tokens = torch.tensor(
        [each.tokens for each in generate(model, prompts, sampling=Sampling(tokens=1, temperature=1.0))]
    )
    share = torch.bincount(tokens.flatten(), minlength=4) / len(prompts)
    wanted = model.logprobs(torch.tensor([[1]]))[0, 0].exp()
    assert float((share - wanted).abs().max()) < 0.05


def test_shares_are_who_spoke():
    each = generate(college(), "to be", sampling=Sampling(tokens=5))[0]
    assert torch.tensor(each.shares).sum(-1) == pytest.approx(torch.ones(5), abs=1e-5)
    assert set(each.speakers) == {"law", "code"}
    assert sum(each.speakers.values()) == pytest.approx(1, abs=1e-5)


def test_a_stop_string_ends_a_text_and_is_cut_off():
    each = generate(letters(0), "a", sampling=Sampling(tokens=200, temperature=1.0, stop=("e",)))[0]
    assert each.ended == "stop"
    assert "e" not in each.text


def test_the_end_token_ends_a_text():
    class Ending(LetterTokenizer):
        eos_token_id = 0

    logits = torch.zeros(3, 3)
    logits[:, 0] = 50.0
    model = TinyLM(logits, 1, eos=0, tokenizer=Ending("\nab"))
    each = generate(model, "ab", sampling=Sampling(tokens=5, temperature=0.0))[0]
    assert (each.ended, each.text, each.tokens) == ("end", "", (0,))


def test_the_stream_spells_out_the_text():
    heard: list[str] = []
    each = generate(
        college(), "to be", sampling=Sampling(tokens=12), stream=lambda number, text, share: heard.append(text)
    )[0]
    assert "".join(heard) == each.text


def test_the_stream_never_shows_what_a_stop_string_takes_back():
    model = letters(0)
    whole = generate(model, "a", sampling=Sampling(tokens=60, temperature=1.0))[0].text
    stop = whole[20:23]
    heard: list[str] = []
    each = generate(
        model,
        "a",
        sampling=Sampling(tokens=60, temperature=1.0, stop=(stop,)),
        stream=lambda number, text, share: heard.append(text),
    )[0]
    assert each.ended == "stop"
    assert "".join(heard) == each.text
    assert stop not in each.text


def test_top_k_one_is_greedy():
    model = college()
    one = generate(model, "to be", sampling=Sampling(tokens=8, top_k=1), seed=5)[0]
    assert one.tokens == generate(model, "to be", sampling=Sampling(tokens=8, temperature=0.0))[0].tokens


def test_repetition_is_penalised():
    model = tiny_lm(1, symbols=5, order=1, eos=None)
    plain = generate(model, [[2]], sampling=Sampling(tokens=30, temperature=0.0))[0]
    varied = generate(model, [[2]], sampling=Sampling(tokens=30, temperature=0.0, repetition_penalty=5.0))[0]
    assert len(set(varied.tokens)) > len(set(plain.tokens))


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(DataError, match="no tokenizer"):
        generate(random_base("llama"), "hello")


def test_an_empty_prompt_is_refused():
    with pytest.raises(DataError, match="empty"):
        generate(college(), "")


def test_all_wrong_settings_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        Sampling(tokens=0, temperature=-1.0, top_p=0.0)
    assert all(flag in str(caught.value) for flag in ("--tokens", "--temperature", "--top-p"))


def test_a_text_ends_where_the_model_stops_reading_and_takes_no_other_along():
    base = pico_base()
    prompts = [[1] * 500, [2] * 5]
    long, short = generate(base, prompts, sampling=Sampling(tokens=50, temperature=0.0))
    assert (long.ended, len(long.tokens)) == ("length", 12)
    alone = generate(base, [prompts[1]], sampling=Sampling(tokens=50, temperature=0.0))[0]
    assert (short.ended, short.tokens) == ("length", alone.tokens)
    text = torch.tensor([[*prompts[0], *long.tokens]])
    assert long.log_prob == pytest.approx(float(base.score(text, context=500).sum()), abs=1e-3)


def test_compositions_say_how_much_they_read():
    base = pico_base()
    base.attach("law", random_adapter(base))
    bound = uniform().bind(("law",))
    whole = SeparateVoices({"whole": pico_base(1), "toy": tiny_lm(0, symbols=base.vocab_size, order=1)})
    joined = JoinedVoices([SlotVoices(base, {"law": "law"}), whole])
    for model in (Mix(base, {"law": "law"}, bound), Ensemble(joined, bound)):
        each = generate(model, [[1] * 510], sampling=Sampling(tokens=9, temperature=0.0))[0]
        assert (each.ended, len(each.tokens)) == ("length", 2)
    assert context_limit(joined, tiny_lm(0)) == 512
    assert context_limit(tiny_lm(0)) is None


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"temperature": float("nan")}, "--temperature"),
        ({"temperature": float("inf")}, "--temperature"),
        ({"temperature": 1e-40}, "--temperature"),
        ({"repetition_penalty": float("nan")}, "--repetition-penalty"),
        ({"repetition_penalty": float("inf")}, "--repetition-penalty"),
        ({"top_p": float("nan")}, "--top-p"),
        ({"stop": ("a", "")}, "--stop"),
    ],
)
def test_settings_that_no_draw_can_follow_are_refused(wrong, flag):
    with pytest.raises(ConfigError, match=flag):
        Sampling(**wrong)


def untyped(**values) -> Sampling:
    """Return settings as a caller without type checker makes them: in tests one guards the constructor."""
    sampling = Sampling()
    for name, value in values.items():
        object.__setattr__(sampling, name, value)
    sampling.__post_init__()
    return sampling


def test_a_string_is_not_taken_for_its_letters():
    with pytest.raises(ConfigError, match=r"--stop takes strings .* got 'END'"):
        untyped(stop="END")


def test_the_coldest_temperature_is_greedy_and_a_penalty_may_be_whole():
    whole = untyped(tokens=5, temperature=0, repetition_penalty=2)
    cold = Sampling(tokens=5, temperature=1e-4, repetition_penalty=2.0)
    greedy, drawn = (generate(pico_base(), "ab", sampling=sampling)[0].tokens for sampling in (whole, cold))
    assert drawn == greedy


@pytest.mark.parametrize("token", [258, -1])
def test_token_ids_that_the_model_lacks_are_refused(token):
    with pytest.raises(DataError, match=f"between 0 and 257, got {token}"):
        generate(pico_base(), [[1], [2, token]])


def test_a_chat_begins_once_as_in_training():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    begin = TemplateProcessing(single="<|im_start|> $A", pair=None, special_tokens=[("<|im_start|>", 256)])
    tokenizer.backend_tokenizer.post_processor = begin
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    assert tokenizer.encode("hi")[0] == 256
    asked = chat_prompt([{"role": "user", "content": "hi"}], tokenizer)
    assert asked == [256, *b"hi", 257]
    answered = Document(messages=(Message("user", "hi"), Message("assistant", "yo")))
    assert list(encode(answered, tokenizer).tokens[: len(asked)]) == asked
