"""MoRE: a sparse mixture of experts inside one reward model  [namgoong2024rewards].

Fitted end to end on the pairs of all domains by the Bradley-Terry loss: a low-rank adapter with a head as a joint
judge has it, and in the last layers n feed-forward experts in place of the block, of which each token is read by the
top k. The gates see tokens, of the answer too, and have no domain labels. Where the mixture sits and whether the load
is balanced is not known of the paper; ours is an option with a default: the last two layers, a balance loss of weight
0.01, and a mutual-information loss [chen2023modsquad] of weight 0 that would tell the gates about domains.

It has no untouched growth: a new domain is a new fit.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose import attach_expert
from collegium.core.errors import ConfigError, CorruptExpert, NameTaken
from collegium.core.randomness import generator
from collegium.data.preferences import PairCorpus, PairDomain
from collegium.experts import Expert, FitConfig, adapter_payload
from collegium.experts.fit import ALIKE
from collegium.experts.fresh import fresh_adapter, with_tensors
from collegium.experts.recipe import using_threads
from collegium.models import Adapter, Base, HeadWeights, OpenTrace, SoftmaxGate, memory_errors, softmax_gate
from collegium.ops.evenness import balance_loss, mutual_information_loss
from collegium.rewards.config import RATES, RewardConfig
from collegium.rewards.fit import (
    BEING_FITTED,
    FittedJudge,
    Lesson,
    adapter_weights,
    finished,
    fresh_head,
    judge_card,
    kept_payload,
    objective_of,
    run,
    standards,
)
from collegium.rewards.judges import Standards, common_reading, head_on
from collegium.rewards.making import DesignOptions, Making, check_two, counts, curve_ends
from collegium.rewards.mixture import MixtureJudges, mixture_plan
from collegium.rewards.pairs import Penalty
from collegium.rewards.reading import Reading
from collegium.rewards.records import RewardRecord
from collegium.rewards.texts import Encoder
from collegium.train import Logger


def fit_more(making: Making) -> RewardRecord:
    """Fit adapter, experts, gates and head together on the pairs of all domains.

    Raises ConfigError for one domain, or for more experts chosen than there are.
    """
    check_more(making.corpus, making.options)
    count = making.options.experts or len(making.corpus)
    names = [making.member("adapter"), *(making.member(f"experts-{number + 1}") for number in range(count))]
    constants = {"experts": count, "top_k": making.options.top_k, "more_layers": making.options.more_layers}
    record = RewardRecord("more", making.corpus.names, tuple(names), {"all": names[0]}, making.routing, constants)
    there = [name for name in names if name in making.library]
    check_parts(making, names[0], there)
    if there == names and making.routing in making.library.router_names():
        making.figures.update({name: {"kept": True} for name in names})
        return record
    done, experts, gates = fitted_mixture(
        making.base,
        tuple(making.corpus),
        names,
        config=making.config,
        options=making.options,
        checkpoint=None if making.folder is None else making.folder / names[0],
        logger=making.begin(names[0], making.steps(tuple(making.corpus), "adapter")),
    )
    for name in there:  # without their gates they were never whole
        making.library.remove(name, keep_descendants=True)
    for expert in (done.expert, *experts):
        making.library.add(expert, measured=done.curve)
    making.figures[names[0]] = {"kept": False, **curve_ends(done.curve), **counts(done)}
    digests = {name: making.library.expert_digest(name) for name in names}
    card = {"router": "reward mixture", "version": 1, "experts": digests}
    making.library.save_router(making.routing, gates, card)
    return record


def check_more(corpus: PairCorpus, options: DesignOptions) -> None:
    """Raise ConfigError for one domain only, or for more experts chosen than there are.

    More experts than domains are no mistake: gates see tokens, and need not keep an expert for each domain.
    """
    check_two(corpus, "more")
    count = options.experts or len(corpus)
    if options.top_k > count:
        raise ConfigError(
            f"--top-k chooses among the experts of a layer: {options.top_k} of {count}. Lower it, or raise --experts."
        )


def check_parts(making: Making, adapter: str, there: Sequence[str]) -> None:
    """Raise NameTaken when parts that are in the library already are those of another mixture, or none at all."""
    if not there:
        return
    if adapter not in there:
        raise NameTaken(
            f"the library has something called {there[0]!r} already, which an expert of reward model {making.name!r} "
            "would be. Take another --as."
        )
    making.check_kept(adapter, domains=tuple(making.corpus))
    had, wanted = making.library.card(adapter).constants.get("mixture"), mixture_settings(making.options)
    if had != wanted:
        raise NameTaken(
            f"the library has a member {adapter!r} of another mixture ({had} there, {wanted} here). Use the same "
            f"settings, take another --as, or remove it: `collegium library remove {adapter}`."
        )


def mixture_settings(options: DesignOptions) -> dict[str, Any]:
    """Return what a mixture's fit depends on beside the settings of its judge."""
    names = ("experts", "top_k", "more_layers", "balance", "information")
    return {name: getattr(options, name) for name in names}


