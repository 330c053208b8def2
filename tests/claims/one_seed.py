"""A ledger for tests: the committed rows' metrics on one seed, with bounds that say nothing."""

from collections.abc import Iterable
from pathlib import Path

from collegium.claims import read_ledger


def write_rows(ledger: Path, ids: Iterable[str], *, scale: str) -> Path:
    """Write the rows of these claims into a new folder; return it."""
    ledger.mkdir()
    wanted = set(ids)
    for claim in read_ledger():
        if claim.id in wanted and claim.scale == scale:
            text = "\n".join(
                [f'{key} = "{getattr(claim, key)}"' for key in ("id", "statement", "source", "fidelity", "experiment")]
                + ['scale = "exact"', "seeds = [0]", 'tuning = "none"']
                + [
                    f'[[parts]]\nmetric = "{part.metric}"\nsays = "s"\nunit = "u"\ndirection = "law"\nmargin = 1000.0'
                    for part in claim.parts
                ]
            )
            (ledger / f"{claim.id}-exact.toml").write_text(text)
    return ledger
