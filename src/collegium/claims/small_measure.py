"""From one table of per-model token log-probabilities to the numbers of the small-scale claims.

All differences are in nats a counted token unless a unit is said; "worst" is over the domains that were trained on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from collegium.claims.small_setup import dev_name
from collegium.core.protocols import RouterRecipe, Shelf, Tokenizer
from collegium.infer import TokenTable, ensemble_scores, nats_per_token
from collegium.routers import average_posterior, cluster, posterior, uniform

Scores = Float[Tensor, "window seq"]
TOP_KS = (1, 2, 3)


@dataclass(frozen=True)
class Judge:
    """A seed's table with everything that turns it into numbers.

    families: family -> its models' names. extra: scores of models that are no voice of the table.
    shelf:    where the cluster routers of `experts` (under `experts`) and of `clusters` lie.
    """

    table: TokenTable
    domains: tuple[str, ...]
    unseen: tuple[str, ...]
    families: Mapping[str, tuple[str, ...]]
    shelves: Mapping[str, Shelf]
    tokenizer: Tokenizer | None
    extra: Mapping[str, Scores] = field(default_factory=dict)

    @property
    def experts(self) -> tuple[str, ...]:
        """The domain experts, in the order of the domains."""
        return self.families["experts"]

    def voice(self, name: str) -> Scores:
        """Return one model's scores."""
        return self.extra[name] if name in self.extra else self.table.column(name)

    def nats(self, scores: Scores, domain: str) -> float:
        """Return nats a counted token on one domain."""
        return nats_per_token(scores, self.table.text, domain)

    def mean(self, scores: Scores, domains: Sequence[str] | None = None) -> float:
        """Return the mean over domains (default: those trained on) of nats a token."""
        chosen = self.domains if domains is None else domains
        return sum(self.nats(scores, domain) for domain in chosen) / len(chosen)

    def ensemble(
        self, names: Sequence[str], recipe: RouterRecipe | None = None, *, top_k: int | None = None, shelf: str = ""
    ) -> Scores:
        """Return an ensemble's scores from the table; default router: the posterior with an equal prior."""
        shelf_of = self.shelves.get(shelf)
        router = (recipe or posterior()).bind(tuple(names), shelf=shelf_of, tokenizer=self.tokenizer)
        return ensemble_scores(self.table, router, tokenizer=self.tokenizer, top_k=top_k)[0]

    def prior(self, names: Sequence[str], domain: str) -> dict[str, float]:
        """Return the cached prior over experts, read from a domain's windows to choose by."""
        rows = self.table.text.of(dev_name(domain))
        found = average_posterior(self.table.columns(names)[rows].sum(1))
        return dict(zip(names, found.tolist(), strict=True))

    def best_single(self, names: Sequence[str], domain: str) -> str:
        """Return the expert that is best on a domain's windows to choose by."""
        return min(names, key=lambda name: self.nats(self.voice(name), dev_name(domain)))


def metrics(judge: Judge) -> dict[str, float]:
    """Return every number that is read from the table."""
    return {
        **specialisation(judge),
        **mixing(judge),
        **unseen(judge),
        **removal(judge),
        **addition(judge),
        **splits(judge),
        **sparse(judge),
    }


def specialisation(judge: Judge) -> dict[str, float]:
    """Return M1's numbers."""
    gains, foreign, diagonal = [], [], []
    for domain, own in zip(judge.domains, judge.experts, strict=True):
        of_own, of_dense = judge.nats(judge.voice(own), domain), judge.nats(judge.voice("dense"), domain)
        others = [judge.nats(judge.voice(each), domain) for each in judge.experts if each != own]
        gains.append(of_dense - of_own)
        foreign += [each - of_dense for each in others]
        diagonal += [each - of_own for each in others]
    return {
        "dense_minus_own_worst": min(gains),
        "foreign_minus_dense": min(foreign),
        "foreign_minus_own": min(diagonal),
    }


def mixing(judge: Judge) -> dict[str, float]:
    """Return M2's numbers, and how far the ensemble stands from the dense models."""
    composed, equal = judge.ensemble(judge.experts), judge.ensemble(judge.experts, uniform())
    better, behind = [], []
    for domain in judge.domains:
        oracle = min(judge.nats(judge.voice(each), domain) for each in judge.experts)
        better.append(judge.nats(equal, domain) - judge.nats(composed, domain))
        behind.append(judge.nats(composed, domain) - oracle)
    return {"uniform_minus_posterior": min(better), "posterior_minus_oracle": max(behind)}


def unseen(judge: Judge) -> dict[str, float]:
    """Return M4's numbers; best expert and kind of prior are chosen on windows of the domain that are not scored."""
    over_best, over_dense = [], []
    for domain in judge.unseen:
        recipes = (posterior(), posterior(judge.prior(judge.experts, domain)))
        scored = [judge.ensemble(judge.experts, recipe) for recipe in recipes]
        composed = min(scored, key=lambda each: judge.nats(each, dev_name(domain)))
        best = judge.voice(judge.best_single(judge.experts, domain))
        over_best.append(judge.nats(best, domain) - judge.nats(composed, domain))
        over_dense.append(judge.nats(judge.voice("dense"), domain) - judge.nats(composed, domain))
    many = len(judge.unseen)
    return {"best_single_minus_ensemble": sum(over_best) / many, "dense_minus_ensemble_unseen": sum(over_dense) / many}


