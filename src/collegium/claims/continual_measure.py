"""What the experiment on streams measures: the numbers of L3 to L10 and of S1 to S4, and their table."""

from collections.abc import Mapping, Sequence
from typing import Any

from collegium.claims.continual_world import StreamSettings
from collegium.claims.experiment import PieceResult
from collegium.tasks.continual import stream_metrics
from collegium.tasks.continual.metrics import StreamMetrics

Done = Mapping[str, PieceResult]
Found = dict[str, float]


def measured(done: Done, *, settings: StreamSettings) -> Found:
    """Return the numbers of all claims, of one seed."""
    few, some, more, many = (done[f"memory.{count}"]["accuracy"] for count in settings.memories)
    single = done["stream.oracle"]["single"]
    learned = done["stream.l2r"]["held_out"]
    return {
        **differences(done),
        "memory_rises": more - few,
        "memory_rises_first": some - few,
        "memory_saturates": many - more,
        "softmax_gap_nested": gate_gap(done, "overlap"),
        "softmax_gap_nested_minus_apart": gate_gap(done, "overlap") - gate_gap(done, "apart"),
        "sequential_minus_olora_forgetting": of(done, "sequential").forgetting - of(done, "olora").forgetting,
        "olora_minus_l2r_forgetting": of(done, "olora").forgetting - of(done, "l2r").forgetting,
        "held_out_learned_minus_single": learned - max(single),
        "held_out_single_minus_uniform": max(single) - done["stream.uniform"]["held_out"],
        "shared_minus_reselected": of(done, "sapt-real").average_accuracy - done["stream.sapt-real"]["apart"][0],
        "drift_without_reflection": done["stream.sapt-none"]["drift"] - done["stream.sapt-real"]["drift"],
        **attention_map(done["stream.sapt-real"]["routing"], settings.families),
    }


def of(done: Done, name: str) -> StreamMetrics:
    """Return a method's metrics."""
    return stream_metrics(tuple(tuple(row) for row in done[f"stream.{name}"]["matrix"]))


def differences(done: Done) -> Found:
    """Return differences in average accuracy."""
    pairs = (
        ("l2r", "centroid"),
        ("centroid", "uniform"),
        ("l2r", "l2r-merge"),
        ("l2r", "l2r-softmax"),
        ("oracle", "l2r"),
        ("l2r", "l2r-active"),
        ("olora", "sequential"),
        ("l2r", "olora"),
        ("sapt-real", "sapt-none"),
        ("sapt", "sapt-real"),
    )
    return {
        f"{one}_minus_{other}".replace("-", "_"): of(done, one).average_accuracy - of(done, other).average_accuracy
        for one, other in pairs
    }


def gate_gap(done: Done, stream: str) -> float:
    """Return how much better sigmoid gates are than softmax gates on another stream."""
    return done[f"{stream}.l2r"]["accuracy"] - done[f"{stream}.l2r-softmax"]["accuracy"]


def attention_map(routing: Mapping[str, Mapping[str, float]], families: Sequence[int]) -> Found:
    """Return S4's numbers: attention on a task's own adapter less the others', and on related ones less unrelated."""
    family = {f"task{number + 1}": each for number, each in enumerate(families)}
    own = [row[task] for task, row in routing.items()]
    others = [value for task, row in routing.items() for name, value in row.items() if name != task]
    kin = [v for t, row in routing.items() for n, v in row.items() if n != t and family[n] == family[t]]
    strange = [v for t, row in routing.items() for n, v in row.items() if family[n] != family[t]]
    return {
        "attention_own_minus_others": sum(own) / len(own) - sum(others) / len(others),
        "attention_kin_minus_strange": sum(kin) / len(kin) - sum(strange) / len(strange),
    }


def rows(done: Done) -> list[dict[str, Any]]:
    """Return a row a method: accuracy at the end, forgetting, transfer, and on the task that nobody learnt."""
    found = []
    for piece, said in done.items():
        if piece.startswith("stream."):
            name = piece.removeprefix("stream.")
            metrics = of(done, name)
            found.append(
                {
                    "method": name,
                    "average accuracy": metrics.average_accuracy,
                    "forgetting": metrics.forgetting,
                    "backward transfer": metrics.backward_transfer,
                    "held-out task": said["held_out"],
                }
            )
    return found
