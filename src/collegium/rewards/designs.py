"""The designs: how each is fitted into a library, and opened from it.

joint   one judge of all domains                                             the baseline
multi   one adapter, an output a domain, weighed by a gate on the prompt     ArmoRM's head [wang2024armorm]
more    a judge of all domains with a sparse mixture of experts inside        [namgoong2024rewards]; see `more`
rodos   a whole model a domain, one chosen by an external router             [namgoong2024rewards]
arliss  an adapter a domain on one loaded base, one chosen by an adapter     [namgoong2024rewards]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from collegium.compose import attach_expert, check_base
from collegium.core.errors import LibraryError, StaleRouter
from collegium.data.preferences import PairCorpus, PairDomain
from collegium.experts import Expert
from collegium.experts.whole import open_whole
from collegium.library import Library
from collegium.models import Base, load_base
from collegium.rewards.config import RewardConfig
from collegium.rewards.fit import fit_judge, fit_whole_judge
from collegium.rewards.gate import GateMixer, fit_gate
from collegium.rewards.judges import AdapterJudges, Judges, Standards, WholeJudges, common_reading, head_on
from collegium.rewards.making import DesignOptions, Making, check_two
from collegium.rewards.model import RewardModel
from collegium.rewards.more import check_more, fit_more, open_more
from collegium.rewards.records import Design, RewardRecord
from collegium.rewards.router_fit import PromptMemory, fit_adapter_router
from collegium.rewards.routers import AdapterRouter, Features, PromptClassifier, PromptRouter, fit_classifier

ENCODER = "minilm-l6"
"""Whose embeddings a router on embeddings reads."""

Opened = tuple[Judges, Standards, PromptRouter | None, GateMixer | None]


@dataclass(frozen=True)
class DesignRow:
    """A design: how it is made and opened, where it comes from, whether domains come and go alone.

    check: raises ConfigError for domains and options it cannot be made of. alone: whether a member judges by itself.
    """

    fit: Callable[[Making], RewardRecord]
    open: Callable[[Base, Library, RewardRecord, str], Opened]
    check: Callable[[PairCorpus, DesignOptions], None]
    paper: str | None
    grows: bool
    alone: bool = True


def fit_joint(making: Making) -> RewardRecord:
    """Fit one judge on the pairs of all domains together."""
    domains, size = tuple(making.corpus), making.options.size
    config = joint_settings(making.config, size, len(domains))
    kept = replace(making, config=config)
    fit = fit_whole_judge if size == "whole" else fit_judge
    expert = kept.keep(
        "joint",
        kept.steps(domains, "whole" if size == "whole" else "adapter"),
        lambda name, folder, logger: fit(
            making.base, domains, config=config, name=name, checkpoint=folder, logger=logger
        ),
        domains=domains,
        kind="whole" if size == "whole" else "lora",
    )
    return RewardRecord("joint", making.corpus.names, (expert.name,), {"all": expert.name}, None, {"size": size})


def joint_settings(config: RewardConfig, size: str, domains: int) -> RewardConfig:
    """Return a joint judge's settings: of size `total` its adapter has the rank of all domains' adapters together."""
    return replace(config, rank=config.rank * domains) if size == "total" else config


def open_joint(base: Base, library: Library, record: RewardRecord, name: str) -> Opened:
    """Open the one judge."""
    expert = member(base, library, next(iter(record.judges.values())))
    return judges_of(base, {"all": expert}), Standards.of([expert]), None, None


def fit_multi(making: Making) -> RewardRecord:
    """Fit one adapter with an output a domain on each domain's own pairs, then the gate on all, the rest frozen."""
    check_two(making.corpus, "multi")
    domains = tuple(making.corpus)
    expert = making.keep(
        "heads",
        making.steps(domains, "adapter"),
        lambda name, folder, logger: fit_judge(
            making.base,
            domains,
            config=making.config,
            name=name,
            outputs=len(domains),
            checkpoint=folder,
            logger=logger,
        ),
        domains=domains,
    )
    judges = AdapterJudges(making.base, dict.fromkeys(making.corpus.names, expert))
    gate = fit_gate(judges, Standards.of([expert]), domains, config=making.config)
    router = making.routing
    making.library.save_router(
        router,
        {"weight": gate.weight, "bias": gate.bias},
        {"router": "reward gate", "version": 1, "experts": {expert.name: making.library.expert_digest(expert.name)}},
    )
    names = making.corpus.names
    return RewardRecord("multi", names, (expert.name,), dict.fromkeys(names, expert.name), router, {})


def open_multi(base: Base, library: Library, record: RewardRecord, name: str) -> Opened:
    """Open the adapter with its outputs and the gate."""
    expert = member(base, library, record.members[0])
    judges = AdapterJudges(base, dict.fromkeys(record.domains, expert))
    tensors = routing_of(library, record, name)[0]
    gate = GateMixer(judges, tensors["weight"].to(base.device), tensors["bias"].to(base.device))
    return judges, Standards.of([expert]), None, gate


