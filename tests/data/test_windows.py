"""Packing and cutting: nothing lost, nothing mixed, nothing depends on the order of documents."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collegium.core.errors import DataError
from collegium.data import Document, Message, Windows, cut, encode, join_windows, pack

Texts = Callable[..., tuple[Document, ...]]
Packer = Callable[..., Windows]


def stretches(windows: Windows) -> list[tuple[int, ...]]:
    """Every segment's tokens."""
    found = []
    for tokens, segments in zip(windows.tokens, windows.segments, strict=True):
        found += [tuple(tokens[segments == n].tolist()) for n in range(int(segments.max()) + 1)]
    return found


def drops_short_rests(
    documents: Sequence[Document], tokenizer: Any, *, window: int, seed: int, budget_tokens: int | None = None
) -> Windows:
    """The broken packing: windows that are not full are thrown away."""
    windows = pack(documents, tokenizer, window=window, seed=seed, budget_tokens=budget_tokens)
    return windows.take((windows.lengths == window).nonzero().squeeze(1))


def keeps_the_given_order(
    documents: Sequence[Document], tokenizer: Any, *, window: int, seed: int, budget_tokens: int | None = None
) -> Windows:
    """The broken packing: document after document, as they were given."""
    parts = [pack([each], tokenizer, window=window, seed=seed, budget_tokens=budget_tokens) for each in documents]
    width = max(part.tokens.shape[1] for part in parts)
    tokens = [torch.nn.functional.pad(part.tokens, (0, width - part.tokens.shape[1])) for part in parts]
    segments = [torch.nn.functional.pad(p.segments, (0, width - p.segments.shape[1]), value=-1) for p in parts]
    lengths = torch.cat([part.lengths for part in parts])
    scored = torch.cat(segments) >= 0
    nothing = torch.zeros_like(lengths)
    return Windows(torch.cat(tokens), lengths, scored, torch.cat(segments), 0 * scored.long(), nothing, nothing)


def loses_no_token(packer: Packer, documents: Sequence[Document], tokenizer: Any, window: int) -> bool:
    windows = packer(documents, tokenizer, window=window, seed=0)
    wanted = Counter(token for each in documents for token in encode(each, tokenizer).tokens)
    return Counter(token for stretch in stretches(windows) for token in stretch) == wanted


def ignores_the_order(packer: Packer, documents: Sequence[Document], tokenizer: Any) -> bool:
    one = packer(documents, tokenizer, window=16, seed=3)
    other = packer(documents[::-1], tokenizer, window=16, seed=3)
    return one.tokens.shape == other.tokens.shape and bool((one.tokens == other.tokens).all())


def test_packing_loses_no_token(texts: Texts, plain_bytes: Any) -> None:
    documents = texts(5, 40, 17, 16, 33, 3, 8, 64)
    assert loses_no_token(pack, documents, plain_bytes, 16)
    assert not loses_no_token(drops_short_rests, documents, plain_bytes, 16)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(3, 50), min_size=1, max_size=12), st.integers(4, 20))
def test_packing_loses_no_token_at_any_size(texts: Texts, plain_bytes: Any, lengths: list[int], window: int) -> None:
    documents = texts(*lengths)
    assert loses_no_token(pack, documents, plain_bytes, window)
    windows = pack(documents, plain_bytes, window=window, seed=0)
    assert int(windows.lengths.max()) <= window
    assert int(windows.token_bytes.sum()) == sum(lengths)


def test_the_order_of_documents_plays_no_part(texts: Texts, plain_bytes: Any) -> None:
    documents = texts(5, 40, 17, 16, 33, 3)
    assert ignores_the_order(pack, documents, plain_bytes)
    assert not ignores_the_order(keeps_the_given_order, documents, plain_bytes)


def test_the_seed_draws_the_order(texts: Texts, plain_bytes: Any) -> None:
    documents = texts(*[16] * 12)
    one, same, other = (pack(documents, plain_bytes, window=16, seed=seed).tokens for seed in (1, 1, 2))
    assert bool((one == same).all())
    assert not bool((one == other).all())


def test_short_documents_share_a_window(texts: Texts, plain_bytes: Any) -> None:
    windows = pack(texts(6, 6, 4, 9, 7), plain_bytes, window=16, seed=0)
    assert windows.lengths.tolist() == [16, 16]
    assert sorted(map(len, stretches(windows))) == [4, 6, 6, 7, 9]


