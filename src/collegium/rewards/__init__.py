"""Reward models: joint, multi-objective and routed (MoRE, RODOS, ARLISS), on one small base."""

from collegium.rewards.config import RewardConfig
from collegium.rewards.designs import DESIGNS, open_reward
from collegium.rewards.evaluate import ROUTES, Seen, Verdict, judge_corpus
from collegium.rewards.fit import FittedJudge, fit_judge, fit_whole_judge
from collegium.rewards.growth import Growth, drop, grow, newcomers
from collegium.rewards.making import DesignOptions, Making
from collegium.rewards.model import RewardModel, Rewards
from collegium.rewards.preflight import lessons_of
from collegium.rewards.records import Design, RewardRecord
from collegium.rewards.use import best_of, reward_function

__all__ = [
    "DESIGNS",
    "ROUTES",
    "Design",
    "DesignOptions",
    "FittedJudge",
    "Growth",
    "Making",
    "RewardConfig",
    "RewardModel",
    "RewardRecord",
    "Rewards",
    "Seen",
    "Verdict",
    "best_of",
    "drop",
    "fit_judge",
    "fit_whole_judge",
    "grow",
    "judge_corpus",
    "lessons_of",
    "newcomers",
    "open_reward",
    "reward_function",
]
