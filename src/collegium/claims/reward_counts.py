"""The exact claim on the size of reward models: R4, counted on models of the default base's shape."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from collegium.claims.experiment import Place, one_piece
from collegium.core.cards import ExpertCard, Fingerprint
from collegium.experts import AdapterPayload, Expert, FitConfig, adapter_payload
from collegium.experts.fit import ALIKE
from collegium.experts.fresh import fresh_adapter
from collegium.models import Base, HeadWeights
from collegium.rewards import DesignOptions, RewardConfig
from collegium.rewards.judges import AdapterJudges, WholeJudges
from collegium.rewards.mixture import MixtureJudges
from collegium.rewards.more import fresh_gates
from collegium.rewards.reading import Reading
from collegium.rewards.routers import AdapterRouter, Features, PromptClassifier
from collegium.testing.pico import byte_tokenizer

DOMAINS = ("checked", "code", "film", "headline", "ratings", "turn")
DEFAULT_SHAPE: Mapping[str, int | bool] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "tie_word_embeddings": True,
    "num_labels": 1,
    "pad_token_id": 2,
}
"""Of the default base, 134.5 million numbers."""
_MILLION = 1e6
_NOWHERE = torch.device("meta")


@dataclass(frozen=True)
class Counted:
    """How many numbers a design says it holds, and how many its tensors have."""

    said: int
    found: int


def resident(place: Place) -> dict[str, float]:
    """Return R4: differences in millions, ARLISS over its backbone, and how far the models' own counts are off."""
    base = shaped_base(DEFAULT_SHAPE)
    counted = {"arliss": arliss(base), "more": more(base), "rodos": rodos(base)}
    backbone = numbers(base.inner.parameters())
    return {
        "arliss_minus_more": (counted["arliss"].found - counted["more"].found) / _MILLION,
        "more_minus_rodos": (counted["more"].found - counted["rodos"].found) / _MILLION,
        "arliss_over_backbone": counted["arliss"].found / backbone - 1,
        "count_gap": float(max(abs(each.said - each.found) for each in counted.values())),
    }


def shaped_base(shape: Mapping[str, int | bool], *, judge: bool = False) -> Base:
    """Return a Llama of a shape whose weights are nought: a base, or a whole judge with one output."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

    kind = AutoModelForSequenceClassification if judge else AutoModelForCausalLM
    with _NOWHERE:
        model = kind.from_config(LlamaConfig(**shape))  # pyright: ignore[reportArgumentType]
    model = model.to_empty(device="cpu")
    for each in (*model.parameters(), *model.buffers()):
        each.data = torch.zeros(each.shape)
    mark = Fingerprint(str(dict(shape)), "none", "no weights")
    return Base.from_model(model, byte_tokenizer(), name="shape", source="a shape, no weights", fingerprint=mark)


def numbers(tensors: Iterable[Tensor]) -> int:
    """Return how many numbers tensors hold, each tensor counted once."""
    return sum(each.numel() for each in {id(each): each for each in tensors}.values())


def arliss(base: Base) -> Counted:
    """Return the count of ARLISS: backbone, a judge a domain, the router's adapter with an output a domain."""
    judges, tensors = {}, list(base.inner.parameters())
    for number, name in enumerate((*DOMAINS, "router")):
        expert = adapter_expert(base, name, outputs=len(DOMAINS) if name == "router" else 1, seed=number)
        judges[name] = expert
        tensors += tensors_of(expert)
    payload, head = payload_of(judges.pop("router"))
    found = AdapterRouter(base, DOMAINS, "router", head, reading(base), 1.0, payload.parameters)
    return Counted(AdapterJudges(base, judges).resident + found.parameters, numbers(tensors))


def more(base: Base) -> Counted:
    """Return the count of MoRE: backbone, adapter with head, an expert a domain in its last layers, and gates."""
    options, judge = DesignOptions(), adapter_expert(base, "judge")
    settings = FitConfig(kind="ffn", layers=f"top:{options.more_layers}")
    inside = [fresh_adapter(base, settings, ALIKE, tokens=torch.zeros(1, 1, dtype=torch.long)) for _ in DOMAINS]
    gates = fresh_gates(base, inside[0], options, count=len(inside), seed=0)
    payload, head = payload_of(judge)
    sizes = payload.parameters, adapter_payload(base, inside[0]).parameters
    judges = MixtureJudges(base, "judge", list(DOMAINS), gates=gates, head=head, reading=reading(base), sizes=sizes)
    tensors = [each for expert in inside for part in expert.values() for each in part.tensors.values()]
    weights = [gate.weight for gate in gates.values()]
    return Counted(judges.resident, numbers([*base.inner.parameters(), *tensors_of(judge), *tensors, *weights]))


def rodos(base: Base) -> Counted:
    """Return the count of RODOS: a whole model a domain, and the base that reads prompts for its linear router.

    Its models are of one shape: one is built, and stands for each of them.
    """
    model, domains = shaped_base(DEFAULT_SHAPE, judge=True), len(DOMAINS)
    weight, bias = torch.zeros(domains, int(base.config.hidden_size)), torch.zeros(domains)
    router = PromptClassifier(DOMAINS, Features("states", base), weight, bias, 1.0)
    judges = WholeJudges(base, dict.fromkeys(DOMAINS, model), reading(base))
    one, read = numbers(model.inner.parameters()), numbers([*base.inner.parameters(), weight, bias])
    return Counted(judges.resident + router.parameters, domains * one + read)


def reading(base: Base) -> Reading:
    """Return how judges read here."""
    return Reading.of(base, text_tokens=RewardConfig().text_tokens)


def adapter_expert(base: Base, name: str, *, outputs: int = 1, seed: int = 0) -> Expert:
    """Return a fresh adapter with a head, of the default settings."""
    config = RewardConfig(seed=seed).adapter(len(base.blocks))
    adapter = fresh_adapter(base, config, name, tokens=torch.zeros(1, 1, dtype=torch.long))
    head = HeadWeights(torch.zeros(outputs, int(base.config.hidden_size)))
    payload = adapter_payload(base, adapter, head=head)
    card = ExpertCard(
        name=name, kind="lora", task="reward", base=base.fingerprint, constants=reading(base).to_constants()
    )
    return Expert(card, payload)


def payload_of(expert: Expert) -> tuple[AdapterPayload, HeadWeights]:
    """Return an adapter's payload and its head."""
    payload = expert.payload
    assert isinstance(payload, AdapterPayload)
    assert payload.head is not None
    return payload, payload.head


def tensors_of(expert: Expert) -> list[Tensor]:
    """Return all tensors of an adapter and its head."""
    payload, head = payload_of(expert)
    return [head.weight, *(each for part in payload.adapter.values() for each in part.tensors.values())]


COUNTS = {name: one_piece(name, law) for name, law in {"resident": resident}.items()}
