"""Moving a policy to a target by a row of the table: one loop for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from collegium.align.config import AlignConfig
from collegium.align.draws import Prompt
from collegium.align.lesson import Lesson
from collegium.align.methods import METHODS
from collegium.align.policy import Policy
from collegium.align.proximal import Proximal
from collegium.align.target import Solved
from collegium.core.errors import ConfigError
from collegium.core.protocols import LanguageModel
from collegium.ops.divergences import DIVERGENCES
from collegium.train import Checkpoints, History, Logger, NullLogger, fit


@dataclass(frozen=True)
class Moved:
    """What moving a policy went through.

    seen: by update, what was told of its texts. log_z: the last estimate of ln Z. beta: the last one.
    """

    history: History
    seen: Mapping[int, Mapping[str, float]] = field(repr=False)
    log_z: float
    beta: float


def align(
    policy: Policy,
    solved: Solved,
    prompts: Sequence[Prompt],
    *,
    config: AlignConfig = AlignConfig(),  # noqa: B008 - frozen
    ends: frozenset[int] | None = None,
    proposal: LanguageModel | None = None,
    checkpoints: Checkpoints | None = None,
    logger: Logger | None = None,
    until: int | None = None,
) -> Moved:
    """Move a policy to a target, in place.

    prompts: what texts go on from. ends: token ids that end a text; default = what the policy's tokenizer says.
    proposal: who proposes texts until the policy is closer to the target than that is; for `gdc` and `gdc++`.
    until:   pause after so many updates.

    Raises ConfigError for a method that is not defined for this target, TargetError when nothing is being learnt.
    """
    check_method(config.method, solved, proposal=proposal is not None)
    sink, told = logger or NullLogger(), dict[int, Mapping[str, float]]()

    def tell(step: int, values: Mapping[str, float]) -> None:
        told[step] = values
        sink.log(step, values)

    if config.method == "ppo":
        lesson: Lesson | Proximal = Proximal(policy, solved, prompts, config=config, ends=ends, told=tell)
    else:
        lesson = Lesson(policy, solved, prompts, config=config, ends=ends, proposal=proposal, told=tell)
    try:
        done = fit(
            lesson.weights,
            lesson.loss,
            config=config.loop(policy.usual_rate),
            checkpoints=checkpoints,
            logger=logger,
            until=until,
            companion=lesson,
        )
    finally:
        lesson.close()
    return Moved(done.history, told, lesson.log_z, lesson.beta)


def check_method(name: str, solved: Solved, *, proposal: bool = False) -> None:
    """Raise ConfigError where a method's divergence is infinite for this target, or it takes no proposal of others."""
    method = METHODS[name]
    if proposal and method.proposal != "adaptive":
        able = ", ".join(each for each, row in METHODS.items() if row.proposal == "adaptive")
        raise ConfigError(f"{name} learns from the policy's own texts; a proposal is for {able}.")
    if not method.bounded and solved.target.constraints:
        formula = DIVERGENCES[method.reward].formula
        kept = ", ".join(each.feature.name for each in solved.target.constraints)
        raise ConfigError(
            f"{name} goes down {formula}, which is infinite as long as the policy gives any probability to texts that "
            f"the constraint on {kept} forbids, and it does. Use gdc++, or f-DPG by forward_kl, total_variation or "
            "jensen_shannon; or ask for a moment in place of the constraint."
        )
