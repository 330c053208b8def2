"""PicoLlama: a byte-level toy base that is trained in seconds, and random bases of other architectures for laws."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.cards import ExpertCard
from collegium.core.randomness import derive_seed, generator
from collegium.experts import Expert, FitConfig, MtaPayload, adapter_payload
from collegium.experts.fresh import FRESH, places_of, with_tensors
from collegium.experts.recipe import AdapterKind
from collegium.models import Base, HeadWeights, TaskGate

SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>")
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "qwen3", "gemma3")
"""Those of random bases that speak."""
ENCODERS = ("bert", "roberta", "distilbert")
"""Those of random bases that read alone."""

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": None,
}

_ROBERTA: dict[str, Any] = {"pad_token_id": 1, "max_position_embeddings": 514}
"""Its positions are counted behind that of padding."""


def byte_tokenizer() -> Any:  # noqa: ANN401 - a transformers tokenizer
    """Return a transformers tokenizer whose ids are the bytes of UTF-8, with `<|im_start|>` and `<|im_end|>` behind."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    vocab = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL_TOKENS[0], eos_token=SPECIAL_TOKENS[1]
    )
    wrapped.chat_template = _CHAT_TEMPLATE
    return wrapped


def pico_base(seed: int = 0) -> Base:
    """Return a byte-level Llama with random weights: width 64, 2 layers.

    >>> pico_base().tokenizer.encode("To be")
    [84, 111, 32, 98, 101]
    """
    return Base.from_model(
        _random_model("llama", seed),
        byte_tokenizer(),
        name="pico",
        source=f"PicoLlama, a byte-level toy with random weights (seed {seed})",
    )


def train_pico(
    texts: Sequence[str], *, steps: int = 200, batch: int = 16, window_tokens: int = 64, seed: int = 0
) -> Base:
    """Return a PicoLlama trained on these texts; 200 steps take some seconds and bring 5.5 nats a byte to about 2."""
    text = torch.tensor(list("\n\n".join(texts).encode()))
    return train_pico_stream(text, steps=steps, batch=batch, window_tokens=window_tokens, seed=seed)


def train_pico_stream(text: Int[Tensor, " token"], *, steps: int, batch: int, window_tokens: int, seed: int) -> Base:
    """Return a PicoLlama trained on windows of one run of tokens, such as sentences with marks around each."""
    base = pico_base(seed)
    model = base.model.requires_grad_(True)
    if len(text) <= window_tokens:
        text = text.repeat(window_tokens // max(1, len(text)) + 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    draw = generator(seed, "pico windows")
    for _ in range(steps):
        starts = torch.randint(len(text) - window_tokens, (batch,), generator=draw)
        windows = text[starts[:, None] + torch.arange(window_tokens)]
        loss = base.token_nats(windows)[:, 1:].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return Base.from_model(
        model, base.tokenizer, name="pico", source=f"PicoLlama, a byte-level toy trained for {steps} steps"
    )


def random_base(architecture: str, seed: int = 0) -> Base:
    """Return a tiny random base without tokenizer: `llama`, `gpt2`, `gpt_neox`, `qwen3`, `gemma3`, or an encoder.

    gemma3 alternates sliding windows of 8 tokens with full attention and caps its logits softly. Encoders (`bert`,
    `roberta`, `distilbert`) are sequence classifiers of one output, as `load_base` opens them.

    >>> random_base("bert").speaks
    False
    """
    model = random_classifier(architecture, seed) if architecture in ENCODERS else _random_model(architecture, seed)
    return Base.from_model(model, name=f"random-{architecture}", source=f"a random tiny {architecture}")


def random_classifier(architecture: str, seed: int = 0, *, labels: int = 1) -> Any:  # noqa: ANN401 - a transformers model
    """Return a tiny random sequence classifier of an architecture: the model of a whole reward expert, say.

    >>> type(random_classifier("llama")).__name__
    'LlamaForSequenceClassification'
    """
    from transformers import AutoModelForSequenceClassification

    config = _config(architecture)
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "random classifier", architecture))
        return AutoModelForSequenceClassification.from_config(config)