def test_the_first_token_of_a_segment_is_never_scored(texts: Texts, plain_bytes: Any) -> None:
    windows = pack(texts(6, 6, 4, 30), plain_bytes, window=16, seed=0)
    before = torch.nn.functional.pad(windows.segments, (1, 0), value=-1)[:, :-1]
    first, real = windows.segments != before, windows.segments >= 0
    assert bool((windows.scored == (real & ~first)).all())
    assert bool((windows.tokens[~real] == 0).all())
    assert windows.lengths.tolist() == real.sum(1).tolist()


def test_cutting_never_crosses_documents_and_goes_in_hash_order(texts: Texts, plain_bytes: Any) -> None:
    documents = texts(20, 7, 16, 40)
    windows = cut(documents, plain_bytes, window=16)
    assert int(windows.segments.max()) == 0
    order = sorted(range(4), key=lambda place: documents[place].hash)
    assert list(dict.fromkeys(windows.document.tolist())) == order
    joined = b"".join(bytes(row[:n].tolist()) for row, n in zip(windows.tokens, windows.lengths, strict=True))
    assert joined.decode() == "".join(documents[place].plain for place in order)


def test_no_window_is_a_single_token(texts: Texts, plain_bytes: Any) -> None:
    assert cut(texts(33), plain_bytes, window=16).lengths.tolist() == [16, 15, 2]


@pytest.mark.parametrize("budget", [2, 15, 16, 17, 18, 40, 1000])
def test_cutting_keeps_to_its_budget(texts: Texts, plain_bytes: Any, budget: int) -> None:
    documents = texts(20, 7, 16, 40)
    whole = cut(documents, plain_bytes, window=16)
    part = cut(documents, plain_bytes, window=16, budget_tokens=budget)
    assert part.tokens_count <= budget
    assert part.tokens_count >= min(budget - 1, whole.tokens_count)
    every = [row[:length] for row, length in zip(whole.tokens.tolist(), whole.lengths.tolist(), strict=True)]
    for row, length in zip(part.tokens.tolist(), part.lengths.tolist(), strict=True):
        assert any(row[:length] == other[:length] for other in every)


def test_under_a_budget_one_long_document_does_not_speak_for_all(texts: Texts, plain_bytes: Any) -> None:
    documents = texts(*([400] * 12))
    part = cut(documents, plain_bytes, window=16, budget_tokens=16 * 32)
    counts = torch.bincount(part.document, minlength=12)
    assert int(counts.max()) - int(counts.min()) <= 2
    hashes = [documents[place].hash for place in part.document.tolist()]
    assert hashes == sorted(hashes)
    greedy = cut(sorted(documents, key=lambda each: each.hash)[:2], plain_bytes, window=16).tokens_count
    assert greedy > 16 * 32, "the first documents alone would have filled the budget"


def test_packing_reads_about_its_budget_from_many_documents(plain_bytes: Any) -> None:
    documents = [Document(text=f"{number:02d}" * 500) for number in range(40)]
    windows = pack(documents, plain_bytes, window=16, seed=0, budget_tokens=1024)
    assert 1024 <= windows.tokens_count < 1024 + 16 * 4
    assert len(set(windows.document.tolist())) >= 16
    few = pack(documents[:2], plain_bytes, window=16, seed=0, budget_tokens=1024)
    assert 1024 <= few.tokens_count < 1024 + 16 * 4
    assert pack(documents[:2], plain_bytes, window=16, seed=0, budget_tokens=10**6).tokens_count == 2000


def test_a_budget_counts_what_is_learnt_from_alone(chat_bytes: Any) -> None:
    questions = [Message("user", "pasted text " * 40), Message("assistant", "ok, done.")]
    chats = [Document(messages=(Message("user", f"q{number}?"), *questions[1:], *questions)) for number in range(60)]
    whole = pack(chats, chat_bytes, window=64, seed=0)
    for budget in (512, 2048, 8192):
        windows = pack(chats, chat_bytes, window=64, seed=0, budget_tokens=budget)
        assert min(budget, whole.tokens_count) <= windows.tokens_count < budget + 64 * 8


def test_the_seed_draws_which_stretch_of_a_long_document_is_read(plain_bytes: Any) -> None:
    documents = [Document(text="".join(f"{place:04d} " for place in range(1000)))]
    seen = [set(stretches(pack(documents, plain_bytes, window=16, seed=n, budget_tokens=160))) for n in (0, 0, 1)]
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_a_pair_that_fits_is_one_window_with_its_prompt_as_context(chat_bytes: Any) -> None:
    windows = cut([Document(prompt="2+2=", completion="4")], chat_bytes, window=16)
    assert windows.context.tolist() == [4]
    assert windows.scored.tolist() == [[False] * 4 + [True] * 2]