def fit_arliss(making: Making) -> RewardRecord:
    """Fit an adapter with a head for each domain alone, then the router's adapter on the prompts of all."""
    check_two(making.corpus, "arliss")
    judges = {each.name: fit_one(making, each).name for each in making.corpus}
    memory = making.memory(tuple(making.corpus))
    return with_adapter_router(making, judges, memory)


def fit_one(making: Making, domain: PairDomain) -> Expert:
    """Return one domain's adapter with a head."""
    return making.keep(
        domain.name,
        making.steps([domain], "adapter"),
        lambda name, folder, logger: fit_judge(
            making.base, [domain], config=making.config, name=name, checkpoint=folder, logger=logger
        ),
        domains=[domain],
    )


def fit_one_whole(making: Making, domain: PairDomain) -> Expert:
    """Return one domain's whole model."""
    return making.keep(
        domain.name,
        making.steps([domain], "whole"),
        lambda name, folder, logger: fit_whole_judge(
            making.base, [domain], config=making.config, name=name, checkpoint=folder, logger=logger
        ),
        domains=[domain],
        kind="whole",
    )


def with_adapter_router(making: Making, judges: Mapping[str, str], memory: PromptMemory) -> RewardRecord:
    """Return the record of these judges with a router's adapter fitted on a memory."""
    expert = making.keep(
        making.router,
        making.config.loop(sum(len(each) for each in memory.train.values()) // 2, kind="adapter").steps,
        lambda name, folder, logger: fit_adapter_router(
            making.base, memory, config=making.config, name=name, checkpoint=folder, logger=logger
        ),
        domains=memory.domains,
    )
    router = making.routing
    making.library.save_router(router, memory.to_tensors(), memory_card(making.library, judges, memory))
    return RewardRecord(
        "arliss",
        memory.domains,
        (*judges.values(), expert.name),
        dict(judges),
        router,
        {"threshold": making.options.threshold, "router": expert.name, "generation": making.generation},
    )


def open_arliss(base: Base, library: Library, record: RewardRecord, name: str) -> Opened:
    """Open the judges' adapters and the router's on one base."""
    experts = {domain: member(base, library, record.judges[domain]) for domain in record.domains}
    routing_of(library, record, name)
    judges = AdapterJudges(base, experts)
    router = adapter_router(base, library, str(record.constants["router"]), record.domains)
    return judges, Standards.of(list(experts.values())), router, None


def adapter_router(base: Base, library: Library, name: str, domains: tuple[str, ...]) -> AdapterRouter:
    """Return a router's adapter, attached; raises StaleRouter when it tells other domains apart."""
    expert = member(base, library, name, task="classification")
    constants = expert.card.constants
    known = tuple(map(str, constants.get("domains", ())))
    if known != domains:
        raise StaleRouter(
            f"router {name!r} tells {', '.join(known) or 'nothing'} apart, the reward model has judges of "
            f"{', '.join(domains)}. Refresh it: `collegium reward grow`, or fit the reward model again."
        )
    return AdapterRouter(
        base,
        domains,
        attach_expert(base, expert),
        head_on(expert, base),
        common_reading([expert]),
        float(constants.get("temperature", 1.0)),
        expert.card.trained_parameters,
    )


def fit_rodos(making: Making) -> RewardRecord:
    """Fit a whole model for each domain alone, then the router on the prompts of all."""
    check_two(making.corpus, "rodos")
    judges = {each.name: fit_one_whole(making, each).name for each in making.corpus}
    return with_classifier(making, judges, making.memory(tuple(making.corpus)))


def with_classifier(making: Making, judges: Mapping[str, str], memory: PromptMemory) -> RewardRecord:
    """Return the record of these judges with a classifier of prompts fitted on a memory."""
    space = making.options.features
    other = load_base(ENCODER) if space == "embeddings" else None
    fitted = fit_classifier(Features(space, making.base, other), memory.train, memory.dev)
    tensors = {
        "weight": fitted.weight,
        "bias": fitted.bias,
        "temperature": torch.tensor(fitted.temperature, dtype=torch.float64),
        **{key: value for key in ("inverse", "shift", "scale") if (value := getattr(fitted.features, key)) is not None},
    }
    router = making.routing
    making.library.save_router(
        router, {**tensors, **memory.to_tensors()}, memory_card(making.library, judges, memory, features=space)
    )
    constants = {"threshold": making.options.threshold, "features": space, "generation": making.generation}
    return RewardRecord("rodos", memory.domains, tuple(judges.values()), dict(judges), router, constants)


def open_rodos(base: Base, library: Library, record: RewardRecord, name: str) -> Opened:
    """Open all whole models and the router."""
    experts = {domain: member(base, library, record.judges[domain]) for domain in record.domains}
    models = {domain: open_whole(expert, base) for domain, expert in experts.items()}
    judges = WholeJudges(base, models, common_reading(list(experts.values())))
    tensors, card = routing_of(library, record, name)
    space = card["features"]
    other = load_base(ENCODER) if space == "embeddings" else None
    features = Features(space, base, other, tensors.get("inverse"), tensors.get("shift"), tensors.get("scale"))
    router = PromptClassifier(
        record.domains, features, tensors["weight"], tensors["bias"], float(tensors["temperature"])
    )
    return judges, Standards.of(list(experts.values())), router, None


def open_mixture(base: Base, library: Library, record: RewardRecord, name: str) -> Opened:
    """Open the adapter, the experts inside and their gates."""
    tensors, _ = routing_of(library, record, name)
    judges, standards = open_more(base, record, tensors, [member(base, library, each) for each in record.members])
    return judges, standards, None, None


def judges_of(base: Base, experts: Mapping[str, Expert]) -> Judges:
    """Return judges of either kind: adapters on the base, or whole models."""
    if any(expert.card.kind == "whole" for expert in experts.values()):
        models = {name: open_whole(expert, base) for name, expert in experts.items()}
        return WholeJudges(base, models, common_reading(list(experts.values())))
    return AdapterJudges(base, experts)


def member(base: Base, library: Library, name: str, *, task: str = "reward") -> Expert:
    """Return a member that fits the base; raises LibraryError when it is for another task."""
    expert = library[name]
    check_base(expert.card, base)
    if expert.card.task != task:
        raise LibraryError(f"expert {name!r} is for {expert.card.task}, not for {task}; a reward model cannot use it.")
    return expert


def routing_of(library: Library, record: RewardRecord, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the card of a reward model's routing.

    Raises StaleRouter when it knows other domains, or another expert by a judge's name.
    """
    if record.router is None:
        raise LibraryError(f"reward model {name!r} has no router in its record, its design needs one. Fit it again.")
    tensors, card = library.load_router(record.router)
    known = card.get("domains")
    if known is not None and tuple(known) != record.domains:
        raise StaleRouter(
            f"reward model {name!r}: its router knows the domains {', '.join(map(str, known))}, its judges are of "
            f"{', '.join(record.domains)}. Refresh it with `collegium reward grow`, or fit the reward model again."
        )
    changed = [each for each, digest in card.get("experts", {}).items() if library.expert_digest(each) != digest]
    if changed:
        raise StaleRouter(
            f"reward model {name!r}: since its router was fitted, {', '.join(changed)} became another expert. Fit the "
            "reward model again."
        )
    return tensors, card


def memory_card(library: Library, judges: Mapping[str, str], memory: PromptMemory, **facts: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the card of a routing: whose prompts it remembers, and by which experts the domains are judged."""
    experts = {name: library.expert_digest(name) for name in judges.values()}
    return {"router": "reward prompts", "version": 1, "experts": experts, "domains": list(memory.domains), **facts}


def open_reward(base: Base, library: Library, name: str) -> RewardModel:
    """Return a reward model of a library, or one of its reward experts as a model by itself.

    Raises UnknownName, LibraryError for what is no reward model, StaleRouter when router and judges do not agree.
    """
    if name in library:
        expert = member(base, library, name)
        check_alone(library, name)
        return RewardModel(name, "single", judges_of(base, {name: expert}), Standards.of([expert]))
    record = RewardRecord.load(library, name)
    judges, standards, router, mixer = DESIGNS[record.design].open(base, library, record, name)
    threshold = float(record.constants.get("threshold", 0.0))
    return RewardModel(name, record.design, judges, standards, router, mixer, threshold)


def check_alone(library: Library, name: str) -> None:
    """Raise LibraryError for a part of a reward model whose parts judge together."""
    for model in library.model_names():
        record = library.load_model(model)
        row = DESIGNS.get(record.get("design", ""))
        if row is not None and not row.alone and name in record.get("members", ()):
            raise LibraryError(
                f"expert {name!r} is a part of reward model {model!r}, whose parts judge together: use LIB#{model}."
            )


def several(design: str) -> Callable[[PairCorpus, DesignOptions], None]:
    """Return the check of a design that needs two domains at least."""
    return lambda corpus, options: check_two(corpus, design)


DESIGNS: Mapping[Design, DesignRow] = {
    "joint": DesignRow(fit_joint, open_joint, lambda corpus, options: None, None, grows=False),
    "multi": DesignRow(fit_multi, open_multi, several("multi"), "wang2024armorm", grows=False, alone=False),
    "more": DesignRow(fit_more, open_mixture, check_more, "namgoong2024rewards", grows=False, alone=False),
    "rodos": DesignRow(fit_rodos, open_rodos, several("rodos"), "namgoong2024rewards", grows=True),
    "arliss": DesignRow(fit_arliss, open_arliss, several("arliss"), "namgoong2024rewards", grows=True),
}
