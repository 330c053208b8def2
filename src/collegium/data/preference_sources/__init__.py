"""Real preference pairs from pinned packages: one file for each domain, and their table."""

from collegium.data.preference_sources.table import PREFERENCE_SOURCES, PreferenceSource

__all__ = ["PREFERENCE_SOURCES", "PreferenceSource"]
