"""What is asked of both sides, in turns, and what becomes of their answers."""

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from as_mix import evaluate_mix, open_mix
from side import Answer, Side
from texts import Prepared

from collegium.core.protocols import Tokenizer

PEER, OURS = "PEFT and scikit-learn", "Collegium"
CONTESTANTS = {"PEFT": (PEER, None), "mix posterior": (OURS, open_mix), "ensemble posterior": (OURS, "open")}
"""Whose speed is measured: the side that it is, and what composes it."""
ADAPTERS = {PEER: "peft", OURS: "library/experts"}
"""Where a side keeps its adapters."""


@dataclass(frozen=True)
class Contest:
    """Both sides, with all that they have answered so far, by side and phase."""

    sides: Mapping[str, Side]
    texts: Prepared
    work: Path
    say: Callable[[str], None]
    answers: dict[str, dict[str, list[Answer]]] = field(default_factory=dict)

    @property
    def domains(self) -> list[str]:
        """The domains' names."""
        return list(self.texts.train_documents)

    def ask(self, side: str, phase: str, what: str | Callable[..., object], *arguments: object) -> Answer:
        """Return a side's answer, and keep how long it took under the name of a phase."""
        self.say(f"{side}: {phase}")
        answer = self.sides[side].ask(what, *arguments)
        self.answers.setdefault(side, {}).setdefault(phase, []).append(answer)
        return answer

    def in_turns(self, phase: str, what: str, *arguments: object) -> dict[str, Answer]:
        """Return the answers of both sides to the same question; the one that begins is the other one next time."""
        turn = len(self.answers.get(PEER, {}).get(phase, ()))
        return {side: self.ask(side, phase, what, *arguments) for side in sorted(self.sides, reverse=turn % 2 == 1)}

    def adapter(self, side: str, domain: str) -> Path:
        """Return the folder in which a side keeps a domain's adapter."""
        return self.work / ADAPTERS[side] / domain


