"""Using a language model: scoring held-out text, generating, evaluating."""

from collegium.infer.engine import Engine, EngineLimits, EngineStats, Event, Experts, Finished, Said
from collegium.infer.evaluation import Evaluation, RoutingQuality, best_experts, evaluate_scores, routing_quality
from collegium.infer.generate import chat_prompt, generate
from collegium.infer.harness import Scored, fitted, greedy, log_likelihoods, rolling, sampling_of
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
    pruned_scores,
    score_text,
    window_nats,
)
from collegium.infer.writing import Generation, end_tokens

__all__ = [
    "Engine",
    "EngineLimits",
    "EngineStats",
    "Evaluation",
    "Event",
    "Experts",
    "Finished",
    "Generation",
    "HeldOut",
    "RoutingQuality",
    "Said",
    "Sampling",
    "Scored",
    "TokenTable",
    "best_experts",
    "bits_per_byte",
    "chat_prompt",
    "end_tokens",
    "ensemble_scores",
    "evaluate_scores",
    "fill_table",
    "fitted",
    "generate",
    "greedy",
    "held_out",
    "log_likelihoods",
    "nats_per_token",
    "perplexities",
    "perplexity",
    "pruned_scores",
    "rolling",
    "routing_quality",
    "sampling_of",
    "score_text",
    "window_nats",
]
