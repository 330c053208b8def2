"""The library: keep, find and verify experts; concurrent, atomic, and exact when one is removed."""

from collegium.library.index import Row
from collegium.library.library import Library, Shown, UnverifiedBase
from collegium.library.lineage import Lineage
from collegium.library.manifest import Defaults
from collegium.library.removal import Removal

__all__ = ["Defaults", "Library", "Lineage", "Removal", "Row", "Shown", "UnverifiedBase"]