def measure(contest: Contest, tokenizer: Tokenizer, *, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Return everything that is measured, in the order in which it is done."""
    for domain in contest.domains:
        contest.in_turns("train", "train", domain)
    contest.in_turns("open", "open")
    contest.ask(PEER, "fit the router", "fit_router")
    scores = {side: answer.value for side, answer in contest.in_turns("evaluate", "evaluate", held(contest)).items()}
    check_tokens(scores)
    mixed = contest.ask(OURS, "evaluate the mix", evaluate_mix, held(contest)).value
    speed = speeds(contest, tokenizer, new_tokens=new_tokens, repeats=repeats)
    contest.sides[OURS].ask("open")
    changed = changes(contest, contest.domains[-1])
    return {
        "tokens": scores[OURS]["tokens"],
        "base_apart": base_apart(scores),
        "quality": quality(scores[PEER], scores[OURS], mixed, adopted(contest)),
        "seconds": {side: seconds(contest, side) for side in contest.sides},
        "memory_mb": {side: memory(contest, side) for side in contest.sides},
        "speed": speed,
        "changes": changed,
    }


def held(contest: Contest) -> Path:
    """Return the folder of held-out texts."""
    return contest.texts.held_out


def check_tokens(scores: Mapping[str, Any]) -> None:
    """End when the sides did not score equally many tokens of each domain."""
    if scores[PEER]["tokens"] != scores[OURS]["tokens"]:
        raise SystemExit(f"not the same tokens: {scores[PEER]['tokens']} and {scores[OURS]['tokens']}.")


def base_apart(scores: Mapping[str, Any]) -> float:
    """Return by how much the two sides' perplexities of the same base differ at most, as a share."""
    theirs, ours = scores[PEER]["base"], scores[OURS]["base"]
    return max(abs(theirs[domain] / ours[domain] - 1) for domain in ours)


def quality(peer: Any, ours: Any, mixed: Any, theirs: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - plain values
    """Return the rows of perplexities: the base, the peer, ours, ours of the peer's adapters, the oracles."""
    rows = {
        "base": (ours["base"], None),
        "PEFT adapters, scikit-learn router": (peer["routed"], peer["accuracy"]),
        "Collegium, mix posterior": (mixed["composed"], mixed["accuracy"]),
        "Collegium, ensemble posterior": (ours["composed"], ours["routing"]["accuracy"]),
        "PEFT adapters in Collegium, ensemble posterior": (theirs["composed"], theirs["routing"]["accuracy"]),
        "oracle: the best PEFT adapter of each domain": (theirs["oracle"], None),
        "oracle: the best Collegium expert of each domain": (ours["oracle"], None),
    }
    return [{"name": name, "perplexity": each, "accuracy": accuracy} for name, (each, accuracy) in rows.items()]


def speeds(contest: Contest, tokenizer: Tokenizer, *, new_tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Return milliseconds a token of every contestant at every shape; contestants take turns."""
    windows, prompts = [list(each) for each in contest.texts.windows], list(contest.texts.prompts)
    shapes = {
        f"read {len(windows)} texts of different domains": ("score", windows),
        "read one text": ("score", windows[:1]),
        f"continue {len(prompts)} prompts of different domains": ("generate", prompts, new_tokens),
        "continue one prompt": ("generate", prompts[:1], new_tokens),
    }
    rows = []
    for shape, (what, given, *rest) in shapes.items():
        found: dict[str, list[Answer]] = {name: [] for name in CONTESTANTS}
        for _ in range(1 + repeats):
            for name, (side, opening) in CONTESTANTS.items():
                if opening is not None:
                    contest.sides[side].ask(opening)
                found[name].append(contest.ask(side, "serve", what, given, *rest))
        for name, answers in found.items():
            read = given if what == "score" else [tokenizer.encode(text) for text in answers[-1].value]
            rows.append({"shape": shape, "contestant": name, **per_token(answers[1:], sum(map(len, read)))})
    return rows


def per_token(answers: Sequence[Answer], tokens: int) -> dict[str, float]:
    """Return the least and the median milliseconds a token."""
    each = [1e3 * answer.seconds / tokens for answer in answers]
    return {"tokens": tokens, "min_ms": min(each), "median_ms": statistics.median(each)}


def changes(contest: Contest, domain: str) -> dict[str, dict[str, float]]:
    """Return what it takes a side to drop a domain and to take it in again, and the largest change left behind."""
    found, windows = {}, [list(each) for each in contest.texts.windows]
    for side in contest.sides:
        before = contest.sides[side].ask("score", windows).value
        aside = contest.work / "aside" / side.split()[0] / domain
        shutil.copytree(contest.adapter(side, domain), aside)
        removed = contest.ask(side, "remove", "remove", domain)
        added = contest.ask(side, "add", "add", domain, aside)
        after = contest.sides[side].ask("score", windows).value
        found[side] = {
            "remove_seconds": removed.seconds,
            "add_seconds": added.seconds,
            "largest_change_nats": max(abs(one - other) for one, other in zip(before, after, strict=True)),
        }
    return found


def adopted(contest: Contest) -> Any:  # noqa: ANN401 - plain values
    """Return what Collegium makes of the peer's adapters: they take the place of its own, then it is evaluated."""
    for domain in contest.domains:
        contest.ask(OURS, "adopt", "remove", domain)
        contest.ask(OURS, "adopt", "add", domain, contest.adapter(PEER, domain))
    return contest.ask(OURS, "evaluate PEFT's adapters", "evaluate", held(contest)).value


def seconds(contest: Contest, side: str) -> dict[str, float]:
    """Return how long a side took for each phase in all; `start` is its imports and opening."""
    phases = {phase: sum(each.seconds for each in answers) for phase, answers in contest.answers[side].items()}
    return {"start": contest.sides[side].opened.seconds, **phases}


def memory(contest: Contest, side: str) -> dict[str, float]:
    """Return the most memory a side's process held in each phase, in MB."""
    phases = {phase: max(each.peak_bytes for each in answers) for phase, answers in contest.answers[side].items()}
    return {phase: round(most / 1e6) for phase, most in phases.items()}
