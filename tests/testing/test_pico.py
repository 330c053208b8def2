"""The toy base: its tokenizer is bytes, its weights follow the seed."""

import pytest
import torch

from collegium.testing.pico import ARCHITECTURES, byte_tokenizer, pico_base, random_adapter, random_base, train_pico


@pytest.mark.parametrize("text", ["To be", "", "héllo ✓\n\t", "a  b\r\n", "日本"])
def test_the_tokenizer_is_utf8(text):
    tokenizer = byte_tokenizer()
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_stand_behind_the_bytes():
    tokenizer = byte_tokenizer()
    assert tokenizer.encode("<|im_start|>a<|im_end|>") == [256, 97, 257]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (256, 257, 258)


def test_chats_become_turns():
    text = byte_tokenizer().apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_weights_follow_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = pico_base(1), pico_base(1), pico_base(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_bases_and_adapters_are_visible(architecture):
    base, tokens = random_base(architecture), torch.tensor([[1, 2, 3, 4]])
    base.attach("law", random_adapter(base))
    from collegium.models import RowPlan

    gap = base.score_rows(tokens, plan=RowPlan.one("law"))[0] - base.score(tokens)
    assert float(gap[:, 1:].abs().min()) > 1e-4


def test_training_is_reproducible_and_lowers_the_loss():
    texts = ["one two three four"]
    first, again = train_pico(texts, steps=5), train_pico(texts, steps=5)
    assert first.fingerprint == again.fingerprint
    tokens = torch.tensor([list(texts[0].encode())])
    assert float(first.score(tokens).sum()) > float(pico_base().score(tokens).sum())
    assert not any(weight.requires_grad for weight in first.model.parameters())
