"""What the experiment on tasks learnt together measures: the numbers of A1 to A6 and of G1 to G3, and their table."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from collegium.claims.experiment import PieceResult
from collegium.claims.multitask_world import TaskSettings

Done = Mapping[str, PieceResult]
Found = dict[str, float]


def measured(done: Done, *, settings: TaskSettings) -> Found:
    """Return the numbers of all claims, of one seed; those of domains are means over the domains."""
    numbers = range(len(settings.domains))
    own = [of_domain(done[f"domain.{number}"], settings.domains[number], settings.rows) for number in numbers]
    return {**{name: fmean(each[name] for each in own) for name in own[0]}, **of_pool(done)}


def of_domain(found: PieceResult, families: Sequence[int], rows: Sequence[int]) -> Found:
    """Return the numbers of one domain: differences of accuracy (mean over its tasks), shares, and what gates say."""
    mean = {name: fmean(each["accuracy"]) for name, each in found.items()}
    alter, sizes = found["alter"], {name: each["parameters"] for name, each in found.items()}
    return {
        "alter_minus_one_stage": mean["alter"] - mean["one-stage"],
        "alter_minus_shared": mean["alter"] - mean["shared"],
        "alter_minus_base": mean["alter"] - mean["base"],
        "whole_minus_alter": mean["whole"] - mean["alter"],
        "stored_share": sizes["alter"] / sizes["whole"],
        "gate_share": alter["gate_parameters"] / sizes["alter"],
        "stage_2_seconds_share": alter["stage_seconds"][1] / sum(alter["stage_seconds"]),
        "scarce_gain_minus_others": scarce_gain(found, rows),
        **gate_map(alter["alpha"], families),
    }


def scarce_gain(found: PieceResult, rows: Sequence[int]) -> float:
    """Return what the second stage gives the task of fewest rows less what it gives the others, on average."""
    pairs = zip(found["alter"]["accuracy"], found["separate"]["accuracy"], strict=True)
    gains = [after - before for after, before in pairs]
    scarce = min(range(len(rows)), key=lambda task: rows[task])
    return gains[scarce] - fmean(gain for task, gain in enumerate(gains) if task != scarce)


def gate_map(alpha: Sequence[Sequence[float]], families: Sequence[int]) -> Found:
    """Return how much more weight a task's own adapter has than the largest other, and kin's than strangers'."""
    every = range(len(families))
    own = [alpha[task][task] - max(alpha[task][each] for each in every if each != task) for task in every]
    kin = [alpha[t][e] for t in every for e in every if e != t and families[e] == families[t]]
    strange = [alpha[t][e] for t in every for e in every if families[e] != families[t]]
    return {"alpha_own_minus_largest_other": fmean(own), "alpha_kin_minus_strange": fmean(kin) - fmean(strange)}


def of_pool(done: Done) -> Found:
    """Return the numbers of the pool."""
    mean = {name: fmean(done[f"pool.{name}"]["accuracy"]) for name in ("tamoe", "moe", "dense")}
    new = done["pool.tamoe"]
    return {
        "tamoe_minus_moe": mean["tamoe"] - mean["moe"],
        "moe_minus_dense": mean["moe"] - mean["dense"],
        "dense_harm_minus_tamoe_harm": harm(done, "dense") - harm(done, "tamoe"),
        "kin_route_minus_random": fmean(new["by_kin"]) - fmean(fmean(each) for each in new["by_random"]),
    }


def harm(done: Done, name: str) -> float:
    """Return how much accuracy a method loses on the other tasks by the unrelated one beside them."""
    before, after = done[f"without.{name}"]["accuracy"], done[f"pool.{name}"]["accuracy"]
    return fmean(before) - fmean(after[: len(before)])


def rows(done: Done) -> list[dict[str, Any]]:
    """Return a row for each method and set of tasks: accuracy of each task and on average, size and seconds."""
    found = []
    for piece, said in done.items():
        stage = piece.partition(".")[0]
        if stage == "domain":
            found += [_row(piece, name, each) for name, each in said.items()]
        elif stage != "rate":
            found.append(_row(stage, piece.partition(".")[2], said))
    return found


def _row(where: str, name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tasks": where,
        "method": name,
        "mean accuracy": fmean(said["accuracy"]),
        "least accuracy": min(said["accuracy"]),
        "parameters": said["parameters"],
        "seconds": said["seconds"],
    }
