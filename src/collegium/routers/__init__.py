"""Who speaks: prefix routers, from recipes that name no expert to routers bound to some."""

from collegium.routers.cached_prior import (
    CachedPrior,
    CachedSequences,
    average_posterior,
    cached_prior,
    cached_sequences,
    fit_cached_prior,
    grow_cached_prior,
    shrink_cached_prior,
)
from collegium.routers.classifier import Classifier, classifier
from collegium.routers.classifier_fit import fit_classifier, grow_classifier, shrink_classifier
from collegium.routers.cluster import Cluster, cluster
from collegium.routers.cluster_fit import fit_cluster, fit_discovered, grow_cluster, shrink_cluster
from collegium.routers.default import Default, default
from collegium.routers.fixed import Fixed, fixed
from collegium.routers.gates import (
    GATES,
    Arrow,
    Phatgoose,
    UniformGate,
    Xlora,
    arrow,
    available_gates,
    grow_phatgoose,
    phatgoose,
    shrink_phatgoose,
    uniform_gate,
    xlora,
)
from collegium.routers.held import HeldRouter, context_weights
from collegium.routers.oracle import Oracle, oracle
from collegium.routers.posterior import Posterior, PosteriorRouter, posterior
from collegium.routers.table import ENTRY_POINTS, ROUTERS, Recipe, available, parse
from collegium.routers.uniform import Uniform, uniform

__all__ = [
    "ENTRY_POINTS",
    "GATES",
    "ROUTERS",
    "Arrow",
    "CachedPrior",
    "CachedSequences",
    "Classifier",
    "Cluster",
    "Default",
    "Fixed",
    "HeldRouter",
    "Oracle",
    "Phatgoose",
    "Posterior",
    "PosteriorRouter",
    "Recipe",
    "Uniform",
    "UniformGate",
    "Xlora",
    "arrow",
    "available",
    "available_gates",
    "average_posterior",
    "cached_prior",
    "cached_sequences",
    "classifier",
    "cluster",
    "context_weights",
    "default",
    "fit_cached_prior",
    "fit_classifier",
    "fit_cluster",
    "fit_discovered",
    "fixed",
    "grow_cached_prior",
    "grow_classifier",
    "grow_cluster",
    "grow_phatgoose",
    "oracle",
    "parse",
    "phatgoose",
    "posterior",
    "shrink_cached_prior",
    "shrink_classifier",
    "shrink_cluster",
    "shrink_phatgoose",
    "uniform",
    "uniform_gate",
    "xlora",
]
