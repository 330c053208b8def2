"""What a library keeps of a learner: members as experts, everything else as a fitted router, a record that names both.

The tensors hold what a method knows beside its adapters and a memory of every task, as token ids: with them a task can
be added later.
"""

import datetime
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.cards import ExpertCard, content_hash
from collegium.core.errors import CorruptExpert, LibraryError
from collegium.experts import AdapterPayload, Expert, adapter_payload
from collegium.library import Library
from collegium.models import Adapter, Base, HeadWeights
from collegium.rewards.texts import TextBatch
from collegium.tasks.continual.config import ContinualConfig
from collegium.tasks.continual.knowledge import Knowledge
from collegium.tasks.continual.scene import Scene, remembered
from collegium.tasks.continual.stream import Stage

KIND = "continual"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Memory:
    """Remembered texts: as many of each class of each task. tasks: the number of each one's task."""

    texts: TextBatch
    tasks: Int[Tensor, " text"]
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Learner:
    """A learner as a library keeps it.

    tasks: in the order in which they were learnt. labels: of each. scales, shifts: of their heads.
    members: adapter -> the expert that it is kept as; none while it is not kept.
    """

    method: str
    config: ContinualConfig
    rate: float
    tasks: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    knowledge: Knowledge
    memory: Memory
    scales: tuple[float, ...]
    shifts: tuple[float, ...]
    members: Mapping[str, str] = field(default_factory=dict)


def learner_of(scene: Scene, stage: Stage, *, method: str) -> Learner:
    """Return what is to be kept of a learner after some tasks."""
    rows = remembered(scene, stage.seen)
    number = {task: place for place, task in enumerate(stage.seen)}
    memory = Memory(
        scene.pool.texts.take(rows) if len(rows) else scene.pool.texts.take(torch.arange(1)),
        torch.tensor([number[task] for task in scene.pool.tasks[rows].tolist()], dtype=torch.long),
        tuple(scene.pool.labels_of(rows)),
    )
    lessons = [scene.lessons[task] for task in stage.seen]
    return Learner(
        method,
        scene.config,
        scene.rate,
        tuple(each.name for each in lessons),
        tuple(each.labels for each in lessons),
        stage.knowledge,
        memory,
        stage.composition.scales,
        stage.composition.shifts,
    )


def keep_learner(
    library: Library, base: Base, learner: Learner, name: str, *, documents: Mapping[str, Sequence[str]]
) -> None:
    """Keep a learner in a library under a name; members that are there already, the same ones, are left alone.

    documents: task -> the hashes of all rows that were learnt from. One that has changed comes under a further name,
    and the earlier one leaves when the record names the new: a process that is killed leaves one learner or the other.
    """
    earlier = set(library.load_model(name)["members"]) if name in library.model_names() else set()
    members, digests = {}, {}
    for adapter in learner.knowledge.adapters:
        expert = _member(base, learner, adapter, f"{name}-{adapter}", documents=documents)
        member = _place(library, expert)
        if member not in library:
            library.add(expert.renamed(member))
        members[adapter], digests[member] = member, library[member].digest
    extra = {f"extra.{key}": each for key, each in learner.knowledge.extra.items()}
    heads = {
        f"head.{task}.{key}": each
        for task, head in learner.knowledge.heads.items()
        for key, each in head.tensors.items()
    }
    memory = {
        "memory.tokens": learner.memory.texts.tokens,
        "memory.lengths": learner.memory.texts.lengths,
        "memory.tasks": learner.memory.tasks,
    }
    routing = f"{name}-routing"
    tensors = {key: each.detach().cpu().contiguous() for key, each in (extra | heads | memory).items()}
    card = {"kind": KIND, "base": base.fingerprint.short, "members": digests, "labels": list(learner.memory.labels)}
    library.save_router(routing, tensors, card)
    library.save_model(
        name,
        {
            "version": VERSION,
            "kind": KIND,
            "method": learner.method,
            "config": learner.config.recipe(),
            "rate": learner.rate,
            "tasks": list(learner.tasks),
            "labels": [list(each) for each in learner.labels],
            "members": list(members.values()),
            "adapters": members,
            "router": routing,
            "scales": list(learner.scales),
            "shifts": list(learner.shifts),
        },
    )
    for left in earlier - set(members.values()):
        library.remove(left, keep_descendants=True)


def _place(library: Library, expert: Expert) -> str:
    """Return the name under which an expert is, or may come to lie: its own, or that with a number."""
    for number in itertools.count(1):
        name = expert.name if number == 1 else f"{expert.name}-{number}"
        if name not in library or library[name].digest == expert.digest:
            return name
    raise AssertionError("there is always a further number")


