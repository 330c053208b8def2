"""The library: keep, find and verify experts; concurrent, atomic, and exact when one is removed."""

from collegium.library.derived import Derivations, Prototypes, adapter_prototypes, forget_prototypes, prototypes
from collegium.library.incoming import UnverifiedBase, received
from collegium.library.index import Row
from collegium.library.library import Library
from collegium.library.lineage import Lineage, Shown
from collegium.library.manifest import Defaults, check_place
from collegium.library.parameter_clusters import ClusterSettings, ParameterClusters, parameter_clusters
from collegium.library.removal import Removal
from collegium.library.replacement import check_descendants, replace_expert
from collegium.library.subtraction import subtract_general

__all__ = [
    "ClusterSettings",
    "Defaults",
    "Derivations",
    "Library",
    "Lineage",
    "ParameterClusters",
    "Prototypes",
    "Removal",
    "Row",
    "Shown",
    "UnverifiedBase",
    "adapter_prototypes",
    "check_descendants",
    "check_place",
    "forget_prototypes",
    "parameter_clusters",
    "prototypes",
    "received",
    "replace_expert",
    "subtract_general",
]