@pytest.mark.parametrize("making", [cut, pack])
@pytest.mark.parametrize(("prompt", "completion"), [(100, 5), (100, 30), (10, 50), (9, 7), (1, 15), (16, 1)])
def test_a_long_prompt_gives_way_and_no_answer_is_lost(
    chat_bytes: Any, making: Any, prompt: int, completion: int
) -> None:
    document = Document(prompt="".join(chr(97 + n % 26) for n in range(prompt)), completion="=" * completion)
    windows = making([document], chat_bytes, window=16, **({"seed": 0} if making is pack else {}))
    equals = windows.tokens == ord("=")
    assert int(equals.sum()) == completion
    (first,) = (windows.context > 0).nonzero().squeeze(1).tolist() or [None]
    row, context = windows.tokens[first], int(windows.context[first])
    assert bytes(row[:context].tolist()).decode() == (document.prompt or "")[-context:]
    assert context >= min(prompt, 8)
    assert bool(windows.scored[first, context])
    begins = windows.segments.new_zeros(windows.scored.shape, dtype=torch.bool)
    begins[:, 0] = True
    assert int((windows.scored & equals).sum()) == int((equals & ~begins).sum())


def test_chats_are_cut_and_stretches_without_answers_left_out(chat_bytes: Any) -> None:
    chat = Document(messages=(Message("user", "a" * 64), Message("assistant", "bbb"), Message("user", "c" * 64)))
    windows = cut([chat], chat_bytes, window=32)
    assert len(windows) == 1
    assert int(windows.scored.sum()) == 4
    assert int(windows.context[0]) == windows.scored[0].tolist().index(True)


def test_a_begin_of_text_token_opens_every_window(texts: Texts, opening_bytes: Any) -> None:
    documents = texts(40, 5)
    for windows in (cut(documents, opening_bytes, window=16), pack(documents, opening_bytes, window=16, seed=0)):
        assert all(stretch[0] == 256 and 256 not in stretch[1:] for stretch in stretches(windows))
        assert not bool(windows.scored[windows.tokens == 256].any())
        assert int(windows.scored.sum()) == 45
        assert int(windows.token_bytes.sum()) == 45


@pytest.mark.parametrize("making", [cut, pack])
def test_too_little_text_says_so(plain_bytes: Any, opening_bytes: Any, making: Any) -> None:
    more = {"seed": 0} if making is pack else {}
    one = [Document(text="a")]
    with pytest.raises(DataError, match="no token to predict"):
        making(one, plain_bytes, window=16, **more)
    with pytest.raises(DataError, match="no token to predict"):
        making([], plain_bytes, window=16, **more)
    with pytest.raises(DataError, match="at least 2 tokens"):
        making(one, plain_bytes, window=1, **more)
    with pytest.raises(DataError, match="no tokenizer"):
        making(one, None, window=16, **more)
    assert making(one, opening_bytes, window=16, **more).tokens_count == 2


def test_a_domain_smaller_than_a_window_works(texts: Texts, plain_bytes: Any) -> None:
    assert pack(texts(5), plain_bytes, window=128, seed=0).tokens.shape == (1, 5)
    assert cut(texts(5), plain_bytes).tokens.shape == (1, 5)


def test_taken_windows_are_the_same_windows(texts: Texts, plain_bytes: Any) -> None:
    windows = cut(texts(40), plain_bytes, window=16)
    taken = windows.take(torch.tensor([2, 0]))
    assert taken.tokens.tolist() == [windows.tokens[2].tolist(), windows.tokens[0].tolist()]
    assert replace(taken).lengths.tolist() == [windows.lengths[2], windows.lengths[0]]


def test_joined_windows_are_the_same_windows(texts: Texts, plain_bytes: Any) -> None:
    narrow, wide = cut(texts(5), plain_bytes), pack(texts(40, 9), plain_bytes, window=16, seed=0)
    joined = join_windows([narrow, wide])
    assert joined.tokens.shape == (len(narrow) + len(wide), 16)
    assert stretches(joined) == stretches(narrow) + stretches(wide)
    assert joined.scored.sum() == narrow.scored.sum() + wide.scored.sum()
    behind = torch.arange(16) >= joined.lengths[:, None]
    assert (joined.segments[behind] == -1).all()
    assert not joined.tokens[behind].any()
    back = joined.take(torch.arange(len(narrow), len(joined)))
    assert all(torch.equal(getattr(back, each.name), getattr(wide, each.name)) for each in fields(Windows))