def open_learner(library: Library, name: str) -> Learner:
    """Return a kept learner; raises UnknownName, or LibraryError for another thing, or one whose parts do not fit."""
    raw = library.load_model(name)
    if raw.get("kind") != KIND:
        raise LibraryError(f"{name!r} has learnt no stream of tasks, but is a thing of kind {raw.get('kind')!r}.")
    if raw.get("version") != VERSION:
        raise LibraryError(f"{name!r} has version {raw.get('version')!r}, this Collegium reads {VERSION}; update it.")
    try:
        tensors, card = library.load_router(raw["router"])
        _check_parts(library, name, raw, card)
        adapters = {adapter: _adapter(library, member) for adapter, member in raw["adapters"].items()}
        heads = {task: HeadWeights(tensors[f"head.{task}.weight"], tensors.get(f"head.{task}.bias")) for task in
                 raw["tasks"]}  # fmt: skip
        extra = {key.removeprefix("extra."): each for key, each in tensors.items() if key.startswith("extra.")}
        lengths = tensors["memory.lengths"].long()
        memory = Memory(
            TextBatch(tensors["memory.tokens"].long(), lengths, lengths),
            tensors["memory.tasks"].long(),
            tuple(map(str, card["labels"])),
        )
        return Learner(
            str(raw["method"]),
            _config(raw["config"]),
            float(raw["rate"]),
            tuple(map(str, raw["tasks"])),
            tuple(tuple(map(str, each)) for each in raw["labels"]),
            Knowledge(adapters, heads, extra),
            memory,
            tuple(map(float, raw["scales"])),
            tuple(map(float, raw["shifts"])),
            {str(adapter): str(member) for adapter, member in raw["adapters"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LibraryError(f"what was learnt as {name!r} is damaged ({error!r}). Run it again.") from error


def _check_parts(library: Library, name: str, raw: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Raise LibraryError for a memory of another library's learner, or members that are gone or others by now."""
    if card.get("kind") != KIND or card.get("base") != library.base_fingerprint.short:
        raise LibraryError(
            f"the memory of {name!r} is of another base or of another thing ({card.get('kind')!r}, base "
            f"{card.get('base')!r}; this library is for {library.base_fingerprint.short}). Run it again."
        )
    for member, digest in card["members"].items():
        if member not in library or library[member].digest != digest:
            raise LibraryError(
                f"{name!r} was learnt with the member {member!r}, which is gone or another by now; its routers say "
                f"nothing of the one that is here. Run it again, or take it away: `collegium library remove {name}`."
            )
    if not set(raw["members"]) == set(raw["adapters"].values()) == set(card["members"]):
        raise LibraryError(f"the memory of {name!r} is another learner's: it knows {sorted(card['members'])}.")


def _adapter(library: Library, member: str) -> Adapter:
    payload = library[member].payload
    if not isinstance(payload, AdapterPayload):
        raise CorruptExpert(f"{member!r} is no small change of a base.")
    return payload.adapter


def _config(raw: Mapping[str, Any]) -> ContinualConfig:
    known = {each.name for each in fields(ContinualConfig)}
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in raw.items() if key in known
    }
    return ContinualConfig(**values)


def _member(base: Base, learner: Learner, adapter: str, name: str, *, documents: Mapping[str, Sequence[str]]) -> Expert:
    """Return an adapter as an expert; a low-rank one with the heads of the tasks it was learnt with."""
    own = (adapter,) if adapter in learner.tasks else learner.tasks
    weights = learner.knowledge.adapters[adapter]
    head = HeadWeights(torch.cat([learner.knowledge.heads[task].weight for task in own]).contiguous())
    payload = adapter_payload(base, weights)
    if payload.kind == "lora":
        payload = adapter_payload(base, weights, head=head)
    recipe = {"method": f"continual {learner.method}", **learner.config.recipe(), "learning_rate": learner.rate}
    labels = {task: list(each) for task, each in zip(learner.tasks, learner.labels, strict=True) if task in own}
    card = ExpertCard(
        name=name,
        kind=payload.kind,
        task="classification",
        base=base.fingerprint,
        domain=adapter if adapter in learner.tasks else None,
        documents={"train": tuple(each for task in own for each in documents.get(task, ()))},
        trained_parameters=payload.parameters,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
        constants={"labels": labels, "text_tokens": learner.config.text_tokens},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return Expert(card, payload)
