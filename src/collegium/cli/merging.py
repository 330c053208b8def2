"""`library merge`: one expert made of several."""

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes.merging.run import MergeConfig, run


def run_merge(config: MergeConfig, screen: Screen) -> Outcome:
    """Return what was made of what, and what it lost; its rows are layers."""
    found = run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    rows = [{"layer": path, "relative_error": error} for path, error in found["error_by_layer"].items()]
    if found["error_by_rank"]:
        steps = found["error_by_rank"].items()
        screen.table(("rank", "relative error"), [[rank, f"{error:.4f}"] for rank, error in steps])
    if found["weights"]:
        cells = [[text, f"{weight:.3f}"] for text, weight in found["weights"].items()]
        screen.table(("merged", "weight"), cells)
    if "search" in found:
        search = found["search"]
        screen.say(
            f"{search['nats_per_token']:.4f} nats a token on the data, the base {search['base_nats_per_token']:.4f}, "
            f"after {search['evaluations']} blends"
        )
    name, rank = found.get("added") or found["would_add"], found["rank"]
    size = f"{found['kind']}" + (f" of rank {rank}, relative error {found['relative_error']:.4f}" if rank else "")
    screen.say(f"{'added' if 'added' in found else 'would add'} {name} ({size}) to {found['library']}")
    return Outcome(found, rows)


MERGE = Command(MergeConfig, run_merge, memory_flag="--window")
