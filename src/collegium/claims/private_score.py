"""What private experts say of held-out text under every way of weighing them."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.claims.private_setup import family_of
from collegium.claims.small_growth import some_rows
from collegium.claims.small_setup import dev_name
from collegium.compose import Cast, FoundWeights, search_weights
from collegium.core.routing import Routing
from collegium.infer import HeldOut, nats_per_token
from collegium.models import RowPlan
from collegium.routers.gates import GateRecipe, arrow, phatgoose, xlora

Scores = Float[Tensor, "window seq"]
GATES = ("arrow", "phatgoose", "xlora")
_SEEN = "seen"
"""The weights that were searched for all domains that were trained on."""


def gate_of(name: str, top_k: int) -> GateRecipe:
    """Return the recipe of a gate that keeps k experts."""
    makers = {"arrow": arrow, "phatgoose": phatgoose, "xlora": xlora}
    return makers[name](top_k=top_k)


def blended(cast: Cast, text: HeldOut, weights: Float[Tensor, "window place expert"], *, batch: int) -> Scores:
    """Return each token's log-probability where experts are weighed so, in the order of the cast.

    place: every position, or 1 for all. Experts that no window gives weight are not computed.
    """
    live = torch.nonzero(weights.flatten(0, 1).any(0)).flatten().tolist()
    keys = [cast.keys[cast.names[column]] for column in live]
    scores = torch.zeros(text.tokens.shape)
    for rows in torch.arange(len(text.domains)).split(batch):
        plan = RowPlan.blend(keys, weights[rows][..., live])
        found = cast.base.score_rows(text.tokens[rows], lengths=text.lengths[rows], plan=plan)
        scores[rows] = found[0].float().cpu()
    return scores


def constant(cast: Cast, weights: Mapping[str, float], text: HeldOut) -> Float[Tensor, "window one expert"]:
    """Return the same weights of experts for every window and position."""
    values = torch.tensor([weights.get(name, 0.0) for name in cast.names])
    return values.expand(len(text.domains), 1, -1)


def uniform_scores(cast: Cast, text: HeldOut, *, batch: int) -> Scores:
    """Return the scores of all experts at equal weights that sum to one."""
    equal = dict.fromkeys(cast.names, 1 / len(cast.names))
    return blended(cast, text, constant(cast, equal, text), batch=batch)


def family_weights(cast: Cast, text: HeldOut, *, middle: int) -> Float[Tensor, "window seq expert"]:
    """Return equal weights of the experts of each window's domain; a mixed window changes over in the middle.

    A window of a domain that has no expert gets none.
    """
    families = torch.tensor(
        [[[family_of(name) == half for name in cast.names] for half in _halves(domain)] for domain in text.domains]
    ).float()
    shares = families / families.sum(-1, keepdim=True).clamp(min=1)
    later = torch.arange(text.tokens.shape[1]) >= middle
    return torch.where(later[None, :, None], shares[:, 1:], shares[:, :1])


def _halves(domain: str) -> tuple[str, str]:
    first, _, second = domain.partition("+")
    return first, second or first


def oracle_nats(cast: Cast, text: HeldOut, *, unseen: Sequence[str], middle: int, batch: int) -> dict[str, float]:
    """Return nats a token of the experts of the right domain, by domain of the windows.

    For an unseen domain that is the one whose experts have the fewest nats on it.
    """
    own = windows_in(text, [domain for domain in text.domain_names if domain not in unseen])
    nats = nats_of(blended(cast, own, family_weights(cast, own, middle=middle), batch=batch), own)
    strange, tried = windows_in(text, unseen), []
    for family in dict.fromkeys(map(family_of, cast.names)):
        members = [name for name in cast.names if family_of(name) == family]
        equal = constant(cast, dict.fromkeys(members, 1 / len(members)), strange)
        tried.append(nats_of(blended(cast, strange, equal, batch=batch), strange))
    return {**nats, **{domain: min(each[domain] for each in tried) for domain in unseen}}


def search(
    cast: Cast, text: HeldOut, domains: Sequence[str], *, evaluations: int, windows: int | None = None, batch: int
) -> FoundWeights:
    """Return the weights that a LoraHub-like search finds on these domains' windows to choose by.

    windows: at most so many of each. There is no penalty on weights: the paper's is as large as what can be gained.
    """
    rows = [_first(text, dev_name(domain), windows) for domain in domains]
    dev = some_rows(text, [row for each in rows for row in each])

    def loss(weights: Mapping[str, float]) -> float:
        scores = blended(cast, dev, constant(cast, weights, dev), batch=batch)
        return float(-scores[dev.counted].double().mean())

    return search_weights(loss, cast.names, penalty=0.0, evaluations=evaluations)


def _first(text: HeldOut, domain: str, many: int | None) -> list[int]:
    return torch.nonzero(text.of(domain)).flatten().tolist()[:many]


def searched(
    cast: Cast,
    text: HeldOut,
    domains: Sequence[str],
    unseen: Sequence[str],
    *,
    evaluations: int,
    windows: int,
    batch: int,
) -> dict[str, FoundWeights]:
    """Return weights for the domains that were trained on, all in one, and for each unseen domain."""
    everything = search(cast, text, domains, evaluations=evaluations, windows=windows, batch=batch)
    alone = {domain: search(cast, text, [domain], evaluations=evaluations, batch=batch) for domain in unseen}
    return {_SEEN: everything, **alone}


def searched_scores(cast: Cast, text: HeldOut, weights: Mapping[str, Mapping[str, float]], *, batch: int) -> Scores:
    """Return the scores under searched weights: an unseen domain's own, else those for all that were trained on."""
    values = [[weights.get(domain, weights[_SEEN]).get(name, 0.0) for name in cast.names] for domain in text.domains]
    return blended(cast, text, torch.tensor(values)[:, None], batch=batch)


def nats_of(scores: Scores, text: HeldOut) -> dict[str, float]:
    """Return nats a counted token of every domain."""
    return {domain: nats_per_token(scores, text, domain) for domain in text.domain_names}


def windows_in(text: HeldOut, domains: Sequence[str]) -> HeldOut:
    """Return the windows of these domains alone."""
    return some_rows(text, [row for row, domain in enumerate(text.domains) if domain in domains])


def own_family(routing: Routing, text: HeldOut) -> dict[str, float]:
    """Return how often a gate weighs the experts of a window's own domain the most.

    texts:  windows whose expert of the largest weight, mean over layers and scored tokens, is of their domain.
    tokens: scored tokens at which the domain of the largest weight, mean over layers and summed over its experts, is
            theirs.
    """
    weights, kept = routing.dense(), text.counted[..., None]
    families = tuple(dict.fromkeys(map(family_of, routing.experts)))
    mean = (weights * kept).sum(1) / kept.sum(1)
    texts = [family_of(routing.experts[place]) for place in mean.argmax(-1).tolist()]
    masks = torch.tensor([[family_of(name) == family for family in families] for name in routing.experts])
    tokens = (weights @ masks.to(weights.dtype)).argmax(-1)
    own = torch.tensor([families.index(domain) for domain in text.domains])
    right = (tokens == own[:, None])[text.counted]
    same = [found == domain for found, domain in zip(texts, text.domains, strict=True)]
    return {"texts": sum(same) / len(same), "tokens": float(right.double().mean())}
