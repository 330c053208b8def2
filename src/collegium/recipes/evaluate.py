"""`eval`: the quality of one model on held-out text, beside its base and each of its experts alone."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tyro.conf import OmitArgPrefixes, Positional

from collegium.compose import Ensemble, GatedMix, Mix, SeparateVoices, TaskMixture, Voices
from collegium.core.routing import BASE, Routing
from collegium.data import read_domains
from collegium.infer import (
    HeldOut,
    TokenTable,
    ensemble_scores,
    evaluate_scores,
    fill_table,
    pruned_scores,
    score_text,
)
from collegium.infer.answers import AnswerConfig, check_metric, judge_answers
from collegium.recipes.budget import scored_tokens
from collegium.recipes.common import Common
from collegium.recipes.held_out import REDUCED_TOKENS, unseen, windows_of
from collegium.recipes.opening import Opened, open_reference
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.speed import say_scoring_plan, scoring_plan
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class EvalConfig:
    """Score held-out text with a model: perplexity by domain, its experts, the oracle, how well it routes."""

    data: Positional[Path]
    """A folder or file of texts, one sub-folder or file per domain."""
    model: str = "smollm2-135m"
    """What to score: a base, LIB, LIB?router=posterior&compose=ensemble, or LIB#NAME."""
    window: int = 128
    """Tokens a window."""
    context: int = 32
    """Leading tokens of a window that are read and not scored."""
    budget: str = "reduced"
    """`reduced` (8,192 tokens a domain), `full`, or tokens as in 20k."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    judging: OmitArgPrefixes[AnswerConfig] = field(default_factory=AnswerConfig)
    """Judging generated answers on prompt/completion rows."""
    dry_run: bool = False
    """Measure and show what would be scored, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: EvalConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result is the object of `eval --json`."""
    start = time.perf_counter()
    tokens = scored_tokens(config.budget, reduced=REDUCED_TOKENS)
    check_metric(config.judging)
    corpus = read_domains(config.data, columns=config.columns or None)
    opened = open_reference(config.model, config.common, watch=watch)
    usable = unseen(corpus, opened.library)
    text = windows_of(
        usable.documents,
        opened.base.tokenizer,
        window=config.window,
        context=config.context,
        budget_tokens=tokens,
    )
    if config.dry_run:
        plan = scoring_plan(opened.base, text, rows=2 + len(opened.experts))
        say_scoring_plan(plan, watch)
        return make_card("eval", config, {"plan": plan}, time.perf_counter() - start)
    table = table_of(opened, text, watch=watch)
    composed, routing = composed_scores(opened, table, watch=watch)
    answers = judge_answers(opened.model, usable.documents, config.judging, seed=config.common.seed)
    result = evaluate_scores(
        table,
        composed,
        routing,
        seconds=time.perf_counter() - start,
        skipped_documents=usable.skipped,
        answers=answers,
    )
    return make_card("eval", config, result.to_json(), time.perf_counter() - start)


def table_of(opened: Opened, text: HeldOut, *, watch: Watch) -> TokenTable:
    """Return the base's and every expert's log-probabilities of the text."""
    voices: Voices = SeparateVoices({BASE: opened.base}) if opened.cast is None else opened.cast.voices()
    update = watch.begin("scoring", int(text.lengths.sum()))
    return fill_table(voices, text, voices.names, progress=lambda done, _: update(done))


def composed_scores(
    opened: Opened, table: TokenTable, *, watch: Watch
) -> tuple[Float[Tensor, "window seq"], Routing | None]:
    """Return the opened model's own scores, from the table where that is exact, and its routing."""
    model = opened.model
    if isinstance(model, TaskMixture):
        update = watch.begin("task mixture", int(table.text.lengths.sum()))
        return score_text(model, table.text, progress=lambda done, _: update(done)), None
    if opened.cast is None:
        return table.column(BASE), None
    if opened.way is None:
        return table.column(opened.experts[0]), None
    if isinstance(model, Ensemble) and model.prune:
        found = pruned_scores(table, model.router, tokenizer=model.tokenizer, top_k=model.top_k, prune=model.prune)
        return found.scores, found.routing
    if isinstance(model, Ensemble):
        return ensemble_scores(table, model.router, tokenizer=model.tokenizer, top_k=model.top_k)
    update = watch.begin(opened.way.label, int(table.text.lengths.sum()))
    scores = score_text(model, table.text, progress=lambda done, _: update(done))
    routing = None
    if isinstance(model, Mix | GatedMix):
        routing = mix_routing(model, table)
    return scores, routing


def mix_routing(model: Mix | GatedMix, table: TokenTable) -> Routing:
    """Return a mix's routing along the windows; the held posterior comes from the table."""
    text = table.text
    if isinstance(model, GatedMix) or not model.router.needs_likelihoods:
        return model.routing(text.tokens, lengths=text.lengths, context=text.context)
    _, routing = ensemble_scores(table, model.router, tokenizer=model.tokenizer, top_k=model.top_k)
    rows = torch.arange(len(text.lengths))
    held = routing.dense().expand(len(rows), text.tokens.shape[1], -1)[rows, text.context - 1]
    return Routing(model.experts, held[:, None], kind=routing.kind)
