"""Generation: a loop over a decoding, with transformers' own logits processors, saying who spoke."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import BaseModelError, ConfigError, DataError
from collegium.core.protocols import Decoding, LanguageModel, Tokenizer, context_limit
from collegium.core.randomness import generator
from collegium.infer.sampling import Sampling, processors
from collegium.infer.writing import Generation, Writing, draw, end_tokens, grow, last_shares, note

Stream = Callable[[int, str, Mapping[str, float]], None]
"""Told (prompt number, new text, each expert's share in it) as texts grow."""


def generate(
    model: LanguageModel,
    prompts: str | Sequence[str] | Sequence[Sequence[int]],
    *,
    sampling: Sampling | None = None,
    seed: int | Sequence[int] = 0,
    stream: Stream | None = None,
) -> list[Generation]:
    """Return the prompts' continuations, in order.

    prompts: one text, several, or token ids. All are continued together; a finished one leaves the batch, as does
             one that is as long as the model reads.
    seed:    each prompt draws from a stream of its own; with a seed for each prompt, as it would alone with that seed.
    Raises DataError for an empty prompt, for token ids that the model does not have, or for text given to a base
    without tokenizer; BaseModelError for a prompt that fills what the model reads.

    >>> from collegium.testing.pico import pico_base
    >>> len(generate(pico_base(), "To be", sampling=Sampling(tokens=4, temperature=0.0))[0].tokens)
    4
    """
    sampling = sampling or Sampling()
    given: Sequence[str] | Sequence[Sequence[int]] = [prompts] if isinstance(prompts, str) else prompts
    ids = [encode_prompt(prompt, model.tokenizer) for prompt in given]
    check_ids(ids, model.vocab_size)
    limit = context_limit(model)
    for each in ids:
        check_prompt(each, limit)
    rows = [
        Writing(prompt, random, most=room(prompt, sampling.tokens, limit))
        for prompt, random in zip(ids, _streams(seed, len(ids)), strict=True)
    ]
    decoding = model.open(ids)
    chain = processors(sampling)
    live = list(range(len(rows)))
    ends = end_tokens(model.tokenizer)
    while live:
        log_probs = decoding.next_logprobs()
        chosen = [draw(log_probs[place], rows[number], sampling, chain) for place, number in enumerate(live)]
        _note(decoding, rows, live, chosen, log_probs)
        for number in live:
            new = grow(rows[number], model.tokenizer, sampling, ends)
            if new and stream is not None:
                stream(number, new, last_shares(rows[number], _names(decoding)))
        stay = [place for place, number in enumerate(live) if not rows[number].ended]
        live, tokens = [live[place] for place in stay], [chosen[place] for place in stay]
        if live:
            if len(stay) < len(chosen):
                decoding.keep(torch.tensor(stay))
            decoding.step(torch.tensor(tokens))
    return [row.finished(_names(decoding)) for row in rows]


def _streams(seed: int | Sequence[int], prompts: int) -> list[torch.Generator]:
    """Return what each prompt draws from; raises ConfigError for another number of seeds than of prompts."""
    if isinstance(seed, int):
        return [generator(seed, "generate", str(number)) for number in range(prompts)]
    if len(seed) != prompts:
        raise ConfigError(f"seed is one number, or one for each prompt; got {len(seed)} for {prompts} prompts.")
    return [generator(each, "generate", "0") for each in seed]


def room(prompt: Sequence[int], tokens: int, limit: int | None) -> int:
    """Return how many of `tokens` new tokens a model that reads at most `limit` has room for behind a prompt.

    >>> room([1, 2, 3], 100, 8)
    5
    """
    return tokens if limit is None else min(tokens, limit - len(prompt))


def check_prompt(prompt: Sequence[int], limit: int | None) -> None:
    """Raise BaseModelError where a model that reads at most `limit` tokens has no room behind a prompt."""
    if limit is not None and len(prompt) >= limit:
        raise BaseModelError(
            f"this model reads at most {limit} tokens, the prompt has {len(prompt)} and leaves no room for an answer; "
            "cut the prompt."
        )


def encode_prompt(prompt: str | Sequence[int], tokenizer: Tokenizer | None) -> list[int]:
    """Return a prompt's token ids; raises DataError when it is empty or there is no tokenizer for its text."""
    if isinstance(prompt, str) and tokenizer is None:
        raise DataError("this base has no tokenizer files: give token ids, or a base folder with a tokenizer.")
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) and tokenizer is not None else [int(i) for i in prompt]
    if not ids:
        raise DataError("the prompt is empty: give at least one word to go on from.")
    return list(ids)


def check_ids(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Raise DataError for token ids that the model does not have."""
    for prompt in prompts:
        strange = [token for token in prompt if not 0 <= token < vocab_size]
        if strange:
            raise DataError(
                f"token ids of this model lie between 0 and {vocab_size - 1}, got {strange[0]}; encode the prompt with "
                "the model's own tokenizer."
            )


def chat_prompt(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer | None) -> list[int]:
    """Return messages as the token ids of an answer's prompt: what the tokenizer's chat template writes, no more.

    Raises DataError when the base has no template.
    """
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise DataError("this base has no chat template: leave --chat away and write the prompt as plain text.")
    text = tokenizer.apply_chat_template(  # pyright: ignore[reportAttributeAccessIssue]
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def _names(decoding: Decoding) -> tuple[str, ...]:
    return () if decoding.routing is None else decoding.routing.experts


def _note(
    decoding: Decoding, rows: list[Writing], live: list[int], chosen: list[int], log_probs: Float[Tensor, "batch vocab"]
) -> None:
    shares = decoding.shares(torch.tensor(chosen))
    for place, number in enumerate(live):
        token = chosen[place]
        note(rows[number], token, float(log_probs[place, token]), None if shares is None else shares[place])
