"""A router is shown what people wrote, never what the chat template wrote around it."""

import pytest
import torch

from collegium.compose.content import content_of, template_parts
from collegium.compose.routed import read_context
from collegium.infer import chat_prompt
from collegium.testing.pico import byte_tokenizer
from collegium.testing.tiny import LetterTokenizer

DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }}<|im_end|>{% endif %}{% endfor %}"
)


def tokenizer_with(template: str):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def rendered(messages, tokenizer) -> str:
    return tokenizer.decode(chat_prompt(messages, tokenizer))


def shown(text: str, tokenizer) -> str:
    ids = tokenizer.encode(text)
    texts = read_context(torch.tensor([ids]), torch.tensor([len(ids)]), tokenizer=tokenizer).texts
    assert texts is not None
    return texts[0]


@pytest.mark.parametrize("template", [byte_tokenizer().chat_template, DEFAULT_SYSTEM, STRICT])
def test_a_rendered_chat_is_shown_as_its_messages(template: str):
    tokenizer = tokenizer_with(template)
    one = rendered([{"role": "user", "content": "To be, or not?"}], tokenizer)
    assert shown(one, tokenizer) == "To be, or not?"
    turns = [
        {"role": "user", "content": "To be?"},
        {"role": "assistant", "content": "Be."},
        {"role": "user", "content": "Why?"},
    ]
    assert shown(rendered(turns, tokenizer), tokenizer) == "To be?\nBe.\nWhy?"


def test_a_system_message_of_ones_own_is_content():
    tokenizer = tokenizer_with(DEFAULT_SYSTEM)
    turns = [{"role": "system", "content": "Speak in verse"}, {"role": "user", "content": "To be?"}]
    assert shown(rendered(turns, tokenizer), tokenizer) == "Speak in verse\nTo be?"


def test_a_context_may_end_anywhere_in_a_chat():
    tokenizer = tokenizer_with(DEFAULT_SYSTEM)
    text = rendered([{"role": "user", "content": "To be?"}], tokenizer)
    opening, closing = text.index("To be?"), text.index("To be?") + len("To be?")
    for end in range(1, len(text) + 1):
        wanted = text[opening : min(end, closing)] if end > opening else ""
        assert shown(text[:end], tokenizer) == wanted, end


def test_the_context_alone_is_read():
    tokenizer = byte_tokenizer()
    ids = chat_prompt([{"role": "user", "content": "To be?"}], tokenizer)
    read = tokenizer.encode("<|im_start|>user\nTo")
    texts = read_context(torch.tensor([ids]), torch.tensor([len(read)]), tokenizer=tokenizer).texts
    assert texts == ("To",)


@pytest.mark.parametrize("text", ["To be, or not to be", "a < b\n\nand user\n", "assistant", ""])
def test_what_is_no_chat_stays_as_it_is(text: str):
    assert content_of(text, template_parts(byte_tokenizer())) == text


def test_a_tokenizer_without_a_template_shows_all():
    assert template_parts(LetterTokenizer()) == ()
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    assert shown("<|im_start|>user\nTo be", tokenizer) == "<|im_start|>user\nTo be"
