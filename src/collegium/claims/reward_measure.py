"""What the experiments on reward models measure: the numbers of claims R1, R2, R3, R8, R9, R10, and their tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from collegium.claims.experiment import PieceResult
from collegium.claims.reward_setup import CONTINUED, GROWING, RewardSettings

Done = Mapping[str, PieceResult]
Found = dict[str, float]
_OF = {"arliss": "joint", "rodos": "joint-whole"}
"""The joint model of a routed one's kind."""


def measured(done: Done, *, settings: RewardSettings) -> Found:
    """Return the numbers of all claims that an experiment was made for, of one seed."""
    found = {**specialists(done), **against_joint(done)}
    if settings.partner is not None:
        found |= lightweight(done, partner=settings.partner)
    return {**found, **growth(done, settings)}


def mean(values: Mapping[str, float], names: Sequence[str] | None = None) -> float:
    """Return the mean over domains: all of them, or these.

    >>> mean({"a": 1.0, "b": 0.0}, ["a"])
    1.0
    """
    kept = list(values) if names is None else list(names)
    return sum(values[name] for name in kept) / len(kept)


def average(done: Done, name: str) -> float:
    """Return a model's mean accuracy over domains."""
    return mean(done[f"judge.{name}"]["accuracy"])


def specialists(done: Done) -> Found:
    """Return R1's numbers from the matrix of judges by domains."""
    found = {}
    for design in GROWING:
        matrix = done[f"judge.{design}"]["matrix"]
        own = {judge: row[judge] for judge, row in matrix.items()}
        others = {judge: {name: row[name] for name in row if name != judge} for judge, row in matrix.items()}
        found[f"{design}_own_minus_best_other"] = min(own[judge] - max(others[judge].values()) for judge in matrix)
        found[f"{design}_own_minus_others"] = mean(own) - mean({judge: mean(row) for judge, row in others.items()})
    return found


def against_joint(done: Done) -> Found:
    """Return R2's and R3's numbers."""
    pairs = (
        ("rodos", "arliss"),
        ("rodos", "joint-whole"),
        ("more", "joint-wide"),
        ("more", "joint"),
    )
    return {f"{one}_minus_{other.replace('-', '_')}": average(done, one) - average(done, other) for one, other in pairs}


def lightweight(done: Done, *, partner: str) -> Found:
    """Return R9's numbers: small MoRE and ARLISS against a whole joint model of the larger base."""
    joint = "larger-joint-whole" if partner == "larger" else "joint-whole"
    small = {name: name if partner == "larger" else f"smaller-{name}" for name in ("arliss", "more")}
    sizes = [done[f"judge.{name}"]["parameters_resident"] for name in small.values()]
    gaps = {f"{name}_minus_larger_joint": average(done, own) - average(done, joint) for name, own in small.items()}
    return {**gaps, "resident_ratio": done[f"judge.{joint}"]["parameters_resident"] / max(sizes)}


def growth(done: Done, settings: RewardSettings) -> Found:
    """Return R10's numbers: what the new domain cost, and what is known of old and new ones."""
    found: Found = {}
    for design in GROWING:
        joint, grown = _OF[design], done[f"grow.{design}"]
        retrained, after = done[f"judge.{joint}"]["accuracy"], done[f"judge.{design}"]["accuracy"]
        before, gone_on = done[f"found.{design}"]["accuracy"], done[f"continue.{joint}"]["accuracy"]
        old = mean(after, settings.old)
        found |= {
            f"{design}_texts_ratio": texts_read(grown) / (2 * done[f"fit.{joint}"]["pairs"]),
            f"{design}_seconds_ratio": grown["seconds"] / done[f"fit.{joint}"]["seconds"],
            f"{design}_old_change": old - mean(before, settings.old),
            f"{design}_old_minus_retrained": old - mean(retrained, settings.old),
            f"{design}_new_minus_retrained": after[settings.new] - retrained[settings.new],
            f"{design}_old_minus_continued": old - mean(gone_on, settings.old),
        }
    return found


def texts_read(grown: PieceResult) -> int:
    """Return how many texts an addition read: two answers a pair of the new judge, and the router's prompts."""
    return 2 * int(grown["pairs"]) + int(grown["prompts"])


def conflict(done: Done) -> Found:
    """Return R8's numbers: accuracies on the worse of two domains, and what routing gains there."""
    worst = {
        name: min(done[f"judge.{name}"]["accuracy"].values()) for name in ("joint", "joint-whole", "arliss", "rodos")
    }
    return {
        "rodos_minus_joint_whole_worst": worst["rodos"] - worst["joint-whole"],
        "arliss_minus_joint_worst": worst["arliss"] - worst["joint"],
        **{f"{name.replace('-', '_')}_worst": value for name, value in worst.items()},
    }


def rows(done: Done, *, settings: RewardSettings) -> list[dict[str, Any]]:
    """Return a row a model: accuracy by domain and their mean, numbers in memory and read with, seconds, pairs."""
    judged = [piece.removeprefix("judge.") for piece in done if piece.startswith("judge.")]
    found = [_floor(done, judged[0])]
    found += [_model(done, name) for name in judged]
    if settings.grows:
        found += [_judge(done, design, domain) for design in GROWING for domain in settings.domains]
        found += [_other(f"{name}, continued on {settings.new}", done[f"continue.{name}"]) for name in CONTINUED]
        found += [_other(f"{name}, before {settings.new}", done[f"found.{name}"]) for name in GROWING]
        found += [_grown(f"{name}, adding {settings.new}", done[f"grow.{name}"]) for name in GROWING]
    return found


def _floor(done: Done, name: str) -> dict[str, Any]:
    floor = done[f"judge.{name}"]["floor"]
    return {"model": "floor: words alone (tf-idf)", "accuracy": floor, "mean": mean(floor)}


def _model(done: Done, name: str) -> dict[str, Any]:
    judged = done[f"judge.{name}"]
    cost = done.get(f"fit.{name}")
    row = {
        "model": name,
        "accuracy": judged["accuracy"],
        "mean": mean(judged["accuracy"]),
        "floor": mean(judged["floor"]),
        "resident": judged["parameters_resident"],
        "active": judged["parameters_active"],
    }
    if judged["router_accuracy"] is not None:
        row["routed right"] = judged["router_accuracy"]
    if cost is None:
        members = [each for piece, each in done.items() if piece.startswith(f"member.{name}.")]
        cost = {key: sum(each[key] for each in (*members, done[f"grow.{name}"])) for key in ("seconds", "pairs")}
    return {**row, "seconds": cost["seconds"], "pairs": cost["pairs"]}


def _judge(done: Done, design: str, domain: str) -> dict[str, Any]:
    row = done[f"judge.{design}"]["matrix"][domain]
    return {"model": f"{design}'s judge of {domain}", "accuracy": row, "mean": mean(row)}


def _other(name: str, piece: PieceResult) -> dict[str, Any]:
    row = {"model": name, "accuracy": piece["accuracy"], "mean": mean(piece["accuracy"])}
    return {**row, "seconds": piece["seconds"]} if "seconds" in piece else row


def _grown(name: str, piece: PieceResult) -> dict[str, Any]:
    row = {"model": name, "seconds": piece["seconds"], "pairs": piece["pairs"], "prompts": piece["prompts"]}
    counts = [moved for moved in piece["moved"].values()]
    return {**row, "moved": sum(each["moved"] for each in counts) / sum(each["of"] for each in counts)}
