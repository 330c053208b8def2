"""Texts that show who speaks: held-out passages as they are read, and what the composition writes itself."""

from dataclasses import dataclass

import torch

from collegium.compose import Ensemble
from collegium.core.protocols import Tokenizer
from collegium.core.routing import Routing
from collegium.infer import HeldOut, Sampling, TokenTable, generate
from collegium.ops.posterior import posterior
from collegium.recipes.report import ColouredText

PROMPT_TOKENS = 24
WRITTEN_TOKENS = 40


@dataclass(frozen=True)
class Passage:
    """One held-out window's tokens with the expert that had the largest share in each, and that share."""

    title: str
    tokens: list[int]
    speakers: list[str]
    shares: list[float]


def passage(table: TokenTable, routing: Routing, row: int, *, title: str) -> Passage:
    """Return who predicted each token of a window: weight before the token times its probability, normalised."""
    text = table.text
    length = int(text.lengths[row])
    weights = routing.log_weights()[row]
    columns = table.columns(routing.experts)[row, 1:length]
    share = posterior(weights[: length - 1] if len(weights) > 1 else weights, columns.float()).exp()
    best = share.max(-1)
    speakers = ["", *(routing.experts[place] for place in best.indices.tolist())]
    return Passage(title, text.tokens[row, :length].tolist(), speakers, [0.0, *best.values.tolist()])


def coloured(part: Passage, tokenizer: Tokenizer) -> ColouredText:
    """Return a passage as pieces of text; tokens that share a character stay together."""
    pieces: list[tuple[str, str, float]] = []
    before = ""
    for place in range(len(part.tokens)):
        text = tokenizer.decode(part.tokens[: place + 1])
        if text.endswith("\ufffd") and place + 1 < len(part.tokens):
            continue
        pieces.append((text[len(before) :], part.speakers[place], part.shares[place]))
        before = text
    return ColouredText(part.title, pieces)


def prompts(text: HeldOut) -> dict[str, list[int]]:
    """Return the beginning of a held-out window of each domain."""
    found = {}
    for domain in text.domain_names:
        rows = [row for row, name in enumerate(text.domains) if name == domain]
        longest = max(rows, key=lambda row: int(text.lengths[row]))
        found[domain] = text.tokens[longest, :PROMPT_TOKENS].tolist()
    return found


def written(model: Ensemble, text: HeldOut, *, seed: int) -> list[Passage]:
    """Return what the composition writes after the beginning of a held-out window of each domain."""
    given = prompts(text)
    sampling = Sampling(tokens=WRITTEN_TOKENS, temperature=0.8, top_p=0.95, repetition_penalty=1.1)
    passages = []
    for (domain, prompt), each in zip(
        given.items(), generate(model, list(given.values()), sampling=sampling, seed=seed), strict=True
    ):
        best = torch.tensor(each.shares).max(-1)
        speakers = [""] * len(prompt) + [each.experts[place] for place in best.indices.tolist()]
        shares = [0.0] * len(prompt) + best.values.tolist()
        title = f"Written after the beginning of a held-out text of {domain} (uncoloured)"
        passages.append(Passage(title, prompt + list(each.tokens), speakers, shares))
    return passages
