"""Training inside a build: one expert after the other, the first one shown as soon as it is there."""

import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from collegium.compose import Mix, attach_expert
from collegium.core.cards import ExpertCard
from collegium.core.errors import ConfigError
from collegium.data import Corpus, Domain, cut
from collegium.experts import FitConfig, fit_domain
from collegium.experts.fit import BEING_FITTED
from collegium.experts.recipe import recipe_of, resolve
from collegium.infer import Sampling, generate, held_out, nats_per_token, score_text
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.watch import Update, Watch
from collegium.routers import fixed

FIRST_RESULT_SECONDS = 120.0
"""When a run at the latest shows what its first expert changes, be it still under way."""
SHOWN_TOKENS = 1024
MACHINE = frozenset({"threads", "device", "dtype", "trunk_cache_mb"})
"""Of a recipe, where an expert was made; the rest says how."""


class FirstResult:
    """Shows a run's first expert against the base, once: under way when the run is two minutes old, else when done."""

    def __init__(self, base: Base, domain: Domain, *, watch: Watch, start: float) -> None:
        """Keep what to show, to whom, and when the run began (`time.perf_counter`)."""
        self.base, self.domain, self.watch, self.start = base, domain, watch, start
        self.shown = False

    def under_way(self, step: int) -> None:
        """Show the expert that is being trained, when it is time."""
        if not self.shown and time.perf_counter() - self.start >= FIRST_RESULT_SECONDS:
            self.show(BEING_FITTED, f", at step {step}")

    def show(self, key: str, when: str = "") -> None:
        """Say what an attached expert changed: held-out perplexity, and how both go on from the same words."""
        base, name = self.base, self.domain.name
        windows = cut(self.domain.split().test, base.tokenizer, budget_tokens=SHOWN_TOKENS)
        text = held_out({name: windows}, context=1)
        expert = Mix(base, {name: key}, fixed({name: 1.0}).bind((name,)))
        plain, better = (math.exp(nats_per_token(score_text(each, text), text, name)) for each in (base, expert))
        self.watch.say(
            f"first result after {time.perf_counter() - self.start:.0f} s{when}: on held-out {name} the base has "
            f"perplexity {plain:.1f}, its expert {better:.1f} ({100 * (better / plain - 1):+.0f} %)"
        )
        longest = int(text.lengths.argmax())
        prompt = text.tokens[longest, : min(16, int(text.lengths[longest]))].tolist()
        sampling = Sampling(tokens=24, temperature=0.7, repetition_penalty=1.1)
        for label, model in (("base", base), (name, expert)):
            said = generate(model, [prompt], sampling=sampling)[0].text.strip().replace("\n", " ")
            self.watch.say(f"  {label:>10}: {base.tokenizer.decode(prompt).strip()!r} -> {said!r}")
        self.shown = True


class StepBar:
    """A logger of the fit loop that moves a bar, and shows the first result where there is none yet."""

    def __init__(self, update: Update, first: FirstResult | None = None) -> None:
        """Keep the bar's updater and what is to be shown under way."""
        self.update, self.first = update, first

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Move the bar to this step."""
        if "loss" in values:
            self.update(step)
            if self.first is not None:
                self.first.under_way(step)

    def close(self) -> None:
        """Leave the bar where it is."""


def made_otherwise(card: ExpertCard, domain: Domain, fit: FitConfig, base: Base) -> bool:
    """Return whether an expert was made by other settings or from other texts; on which machine does not count."""
    wanted = recipe_of(resolve(fit), fit.kind, base)
    how = {name: value for name, value in wanted.items() if name not in MACHINE}
    return how != {name: card.recipe.get(name) for name in how} or card.documents != domain.split().hashes


def check_equal_training(library: Library, corpus: Corpus, fit: FitConfig, base: Base) -> None:
    """Raise ConfigError for experts that were not made as the others will be: nothing can be compared with them."""
    odd = [each.name for each in corpus if each.name in library]
    odd = [name for name in odd if made_otherwise(library.card(name), corpus[name], fit, base)]
    if odd:
        raise ConfigError(
            f"--budget full compares at equal tokens, but {library.path} has {', '.join(odd)}, made with other "
            "settings or from other texts than this build's. Give another --library, or the settings they were made "
            "with."
        )


def train_one(
    base: Base,
    library: Library,
    domain: Domain,
    fit: FitConfig,
    *,
    folder: Path,
    watch: Watch,
    start: float | None = None,
) -> None:
    """Train a domain's expert and add it, unless the library has it.

    start: when the run began (`time.perf_counter`): then the library's first expert is shown against the base.
    """
    if domain.name in library:
        card = library.card(domain.name)
        other = ", made with other settings or from other texts" if made_otherwise(card, domain, fit, base) else ""
        watch.say(f"{domain.name}: is in the library{other} ({card.tokens_seen:,} training tokens)")
        return
    first = None
    if start is not None and not library.names():
        first = FirstResult(base, domain, watch=watch, start=start)
    checkpoint = folder / domain.name
    bar = StepBar(watch.begin(f"training {domain.name}", fit.steps), first)
    trained = fit_domain(base, domain, config=fit, checkpoint=checkpoint, logger=bar)
    bar.update(fit.steps)
    library.add(trained.expert, measured=trained.curve)
    shutil.rmtree(checkpoint, ignore_errors=True)
    for warning in trained.expert.card.warnings:
        watch.say(f"{domain.name}: {warning}")
    if first is not None and not first.shown:
        first.show(attach_expert(base, trained.expert))


def training_curves(library: Library, names: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
    """Return each expert's held-out loss against tokens trained, as kept beside its card."""
    curves = {}
    for name in names:
        kept = [record for record in library.metrics(name) if record.get("kind") == "training"]
        if kept:
            recipe = library.card(name).recipe
            each = recipe["batch"] * recipe["window"] * recipe["accumulation"]
            curves[name] = [(step * each, loss) for step, loss in kept[-1]["held_out"]]
    return curves
