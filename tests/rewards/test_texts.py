"""Samples as tokens: what is cut, what a prompt's tokens depend on, chats, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import BaseModelError, DataError
from collegium.core.samples import Message, Sample
from collegium.models import Base
from collegium.rewards.texts import Encoder, batch_of, encode_all
from collegium.testing.pico import pico_base, random_base

BASE = pico_base()
LETTERS = st.text("abc d", min_size=1, max_size=60)


@given(LETTERS, LETTERS, LETTERS, st.integers(8, 64))
def test_a_prompts_tokens_do_not_depend_on_the_answer(prompt, one, other, limit):
    encoder = Encoder(BASE, limit)
    assert encoder(Sample(prompt, one)).prompt == encoder(Sample(prompt, other)).prompt


@given(LETTERS, LETTERS, st.integers(8, 64))
def test_a_prompt_keeps_its_end_and_an_answer_its_beginning(prompt, answer, limit):
    found = Encoder(BASE, limit)(Sample(prompt, answer))
    kept, said = bytes(found.prompt).decode(), bytes(found.completion).decode()
    assert prompt.endswith(kept)
    assert len(kept) == min(len(prompt), limit // 2)
    assert answer.startswith(said)
    assert len(said) == min(len(answer), limit - len(kept))
    assert found.cut == (kept != prompt or said != answer)


def test_the_prompts_of_a_batch_are_its_rows_beginnings():
    encoder = Encoder(BASE, 32)
    batch = batch_of(encode_all([Sample("To be", " or not"), Sample("A", "b")], encoder))
    prompts = batch.of_prompts
    assert prompts.lengths.tolist() == [5, 1]
    assert bytes(prompts.tokens[0].tolist()).decode() == "To be"
    assert prompts.tokens[1, 1:].tolist() == [0] * 4


def test_a_chat_is_what_the_template_makes_of_it():
    chat = (Message("system", "Be kind."), Message("user", "Hi"))
    encoder = Encoder(BASE, 400)
    as_text, as_turns = (encoder(Sample(chat, each)) for each in ("Hello", (Message("assistant", "Hello"),)))
    assert as_text == as_turns
    told = BASE.tokenizer.decode(as_text.tokens)
    turns = [{"role": each.role, "content": each.content} for each in (*chat, Message("assistant", "Hello"))]
    assert told == BASE.tokenizer.apply_chat_template(turns, tokenize=False)
    assert BASE.tokenizer.decode(as_text.prompt).endswith("<|im_start|>assistant\n")


def test_a_chat_without_a_template_is_lines_of_role_and_content():
    base = pico_base()
    base.tokenizer.chat_template = None
    found = Encoder(base, 64)(Sample((Message("user", "Hi"),), "Hello"))
    assert base.tokenizer.decode(found.tokens) == "user: Hi\nassistant: Hello\n"


@pytest.mark.parametrize(("prompt", "answer", "says"), [("", "a", "prompt"), ("a", "", "completion")])
def test_an_empty_text_is_refused_by_its_place(prompt, answer, says):
    with pytest.raises(DataError, match=f"sample 2: .*{says}"):
        encode_all([Sample("a", "b"), Sample(prompt, answer)], Encoder(BASE, 32))


def test_a_base_without_tokenizer_or_of_too_short_a_context_is_refused():
    with pytest.raises(BaseModelError, match="no tokenizer"):
        Encoder(random_base("llama"), 32)
    with pytest.raises(BaseModelError, match="at most 512"):
        Encoder(BASE, 1000)
    with pytest.raises(BaseModelError, match="at least 8"):
        Encoder(BASE, 4)


def test_an_encoder_reads_prompt_and_answer_between_its_marks():
    bert = random_base("bert")
    tokenizer = pico_base().tokenizer
    tokenizer.cls_token, tokenizer.sep_token = "<|im_start|>", "<|im_end|>"
    base = Base.from_model(bert.model, tokenizer, name="bert")
    found = Encoder(base, 16)(Sample("abcdefghijkl", "xyz" * 9))
    assert found.prompt == (256, *b"ghijkl", 257)
    assert found.completion == (*b"xyzxyzx", 257)
    assert len(found.tokens) == 16