def fitted_mixture(
    base: Base,
    domains: Sequence[PairDomain],
    names: Sequence[str],
    *,
    config: RewardConfig,
    options: DesignOptions,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> tuple[FittedJudge, list[Expert], dict[str, Tensor]]:
    """Return the adapter with its head, the experts, and the gates' weights by their places.

    names: of the adapter, and of as many experts as there are to be.
    """
    count = len(names) - 1
    with using_threads(config.threads or torch.get_num_threads()), memory_errors("--batch or --experts"):
        reading = Reading.of(base, text_tokens=config.text_tokens, pooling=config.pooled_by())
        lesson = Lesson.of(domains, Encoder(base, config.text_tokens), config)
        nothing = torch.zeros(1, 1, dtype=torch.long)
        adapter = fresh_adapter(base, config.adapter(len(base.blocks)), ALIKE, tokens=nothing)
        settings = FitConfig(kind="ffn", layers=f"top:{min(options.more_layers, len(base.blocks))}", seed=config.seed)
        experts = [fresh_adapter(base, settings, ALIKE, tokens=nothing) for _ in range(count)]
        gates = fresh_gates(base, experts[0], options, count=count, seed=config.seed)
        keys = [f"{BEING_FITTED}-{number}" for number in range(count)]
        head = fresh_head(base, 1, seed=config.seed)
        attached = dict(zip((BEING_FITTED, *keys), (adapter, *experts), strict=True))
        with attached_as(base, attached):
            objective = objective_of(
                base,
                mixture_plan(BEING_FITTED, keys, gates),
                head,
                lesson=lesson,
                reading=reading,
                config=config,
                adapter={**adapter, **experts[0]},
                penalty=penalty_of(options),
            )
            inside = named_experts(experts)
            kept = {f"gate.{path}": gate.weight for path, gate in gates.items()}
            weights = adapter_weights(adapter) | {"head": head.weight} | inside | kept
            card = judge_card(base, "lora", lesson, name=names[0], config=config, trained="adapter")
            slower = dict.fromkeys(inside, RATES["ffn"] / RATES["adapter"])
            done = run(
                objective,
                weights,
                card,
                config=config,
                trained="adapter",
                folder=checkpoint,
                logger=logger,
                rates=slower,
            )
            constants = {**reading.to_constants(), **standards(objective), "mixture": mixture_settings(options)}
            tokens = objective.tokens_read(len(done.history.steps))
    payload = kept_payload(base, adapter, head)
    judge = Expert(finished(card, done, tokens=tokens, parameters=payload.parameters, constants=constants), payload)
    cut, equal = lesson.train.cut + lesson.dev.cut, lesson.train.equal + lesson.dev.equal
    fitted = FittedJudge(judge, done.history, len(lesson.train), cut, equal)
    inner = [expert_of(base, judge, each, name) for each, name in zip(experts, names[1:], strict=True)]
    return fitted, inner, {key: weight.detach().cpu() for key, weight in kept.items()}


@contextlib.contextmanager
def attached_as(base: Base, adapters: Mapping[str, Adapter]) -> Iterator[None]:
    """Attach adapters to a base for a while."""
    for key, each in adapters.items():
        base.attach(key, each)
    try:
        yield
    finally:
        for key in adapters:
            base.detach(key)


def named_experts(experts: list[Adapter]) -> dict[str, Tensor]:
    """Return the tensors of all experts by a name each."""
    named = (
        {f"expert-{number}.{key}": each for key, each in adapter_weights(expert).items()}
        for number, expert in enumerate(experts)
    )
    return dict(chain.from_iterable(each.items() for each in named))


def expert_of(base: Base, judge: Expert, adapter: Adapter, name: str) -> Expert:
    """Return one of the experts inside, with the card of the judge they make together."""
    payload = adapter_payload(base, with_tensors(adapter, lambda each: each.detach().to("cpu", copy=True)))
    card = replace(judge.card, name=name, kind="ffn", trained_parameters=payload.parameters, constants={}, warnings=())
    return Expert(card, payload)


def fresh_gates(
    base: Base, expert: Adapter, options: DesignOptions, *, count: int, seed: int
) -> dict[str, SoftmaxGate]:
    """Return a gate for each feed-forward block, on the base's device."""
    found = {}
    for path in expert:
        draw = generator(seed, "gate", path)
        gate = softmax_gate(count, base.sites[path].shape[0], top_k=options.top_k, generator=draw)
        found[path] = SoftmaxGate(gate.weight.detach().to(base.device).requires_grad_(), options.top_k)
    return found


def penalty_of(options: DesignOptions) -> Penalty | None:
    """Return the weighted balance and mutual-information losses, the mean over the mixture's layers."""
    if not options.balance and not options.information:
        return None

    def penalty(trace: OpenTrace, domains: Int[Tensor, " pair"]) -> Float[Tensor, ""]:
        losses = []
        for path, probabilities in trace.probabilities.items():
            own = domains.repeat_interleave(2).to(probabilities.device)[:, None].expand(probabilities.shape[:-1])
            loss = options.balance * balance_loss(probabilities, trace.said[path][1], read=trace.read)
            if options.information:
                loss = loss + options.information * mutual_information_loss(probabilities, own, read=trace.read)
            losses.append(loss)
        return torch.stack(losses).mean()

    return penalty


def open_more(
    base: Base, record: RewardRecord, tensors: Mapping[str, Tensor], experts: list[Expert]
) -> tuple[MixtureJudges, Standards]:
    """Return the judge with its experts attached; raises CorruptExpert when its gates do not fit."""
    judge, *inside = experts
    top_k = int(record.constants["top_k"])
    gates = {
        key.removeprefix("gate."): SoftmaxGate(each.to(base.device), top_k)
        for key, each in tensors.items()
        if key.startswith("gate.")
    }
    for path, gate in gates.items():
        if path not in base.sites or gate.weight.shape != (len(inside), base.sites[path].shape[0]):
            raise CorruptExpert(
                f"router {record.router!r}: the gate at {path!r} has shape {tuple(gate.weight.shape)}, the reward "
                f"model has {len(inside)} experts. Fit it again."
            )
    keys = [attach_expert(base, each) for each in experts]
    sizes = judge.card.trained_parameters, inside[0].card.trained_parameters
    head: HeadWeights = head_on(judge, base)
    judges = MixtureJudges(
        base, keys[0], keys[1:], gates=gates, head=head, reading=common_reading([judge]), sizes=sizes
    )
    return judges, Standards.of([judge])
