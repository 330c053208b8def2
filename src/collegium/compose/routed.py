"""Running a router along texts, and what every composition masks alike."""

import dataclasses
from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.content import content_of, template_parts
from collegium.core.errors import RoutingError
from collegium.core.protocols import Context, PrefixRouter, RouterRecipe, Tokenizer
from collegium.core.routing import Routing
from collegium.routers import Recipe
from collegium.routers.gates import GateRecipe

PADDING = -1
"""What routers are shown where a text has ended."""


def check_parts(router: PrefixRouter, names: Collection[str], top_k: int | None) -> None:
    """Raise RoutingError when the router knows an expert the model lacks, or top_k is less than 1."""
    unknown = [name for name in router.experts if name not in names]
    if unknown:
        raise RoutingError(f"the router knows {unknown}, this model has only {list(names)}.")
    if top_k is not None and top_k < 1:
        raise RoutingError(f"top_k keeps at least one expert, got {top_k}.")


def only_router(recipe: Recipe, *, what: str) -> RouterRecipe:
    """Return the recipe of a router; raises RoutingError for gates, which act inside the base."""
    if isinstance(recipe, RouterRecipe):
        return recipe
    raise RoutingError(
        f"{what} weighs experts from outside, one weight each at a position; {recipe.name!r} is a gate inside the "
        "base, layer by layer. Use mix with it: compose=mix, in Python collegium.mix."
    )


def with_top_k(recipe: GateRecipe, top_k: int | None) -> GateRecipe:
    """Return the gates that keep so many experts; as they are for None. Raises RoutingError where that is no choice."""
    if top_k is None:
        return recipe
    if not dataclasses.is_dataclass(recipe) or "top_k" not in {each.name for each in dataclasses.fields(recipe)}:
        raise RoutingError(f"{recipe.name} leaves nobody out, so top_k has nothing to choose; leave it out.")
    return dataclasses.replace(recipe, top_k=top_k)  # pyright: ignore[reportArgumentType]


def check_simplex(routing: Routing) -> None:
    """Raise RoutingError for an open routing: an ensemble mixes probabilities."""
    if routing.kind != "simplex":
        raise RoutingError(
            "an ensemble mixes probabilities: its weights are a simplex, not negative and summing to 1 with base; this "
            "router's are open. Use mix with it: compose=mix, in Python collegium.mix."
        )


def row_lengths(tokens: Int[Tensor, "batch seq"], lengths: Int[Tensor, " batch"] | None) -> Int[Tensor, " batch"]:
    """Return how far each row goes: all the way unless said otherwise."""
    return torch.full((tokens.shape[0],), tokens.shape[1]) if lengths is None else lengths.cpu()


def row_context(
    context: int | Int[Tensor, " batch"], lengths: Int[Tensor, " batch"], *, least: int = 1
) -> Int[Tensor, " batch"]:
    """Return each row's number of context tokens, at least one and at most its length."""
    each = torch.full_like(lengths, context) if isinstance(context, int) else context.cpu()
    return torch.minimum(each.clamp(min=least), lengths)


def right_padded(prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, " batch"]]:
    """Return prompts as one tensor with their lengths."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[*prompt, *([0] * (longest - len(prompt)))] for prompt in prompts])
    return tokens, torch.tensor([len(prompt) for prompt in prompts])


def hide_padding(tokens: Int[Tensor, "batch seq"], lengths: Int[Tensor, " batch"]) -> Int[Tensor, "batch seq"]:
    """Return the tokens with negative ids where a text has ended."""
    return tokens.cpu().masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None], PADDING)


def keep_scored(
    scores: Float[Tensor, "batch seq"], *, lengths: Int[Tensor, " batch"], context: Int[Tensor, " batch"]
) -> Float[Tensor, "batch seq"]:
    """Return the scores with 0 inside the context and for padding."""
    place = torch.arange(scores.shape[1])
    hidden = (place < context[:, None]) | (place >= lengths[:, None])
    return scores.masked_fill(hidden.to(scores.device), 0.0)


def read_context(
    tokens: Int[Tensor, "batch seq"],
    context: Int[Tensor, " batch"],
    *,
    tokenizer: Tokenizer | None,
    domains: tuple[str, ...] | None = None,
) -> Context:
    """Return what a router may read before it starts: the first `context` tokens of each row, and their text.

    The text of a rendered chat is its messages alone: the template says nothing about who should speak.
    """
    ids = tokens.cpu()[:, : int(context.max())]
    rows = [row[:length] for row, length in zip(ids.tolist(), context.tolist(), strict=True)]
    texts = None
    if tokenizer is not None:
        parts = template_parts(tokenizer)
        texts = tuple(content_of(tokenizer.decode(row), parts) for row in rows)
    return Context(hide_padding(ids, context), context, texts, domains)


def route(
    router: PrefixRouter,
    tokens: Int[Tensor, "batch seq"],
    *,
    lengths: Int[Tensor, " batch"],
    context: Int[Tensor, " batch"],
    tokenizer: Tokenizer | None,
    log_likelihoods: Float[Tensor, "batch seq expert"] | None = None,
    domains: tuple[str, ...] | None = None,
) -> Routing:
    """Return the routing after each token of whole texts (seq axis 1 from a coarse router).

    log_likelihoods: in the order of `router.experts`; needed when the router asks for them.
    """
    state = router.start(read_context(tokens, context, tokenizer=tokenizer, domains=domains))
    shown = hide_padding(tokens, lengths)
    seen = None if log_likelihoods is None else log_likelihoods.float().cpu()
    routing, _ = router.step(state, shown, seen)
    return routing


def last_weights(routing: Routing, lengths: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 expert"]:
    """Return the dense weights after each text's last token."""
    weights = routing.dense()
    if weights.shape[1] == 1:
        return weights.expand(len(lengths), -1, -1)
    return weights[torch.arange(len(lengths)), lengths - 1][:, None]
