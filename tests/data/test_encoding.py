"""Tokens, what is scored of them, and how many bytes they spell."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collegium.core.errors import DataError
from collegium.data import Document, Encoded, Message, encode

START, END = 256, 257
CHAT = Document(
    messages=(
        Message("system", "Be brief."),
        Message("user", "assistant?"),
        Message("assistant", "assistant!"),
        Message("user", "And née?"),
        Message("assistant", "Née."),
    )
)


def decode(tokens: Sequence[int]) -> str:
    return bytes(token for token in tokens if token < START).decode()


def answers(encoded: Encoded) -> list[str]:
    """The scored stretches, with the token that ends each written as a full stop in brackets."""
    found, run = [], []
    for token, scored in zip(encoded.tokens, encoded.scored, strict=True):
        if scored:
            run.append(token)
        elif run:
            found.append(run)
            run = []
    return [decode(each) + "[.]" * each.count(END) for each in [*found, run] if each]


def test_a_text_is_scored_as_it_stands(chat_bytes: Any) -> None:
    encoded = encode(Document(text="née"), chat_bytes)
    assert encoded.tokens == tuple("née".encode())
    assert all(encoded.scored)
    assert (encoded.context, encoded.prefix) == (0, ())


def test_a_pair_scores_its_completion_and_its_end(chat_bytes: Any) -> None:
    encoded = encode(Document(prompt="2+2=", completion="4"), chat_bytes)
    assert encoded.tokens == (*b"2+2=4", END)
    assert encoded.scored == (False, False, False, False, True, True)
    assert encoded.context == 4
    assert sum(encoded.token_bytes) == 5


def scores_everything(document: Document, tokenizer: Any) -> Encoded:
    """The broken chat: the loss counts questions too."""
    encoded = encode(document, tokenizer)
    return Encoded(encoded.tokens, (True,) * len(encoded.tokens), encoded.token_bytes)


def scores_the_header(document: Document, tokenizer: Any) -> Encoded:
    """The broken chat that looks for the answer's text from the left and finds it in the header."""
    encoded = encode(document, tokenizer)
    found = decode(encoded.tokens).find("assistant")
    scored = [place in range(found, found + 9) or scored for place, scored in enumerate(encoded.scored)]
    return Encoded(encoded.tokens, tuple(scored), encoded.token_bytes)


def masks_are_exact(encoder: Callable[[Document, Any], Encoded], tokenizer: Any) -> bool:
    return answers(encoder(CHAT, tokenizer)) == ["assistant![.]", "Née.[.]"]


def test_a_chat_scores_exactly_its_answers_and_their_ends(chat_bytes: Any) -> None:
    assert masks_are_exact(encode, chat_bytes)
    assert not masks_are_exact(scores_everything, chat_bytes)
    assert not masks_are_exact(scores_the_header, chat_bytes)


def test_a_chat_is_what_the_template_writes(chat_bytes: Any) -> None:
    turns = [{"role": each.role, "content": each.content} for each in CHAT.messages or ()]
    encoded = encode(CHAT, chat_bytes)
    assert list(encoded.tokens) == chat_bytes.apply_chat_template(turns, return_dict=False)
    asked = chat_bytes.apply_chat_template(turns[:2], add_generation_prompt=True, return_dict=False)
    assert list(encoded.tokens[: encoded.context]) == asked
    assert sum(encoded.token_bytes) == len("assistant!Née.".encode())


def test_a_template_that_trims_answers_is_followed(chat_bytes: Any) -> None:
    spaced = Document(messages=(Message("user", "a"), Message("assistant", " b \n")))
    assert answers(encode(spaced, chat_bytes)) == [" b \n[.]"]
    old = chat_bytes.chat_template
    try:
        chat_bytes.chat_template = old.replace("message['content']", "message['content'] | trim")
        assert answers(encode(spaced, chat_bytes)) == ["b[.]"]
    finally:
        chat_bytes.chat_template = old


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "chat template, this base's has none"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "turn by turn"),
        ("{{ raise_exception('roles must alternate') }}", "refuses the chat: roles must alternate"),
        ("{{ messages[0]['content'] + 1 }}", "refuses the chat: can only concatenate str"),
        ("{{ 1 / 0 }}", "refuses the chat: division by zero"),
    ],
)
def test_a_chat_without_a_usable_template_is_refused(chat_bytes: Any, template: str | None, message: str) -> None:
    old = chat_bytes.chat_template
    try:
        chat_bytes.chat_template = template
        with pytest.raises(DataError, match=message):
            encode(CHAT, chat_bytes)
    finally:
        chat_bytes.chat_template = old


def test_a_tokenizer_without_template_or_end_serves_pairs(plain_bytes: Any) -> None:
    assert encode(Document(prompt="a", completion="b"), plain_bytes).tokens == (97, 98)
    with pytest.raises(DataError, match="has none"):
        encode(CHAT, plain_bytes)


def test_no_tokenizer_says_so() -> None:
    with pytest.raises(DataError, match="no tokenizer"):
        encode(Document(text="a"), None)


def test_a_begin_of_text_token_is_kept_for_every_window(opening_bytes: Any) -> None:
    encoded = encode(Document(text="ab"), opening_bytes)
    assert (encoded.prefix, encoded.tokens) == ((256,), (97, 98))


def characters(document: Document, tokenizer: Any) -> Encoded:
    """The broken count: characters instead of bytes."""
    encoded = encode(document, tokenizer)
    return Encoded(encoded.tokens, encoded.scored, (1,) * len(document.plain))


def counts_bytes(encoder: Callable[[Document, Any], Encoded], tokenizer: Any, text: str) -> bool:
    return sum(encoder(Document(text=text), tokenizer).token_bytes) == len(text.encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_bytes_of_tokens_sum_to_the_text(chat_bytes: Any, plain_bytes: Any, words: Any, text: str) -> None:
    for tokenizer in (chat_bytes, plain_bytes, words):
        assert counts_bytes(encode, tokenizer, text)


def test_characters_are_no_bytes(plain_bytes: Any) -> None:
    assert not counts_bytes(characters, plain_bytes, "née")


def test_each_token_spells_its_own_bytes(plain_bytes: Any, words: Any) -> None:
    assert encode(Document(text="abc"), plain_bytes).token_bytes == (1, 1, 1)
    assert encode(Document(text="to née  be"), words).token_bytes == (2, 5, 4)
    long = "naïve " * 40
    assert sum(encode(Document(text=long), plain_bytes).token_bytes[:70]) == 70


@pytest.fixture(scope="module")
def words() -> Any:
    """A tokenizer of words that drops white space, whose offsets leave gaps."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
