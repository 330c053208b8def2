"""The report of tasks learnt together: before and after, what it costs, whose adapter each task's texts use."""

from collections.abc import Mapping, Sequence
from typing import Any

from collegium.recipes.report import Report, number_text, render, share_map
from collegium.tasks.multitask import METHODS

Table = tuple[str, str, Sequence[str], Sequence[Sequence[Any]]]

COMMONEST = "(commonest)"
"""What the row of floors is called."""

_FLOOR = f"{COMMONEST}: always the commonest answer, or a coin where rows differ in theirs."
_WEIGHTS = (
    "Each row is a task's test texts, each column an adapter, each cell the mean weight over tokens and layers, its "
    "task given, so that a row sums to one: near 1 on the diagonal a task uses its own adapter alone, in an even row "
    "the gates prefer none, and what lies off the diagonal is taken from other tasks."
)


def fit_page(found: Mapping[str, Any]) -> str:
    """Return the page of `multitask fit` as one HTML file."""
    judged = {"before": found["before"], "after": found["after"], "after, task told": found["routed"]}
    model = f"{found['library']}#{found['name']}"
    return render(
        Report(
            title=f"Tasks learnt together: {found['name']}",
            summary=f"One expert of {', '.join(found['tasks'])}, kept in {found['library']}.",
            facts=_gate_facts(found),
            charts=_maps(found),
            texts=[],
            tables=[
                *_task_tables(judged, found, said="Task told: the same weights, the task told from the prompt."),
                *_stage_tables(found),
            ],
            commands=[
                f"collegium generate '...' --model {model}",
                f"collegium multitask eval TASKS --model {model}",
            ],
        )
    )


def run_page(found: Mapping[str, Any]) -> str:
    """Return the page of `multitask run` as one HTML file."""
    judged = {f"{name}{_star(name)}": row for name, row in found["methods"].items()}
    costs = [(name, f"{row['parameters']:,}", f"{row['seconds']:.1f}") for name, row in judged.items()]
    return render(
        Report(
            title="Tasks learnt together",
            summary=f"{', '.join(found['methods'])} on {', '.join(found['tasks'])}.",
            facts=_gate_facts(found),
            charts=_maps(found),
            texts=[],
            tables=[
                *_task_tables(judged, found, said="Base: before anything is learnt. A star: is given each row's task."),
                ("What methods cost", _COSTS, ("method", "parameters", "seconds"), costs),
                *_stage_tables(found),
            ],
            commands=["collegium multitask fit TASKS --library LIB --as NAME"],
        )
    )


_COSTS = (
    "Parameters: the numbers each method stores beside the base, all of which it trains; the base stays as it is. "
    "Seconds of training; what methods share counts for each."
)


def accuracy_rows(
    judged: Mapping[str, Mapping[str, Any]], floor: Mapping[str, float | None]
) -> list[tuple[str, *tuple[float | None, ...]]]:
    """Return label, accuracy on each task and on average; the floor is the last row. None: answers do not compete."""
    rows = [(name, *each["accuracy"].values(), each["average_accuracy"]) for name, each in judged.items()]
    known = [each for each in floor.values() if each is not None]
    return [*rows, (COMMONEST, *floor.values(), sum(known) / len(known) if known else None)]


def _task_tables(judged: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any], *, said: str) -> list[Table]:
    accuracies = [
        (name, *(number_text(each) for each in values)) for name, *values in accuracy_rows(judged, found["floor"])
    ]
    perplexities = [
        (name, *(number_text(value) for value in each["perplexity"].values())) for name, each in judged.items()
    ]
    return [
        (
            "Accuracy by task",
            f"On test rows; a dash: answers do not compete. {said} {_FLOOR}",
            ("", *found["tasks"], "average"),
            accuracies,
        ),
        ("Perplexity by task", f"Of the right answers, a token. {said}", ("", *found["tasks"]), perplexities),
    ]


def _stage_tables(found: Mapping[str, Any]) -> list[Table]:
    if "stages" not in found:
        return []
    stages = found["stages"]
    first, second = stages["intra_parameters"], stages["inter_parameters"]
    rows = [
        ("1: each task's adapter, alone", f"{first:,}", f"{first:,}", f"{stages['intra_seconds']:.1f}"),
        ("2: gates, task vectors, router", f"{second:,}", f"{first + second:,}", f"{stages['inter_seconds']:.1f}"),
    ]
    note = (
        "In stage 2 the adapters are frozen, and the base is in both. What lies below the adapters was computed once "
        f"before, in {stages['reading_seconds']:.1f} s, which no stage counts."
    )
    return [("The two stages of alter", note, ("stage", "parameters trained", "stored after it", "seconds"), rows)]


def _maps(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if "weights" not in found:
        return []
    return [("Whose adapter each task's texts use", _WEIGHTS, share_map(found["weights"], title="mean weight"))]


def _gate_facts(found: Mapping[str, Any]) -> dict[str, str]:
    facts = {"Rows learnt from": ", ".join(f"{name} {count:,}" for name, count in found["rows"].items())}
    if "stages" in found:
        told = (f"{name} {100 * share:.0f} %" for name, share in found["routing_accuracy"].items())
        facts["Second stage"] = (
            f"{100 * found['stages']['inter_share_of_parameters']:.1f} % of the parameters, "
            f"{100 * found['stages']['inter_share_of_seconds']:.1f} % of the seconds"
        )
        facts["Told from the prompt"] = f"{', '.join(told)} of prompts are taken to be of their own task"
    return facts


def _star(name: str) -> str:
    return "*" if name in METHODS and METHODS[name].told else ""
