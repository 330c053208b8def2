"""`router fit / eval`: fit who speaks, and look at who does."""

from typing import Any

from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes import router_eval, router_fit
from collegium.recipes.router_eval import RouterEvalConfig
from collegium.recipes.router_fit import RouterFitConfig


def run_fit(config: RouterFitConfig, screen: Screen) -> Outcome:
    """Return who has a row in the fit."""
    found = router_fit.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    rows = [{"expert": name, **figures} for name, figures in found["experts"].items()]
    if any("held_out_nats" in row for row in rows):
        cells = [[row["expert"], row["held_out_nats_before"], row["held_out_nats"], row["steps"]] for row in rows]
        screen.table(("expert", "held-out nats before", "after", "steps"), cells)
    return Outcome(found, rows)


def run_eval(config: RouterEvalConfig, screen: Screen) -> Outcome:
    """Return who speaks on whose text, and how good that is."""
    found = router_eval.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    rows = [{"domain": domain, **weights} for domain, weights in found["weights"].items()]
    experts = list(next(iter(found["weights"].values())))
    cells = [[row["domain"], *(f"{row[name]:.3f}" for name in experts)] for row in rows]
    screen.table(("mean weight on", *experts), cells)
    screen.say(f"{found['way']}: {_quality(found['routing'])}")
    if found["places"]:
        show_places(found["places"], screen)
    return Outcome(found, rows)


def _quality(routing: dict[str, Any]) -> str:
    accuracy, regret, ece = (routing[key] for key in ("accuracy", "regret_nats_per_token", "ece"))
    parts = [
        None if accuracy is None else f"{100 * accuracy:.1f} % of windows end on their own expert",
        None if regret is None else f"{regret:.4f} nats a token behind the oracle",
        None if ece is None else f"calibration error {ece:.3f}",
    ]
    return ", ".join(part for part in parts if part) or "no domain has an expert of its name"


def show_places(places: dict[str, dict[str, float]], screen: Screen) -> None:
    """Show the layers that are surest, and least sure, of the domains' own experts."""
    means = {path: sum(each.values()) / len(each) for path, each in places.items() if each}
    order = sorted(means, key=lambda path: -means[path])
    if len(order) > 1:
        first, last = order[0], order[-1]
        screen.say(f"own expert's weight by place: most {means[first]:.3f} ({first}), least {means[last]:.3f} ({last})")


ROUTER = Group(
    "Fit routers and gates, and look at how they route.",
    {
        "fit": Command(RouterFitConfig, run_fit, memory_flag="--batch"),
        "eval": Command(RouterEvalConfig, run_eval, memory_flag="--window"),
    },
)
