"""Whole models merged tensor by tensor, from files to files, however large they are."""

from collegium.experts.streaming.merge import MergedModel, Progress, merge_models, plan_merge
from collegium.experts.streaming.recipe import MergeRecipe, MergeSource, read_recipe, write_recipe

__all__ = [
    "MergeRecipe",
    "MergeSource",
    "MergedModel",
    "Progress",
    "merge_models",
    "plan_merge",
    "read_recipe",
    "write_recipe",
]
