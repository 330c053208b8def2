"""Expert algebra: experts added, subtracted, scaled, averaged and re-compressed, as changes of their base."""

from collegium.experts.algebra.compress import Compressed, compress
from collegium.experts.algebra.delta import Delta, delta_of_adapter
from collegium.experts.algebra.expert import delta_of, deltas_of, merged_expert
from collegium.experts.algebra.expression import FUNCTIONS, evaluate, names_in, parse_expression, parse_list, written
from collegium.experts.algebra.grams import collect_grams
from collegium.experts.algebra.methods import (
    analogy,
    average,
    dare,
    regmean,
    task_arithmetic,
    ties,
    total,
    weighted_sum,
)
from collegium.experts.algebra.parameterwise import negated_factor, negated_factors, parameterwise_sum

__all__ = [
    "FUNCTIONS",
    "Compressed",
    "Delta",
    "analogy",
    "average",
    "collect_grams",
    "compress",
    "dare",
    "delta_of",
    "delta_of_adapter",
    "deltas_of",
    "evaluate",
    "merged_expert",
    "names_in",
    "negated_factor",
    "negated_factors",
    "parameterwise_sum",
    "parse_expression",
    "parse_list",
    "regmean",
    "task_arithmetic",
    "ties",
    "total",
    "weighted_sum",
    "written",
]
