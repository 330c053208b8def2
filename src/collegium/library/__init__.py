"""The library: keep, find and verify experts; concurrent, atomic, and exact when one is removed."""

from collegium.library.incoming import UnverifiedBase, received
from collegium.library.index import Row
from collegium.library.library import Library
from collegium.library.lineage import Lineage, Shown
from collegium.library.manifest import Defaults, check_place
from collegium.library.removal import Removal

__all__ = ["Defaults", "Library", "Lineage", "Removal", "Row", "Shown", "UnverifiedBase", "check_place", "received"]
