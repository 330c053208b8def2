"""Branch-Train-Merge: whole models branched from the posterior-weighted average of earlier ones  [li2022btm]."""

from collections.abc import Sequence

from collegium.compose import Choice, SeparateVoices
from collegium.data import Domain, cut
from collegium.experts import Branch, Expert, open_whole
from collegium.infer import held_out
from collegium.models import Base
from collegium.recipes.watch import Watch
from collegium.routers import average_posterior

PRIOR_WINDOWS = 16
"""Dev windows the weights of a branch are estimated on."""


def branch_weights(base: Base, parents: Sequence[Expert], domain: Domain, *, window: int) -> dict[str, float]:
    """Return each parent's average posterior on a domain's dev text: the weights of a new branch."""
    models = {parent.name: open_whole(parent, base) for parent in parents}
    voices = SeparateVoices(models)
    windows = cut(domain.split().dev, base.tokenizer, window=window, budget_tokens=PRIOR_WINDOWS * window)
    text = held_out({domain.name: windows}, context=1)
    scores = voices.score(text.tokens, Choice(voices.names), lengths=text.lengths)
    shares = average_posterior(scores.float().cpu().sum(1))
    return dict(zip(voices.names, shares.tolist(), strict=True))


def branch_of(base: Base, parents: Sequence[Expert], domain: Domain, *, window: int, watch: Watch) -> Branch:
    """Return where a domain's whole model begins, and say it: at its parents, at the base when there are none."""
    if not parents:
        return Branch()
    weights = branch_weights(base, parents, domain, window=window)
    told = ", ".join(f"{share:.2f} {name}" for name, share in weights.items())
    watch.say(f"{domain.name}: branches from {told} (average posterior on its dev text)")
    return Branch(tuple(parents), weights)
