"""Raw rewards are those of transformers' sequence classification with PEFT's adapter, to 1e-5."""

import peft
import pytest
import torch
from transformers import LlamaForSequenceClassification

from collegium.core.cards import ExpertCard
from collegium.core.samples import Sample
from collegium.experts import Expert, adapter_payload
from collegium.experts.peft_folder import read_peft, write_peft
from collegium.models import Base, HeadWeights
from collegium.rewards import RewardModel
from collegium.rewards.judges import AdapterJudges, Standards
from collegium.testing.pico import byte_tokenizer, pico_base, random_adapter

pytestmark = pytest.mark.filterwarnings(
    # PEFT asks transformers a question that transformers has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

END = "<|im_end|>"
TEXTS = [
    ("To be", " or not"),
    ("A", " longer answer, by far"),
    ("Why?", " Because." + END),
    ("x", END + "y" + END + END),
]


def base_with_pad(pad):
    base = pico_base()
    config = type(base.config)(**{**base.config.to_dict(), "pad_token_id": pad})
    model = type(base.model)(config)
    model.load_state_dict(base.model.state_dict())
    return Base.from_model(model, byte_tokenizer(), name="pico")


def judge_on(base, pooling="last", pad=None, **constants):
    draw = torch.Generator().manual_seed(3)
    head = HeadWeights(torch.randn(1, base.config.hidden_size, generator=draw))
    told = {"text_tokens": 64, "pooling": pooling, "pad_token": pad, "mean": [0.5], "deviation": [2.0], **constants}
    card = ExpertCard(name="judge", kind="lora", task="reward", base=base.fingerprint, constants=told)
    return Expert(card, adapter_payload(base, random_adapter(base), head=head))


def model_of(base, expert):
    return RewardModel("judge", "single", AdapterJudges(base, {"judge": expert}), Standards.of([expert]))


@pytest.mark.parametrize("pad", [257, 0])
def test_rewards_are_those_of_peft_with_and_without_a_final_end_of_text(tmp_path, pad):
    base = base_with_pad(pad)
    expert = judge_on(base, pad=pad)
    write_peft(expert, tmp_path / "judge", base)
    whole = LlamaForSequenceClassification(type(base.config)(**{**base.config.to_dict(), "num_labels": 1}))
    whole.model.load_state_dict(base.inner.state_dict())
    theirs = peft.PeftModel.from_pretrained(whole, tmp_path / "judge").eval()
    rows = [torch.tensor(base.tokenizer.encode(prompt + answer)) for prompt, answer in TEXTS]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    read = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    with torch.no_grad():
        wanted = theirs(input_ids=tokens, attention_mask=read.long()).logits[:, 0]
    model = model_of(base, expert)
    samples = [Sample(*each) for each in TEXTS]
    found = model.judge(samples, raw=True).rewards
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(model(samples), (wanted - 0.5) / 2.0, atol=1e-5)


def test_an_adapter_that_peft_saved_is_a_judge(tmp_path):
    base = base_with_pad(257)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "down_proj"], r=4)
    whole = LlamaForSequenceClassification(type(base.config)(**{**base.config.to_dict(), "num_labels": 1}))
    whole.model.load_state_dict(base.inner.state_dict())
    theirs = peft.get_peft_model(whole, config)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.2
    theirs.save_pretrained(tmp_path / "theirs")
    expert = read_peft(tmp_path / "theirs", base)
    constants = {"text_tokens": 64, "pooling": "last", "pad_token": 257, "mean": [0.0], "deviation": [1.0]}
    from dataclasses import replace

    expert = Expert(replace(expert.card, constants=constants), expert.payload)
    prompt, answer = TEXTS[0]
    with torch.no_grad():
        wanted = theirs.eval()(input_ids=torch.tensor([base.tokenizer.encode(prompt + answer)])).logits[0, 0]
    assert torch.allclose(model_of(base, expert)([Sample(prompt, answer)]), wanted, atol=1e-5)


def test_the_mean_reads_every_token():
    base = base_with_pad(257)
    model = model_of(base, judge_on(base, "mean", 257))
    short, long = Sample("To be", " or"), Sample("To be", " or not to be, that")
    together, alone = model([short, long]), model([short])
    assert torch.allclose(together[:1], alone, atol=1e-5)
    other = model([Sample("To bE", " or")])
    assert not torch.allclose(alone, other, atol=1e-3)
