"""Where downloads, converted bases and measured speeds are kept."""

import os
from pathlib import Path

VARIABLE = "COLLEGIUM_CACHE"


def cache_folder() -> Path:
    """Return the user's cache folder: `COLLEGIUM_CACHE`, or `~/.cache/collegium`; it may not exist yet."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "collegium"
