"""V15: seconds that one more task takes a learner of few tasks and of many: its own adapter, and the routers anew."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.timing import Timing, alternate
from collegium.data.synthetic_tasks import synthetic_tasks
from collegium.models import load_base
from collegium.tasks.continual import ContinualConfig, Knowledge, Scene, make_pool
from collegium.tasks.continual.alone import alone
from collegium.tasks.continual.routing import fit_router
from collegium.testing.pico import pico_base, random_adapter

_SIZES = (2, 8, 16, 32)
_FAMILIES = 4


@dataclass(frozen=True, eq=False)
class _Learner:
    """A learner before its last task: random adapters stand for what it has learnt."""

    scene: Scene
    knowledge: Knowledge

    @property
    def last(self) -> int:
        return len(self.scene.lessons) - 1

    def adapter(self) -> Knowledge:
        """Return the last task learnt alone, anew each time."""
        return alone(replace(self.scene, once={}), self.last)

    def routers(self) -> Knowledge:
        """Return all routers fitted anew over all tasks."""
        return fit_router(self.scene, tuple(range(self.last + 1)), self.knowledge, method="bench")


def learner(tasks: int, *, quick: bool) -> _Learner:
    """Return a learner that has so many tasks when its last one is learnt."""
    small = {"rank": 4, "router_steps": 4, "layers": "top:1"} if quick else {}
    config = ContinualConfig(
        train_rows=32 if quick else 128, test_rows=4, memory=2 if quick else 16, text_tokens=64, template=" :",
        rates=(1e-3,), **small,
    )  # fmt: skip
    base = pico_base() if quick else load_base("minilm-l6")
    stream = synthetic_tasks([number % _FAMILIES for number in range(tasks)], rows=100 if quick else 200)
    pool, lessons = make_pool(base, stream, config)
    scene = Scene(base, config, pool, lessons, config.rates[0])
    names = [lesson.name for lesson in lessons]
    layers = config.layers_of(len(base.blocks))
    adapters = {
        name: random_adapter(base, number, rank=config.rank, layers=layers, scale=0.05)
        for number, name in enumerate(names)
    }
    heads = {lesson.name: scene.new_head(number) for number, lesson in enumerate(lessons)}
    assert len(pool.queries)  # read now, before anything is timed
    return _Learner(scene, Knowledge(adapters, heads))


def _run(quick: bool, progress: Progress) -> Finding:
    rows, curves = [], {"own adapter": dict[int, Timing](), "routers": dict[int, Timing]()}
    for tasks in _SIZES:
        progress(f"V15: task {tasks}")
        own = learner(tasks, quick=quick)
        timings = alternate({"own adapter": own.adapter, "routers": own.routers}, repeats=1 if quick else 3)
        for name, timing in timings.items():
            curves[name][tasks] = timing
            rows.append({"contestant": name, "tasks": tasks, **timing.row()})
    first, last = _SIZES[0], _SIZES[-1]
    both = {tasks: sum(each[tasks].least for each in curves.values()) for tasks in _SIZES}
    ratios = {
        "own_adapter_growth": curves["own adapter"][last].least / curves["own adapter"][first].least,
        "routers_growth": curves["routers"][last].least / curves["routers"][first].least,
        "task_growth": both[last] / both[first],
    }
    grown = [point for name, timings in curves.items() for point in growth(name, "tasks", timings)]
    return Finding(
        rows,
        ratios,
        (Target("own_adapter_growth", "at most", 1.1), Target("task_growth", "at most", 2.0)),
        growth=grown,
        roles={"ours": "routers", "base": "own adapter"},
    )


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    return {"routers over 8 tasks": learner(8, quick=quick).routers}


V15 = Bench(
    "V15",
    "one more task for a learner of 2, 8, 16 and 32: its own adapter, and L2R's routers anew",
    "own adapter as long at the 32nd as at the 2nd; both together at most twice as long",
    _run,
    profiled=_profiled,
)