def random_adapter(
    base: Base,
    seed: int = 0,
    *,
    kind: AdapterKind = "lora",
    rank: int = 4,
    targets: Sequence[str] | str | None = None,
    layers: str | Sequence[int] = "all",
    scale: float = 0.5,
) -> dict[str, Any]:
    """Return a random expert for a base, strong enough to be seen in every log-probability.

    rank: of low-rank changes and bottlenecks, and the length of a prefix. targets: of kinds that sit in linear layers.

    >>> sorted(random_adapter(random_base("gpt2"), kind="ffn", layers="top:1"))
    ['transformer.h.1.mlp']
    """
    chosen = layers if isinstance(layers, str) else tuple(layers)
    named = targets if targets is None or isinstance(targets, str) else tuple(targets)
    config = FitConfig(kind=kind, rank=rank, prefix_tokens=rank, targets=named, layers=chosen)
    draw, tokens = generator(seed, "random adapter"), torch.arange(rank)[None]
    fresh = FRESH[kind](base, places_of(base, config), config, "random", tokens)
    drawn = with_tensors(fresh, lambda tensor: _random_like(tensor, kind, draw))
    return {path: replace(part, scale=scale) if hasattr(part, "scale") else part for path, part in drawn.items()}


def random_expert(base: Base, seed: int = 0, *, kind: AdapterKind = "lora", name: str = "random") -> Expert:
    """Return a random expert of a kind with a card that names its base.

    >>> random_expert(pico_base(), kind="ia3").card.kind
    'ia3'
    """
    card = ExpertCard(name=name, kind=kind, base=base.fingerprint)
    return Expert(card, adapter_payload(base, random_adapter(base, seed, kind=kind)))


def random_task_expert(
    base: Base,
    seed: int = 0,
    *,
    tasks: Sequence[str] = ("law", "code", "film"),
    name: str = "random",
    layers: str = "all",
) -> Expert:
    """Return a random mixture of task adapters with gates that are told apart what they are told.

    >>> random_task_expert(pico_base()).payload.tasks
    ('law', 'code', 'film')
    """
    adapters = {
        task: random_adapter(base, seed + place, kind="bottleneck", rank=3, layers=layers)
        for place, task in enumerate(tasks)
    }
    draw, size, hidden = generator(seed, "random task expert"), 4, int(base.config.hidden_size)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    gates = {path: TaskGate(3 * drawn(5, hidden + size), drawn(len(tasks), 5)) for path in adapters[tasks[0]]}
    router = HeadWeights(drawn(len(tasks), 2 * hidden), drawn(len(tasks)))
    payload = MtaPayload(adapters, gates, drawn(len(tasks), size), router)
    return Expert(ExpertCard(name=name, kind="mta", base=base.fingerprint), payload)


def _random_like(tensor: Tensor, kind: AdapterKind, draw: torch.Generator) -> Tensor:
    """Return random numbers of the size that the kind's weights have: factors about one, the rest by their inputs."""
    noise = torch.randn(tensor.shape, generator=draw)
    if kind == "ia3":
        return 1 + noise / 2
    if kind == "prefix":
        return noise
    return noise / max(1, tensor.shape[-1]) ** 0.5


def _random_model(architecture: str, seed: int) -> Any:  # noqa: ANN401 - a transformers model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "random base", architecture))
        return AutoModelForCausalLM.from_config(_config(architecture))


def _config(architecture: str) -> Any:  # noqa: ANN401 - a transformers configuration
    import transformers

    grouped = {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "tie_word_embeddings": True}
    windows = {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "final_logit_softcapping": 5.0,
        "query_pre_attn_scalar": 16,
    }
    configs = {
        "llama": lambda: transformers.LlamaConfig(**_SHAPE, **grouped),
        "gpt2": lambda: transformers.GPT2Config(**_SHAPE),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**_SHAPE, intermediate_size=128),
        "qwen3": lambda: transformers.Qwen3Config(**_SHAPE, **grouped),
        "gemma3": lambda: transformers.Gemma3TextConfig(**_SHAPE, **grouped, **windows),
        "bert": lambda: transformers.BertConfig(**_SHAPE, intermediate_size=128),
        "roberta": lambda: transformers.RobertaConfig(**_SHAPE | _ROBERTA, intermediate_size=128),
        "distilbert": lambda: transformers.DistilBertConfig(**_SHAPE, hidden_dim=128),
    }
    return configs[architecture]()


def _byte_characters() -> list[str]:
    """Return the printable character that byte-level tokenizers write for each byte (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + hidden.index(byte)) for byte in range(256)]
