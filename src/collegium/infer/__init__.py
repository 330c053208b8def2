"""Using a language model: scoring held-out text, generating, evaluating."""

from collegium.infer.evaluation import Evaluation, RoutingQuality, best_experts, evaluate_scores, routing_quality
from collegium.infer.generate import chat_prompt, generate
from collegium.infer.perplexity import perplexity
from collegium.infer.sampling import Sampling
from collegium.infer.tables import (
    HeldOut,
    TokenTable,
    bits_per_byte,
    ensemble_scores,
    fill_table,
    held_out,
    nats_per_token,
    perplexities,
    score_text,
    window_nats,
)
from collegium.infer.writing import Generation

__all__ = [
    "Evaluation",
    "Generation",
    "HeldOut",
    "RoutingQuality",
    "Sampling",
    "TokenTable",
    "best_experts",
    "bits_per_byte",
    "chat_prompt",
    "ensemble_scores",
    "evaluate_scores",
    "fill_table",
    "generate",
    "held_out",
    "nats_per_token",
    "perplexities",
    "perplexity",
    "routing_quality",
    "score_text",
    "window_nats",
]