def removal(judge: Judge) -> dict[str, float]:
    """Return M5's numbers."""
    whole, rises, changes = judge.ensemble(judge.experts), [], []
    for gone in judge.experts:
        left = judge.ensemble([each for each in judge.experts if each != gone])
        for domain, own in zip(judge.domains, judge.experts, strict=True):
            change = judge.nats(left, domain) - judge.nats(whole, domain)
            (rises if own == gone else changes).append(change)
    return {"rise_on_removed": min(rises), "change_on_others": max(abs(change) for change in changes)}


def addition(judge: Judge) -> dict[str, float]:
    """Return M6's bound: the largest loss of a window of an old domain above log((K + 1) / K), whoever is added."""
    whole, many, excess = judge.ensemble(judge.experts), len(judge.experts), []
    for added, domain in zip(judge.experts, judge.domains, strict=True):
        before = judge.ensemble([each for each in judge.experts if each != added])
        old = ~(judge.table.text.of(domain) | judge.table.text.of(dev_name(domain)))
        excess.append(float((before - whole)[old].double().sum(1).max()) - math.log(many / (many - 1)))
    return {"added_bound_excess": max(excess)}


def splits(judge: Judge) -> dict[str, float]:
    """Return M7's and M9's numbers: ensembles of domain, random and cluster experts against dense."""
    composed = {family: judge.ensemble(judge.families[family]) for family in ("experts", "random", "clusters")}
    dense = judge.mean(judge.voice("dense"))
    of = {family: judge.mean(scores) for family, scores in composed.items()}
    return {
        "dense_minus_domain_experts": dense - of["experts"],
        "dense_minus_random_experts": dense - of["random"],
        "random_minus_clusters": of["random"] - of["clusters"],
    }


def sparse(judge: Judge) -> dict[str, float]:
    """Return M10's and M17's numbers: perplexity over that of all experts minus one, the worst over domains."""
    everyone = judge.ensemble(judge.experts)
    by_k = {k: judge.ensemble(judge.experts, top_k=k) for k in TOP_KS}
    near = judge.ensemble(judge.experts, cluster(), shelf="experts")
    near_two = judge.ensemble(judge.experts, cluster(top_k=2), shelf="experts")
    worst: dict[str, float] = {}
    for domain in judge.domains:
        nats = {k: judge.nats(scores, domain) for k, scores in by_k.items()}
        all_of_them = judge.nats(everyone, domain)
        found = {
            "top_1_excess": nats[1] - all_of_them,
            "top_2_excess": nats[2] - all_of_them,
            "top_2_to_3_excess": max(nats[2], nats[3]) - all_of_them,
            "rise_with_k": max(nats[3] - nats[2], all_of_them - nats[3]),
            "cached_top_2_excess": judge.nats(cached_top(judge, domain, 2), domain) - all_of_them,
            "cluster_top_2_excess": judge.nats(near_two, domain) - judge.nats(near, domain),
        }
        worst = {name: max(worst.get(name, value), value) for name, value in found.items()}
    return {name: math.expm1(value) for name, value in worst.items()}


def cached_top(judge: Judge, domain: str, k: int) -> Scores:
    """Return the posterior ensemble of the k experts with the largest entries of the domain's cached prior."""
    prior = judge.prior(judge.experts, domain)
    kept = sorted(prior, key=lambda name: -prior[name])[:k]
    return judge.ensemble(kept, posterior({name: prior[name] for name in kept}))


def perplexity_rows(judge: Judge) -> dict[str, dict[str, float]]:
    """Return model -> domain -> perplexity, for every model and ensemble, on all domains that are not to choose by."""
    scores = {
        "base": judge.voice("base"),
        **{name: judge.voice(name) for family in judge.families.values() for name in family},
        **judge.extra,
        "ensemble uniform": judge.ensemble(judge.experts, uniform()),
        "ensemble posterior": judge.ensemble(judge.experts),
        "ensemble posterior top-1": judge.ensemble(judge.experts, top_k=1),
        "ensemble posterior top-2": judge.ensemble(judge.experts, top_k=2),
        "ensemble cluster": judge.ensemble(judge.experts, cluster(), shelf="experts"),
        "ensemble cluster top-2": judge.ensemble(judge.experts, cluster(top_k=2), shelf="experts"),
        "random experts, posterior": judge.ensemble(judge.families["random"]),
        "cluster experts, posterior": judge.ensemble(judge.families["clusters"]),
        "cluster experts, cluster": judge.ensemble(judge.families["clusters"], cluster(), shelf="clusters"),
    }
    reported = (*judge.domains, *judge.unseen)
    rows = {
        name: {
            domain: math.exp(judge.nats(values, domain))
            for domain in reported
            if not (name == "dense-token" and domain in judge.unseen)
        }
        for name, values in scores.items()
    }
    oracle = {domain: min(rows[name][domain] for name in judge.experts) for domain in reported}
    cached = {domain: math.exp(judge.nats(cached_top(judge, domain, 2), domain)) for domain in reported}
    return {**rows, "ensemble cached prior top-2": cached, "oracle": oracle}
