"""What a library keeps of a reward model beside its judges: LIBRARY/models/NAME.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from collegium.core.errors import LibraryError
from collegium.library import Library

VERSION = 1
Design = Literal["joint", "multi", "more", "rodos", "arliss"]


@dataclass(frozen=True)
class RewardRecord:
    """A reward model's record.

    domains:   what it was fitted on, in the order of its judges and of its router's outputs.
    members:   the experts that belong to it. judges: domain -> the expert who judges it.
    router:    the fitted router (tensors, memory) it goes with; None = it has none.
    constants: what its design keeps of its own: the router's threshold and feature space, sizes.
    """

    design: Design
    domains: tuple[str, ...]
    members: tuple[str, ...]
    judges: Mapping[str, str]
    router: str | None
    constants: Mapping[str, Any]

    def save(self, library: Library, name: str) -> None:
        """Keep it in a library, in place of an earlier one of this name."""
        record = {**asdict(self), "version": VERSION, "kind": "reward"}
        library.save_model(name, {**record, "domains": list(self.domains), "members": list(self.members)})

    @staticmethod
    def load(library: Library, name: str) -> "RewardRecord":
        """Return the record of a reward model; raises UnknownName, or LibraryError when it is none or damaged."""
        raw = library.load_model(name)
        if raw.get("kind") != "reward":
            raise LibraryError(f"{name!r} is no reward model, but a thing of kind {raw.get('kind')!r}.")
        if raw.get("version") != VERSION:
            raise LibraryError(
                f"reward model {name!r} has version {raw.get('version')!r}, this Collegium reads {VERSION}. Update "
                "Collegium, or fit it again."
            )
        try:
            record = RewardRecord(
                raw["design"],
                tuple(map(str, raw["domains"])),
                tuple(map(str, raw["members"])),
                {str(domain): str(expert) for domain, expert in raw["judges"].items()},
                raw["router"],
                dict(raw["constants"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise LibraryError(f"the record of reward model {name!r} is damaged ({error!r}). Fit it again.") from error
        record.check(library, name)
        return record

    def check(self, library: Library, name: str) -> None:
        """Raise LibraryError when the record contradicts itself or the library."""
        odd = [each for each in self.members if each not in library]
        if odd:
            raise LibraryError(
                f"reward model {name!r} has the member {odd[0]!r}, which the library lacks. Fit it again, or take it "
                f"away: `collegium library remove {name}`."
            )
        strange = sorted({*self.judges.values()} - {*self.members})
        if self.design not in get_args(Design) or strange or not self.domains:
            raise LibraryError(f"the record of reward model {name!r} is damaged: {self}. Fit it again.")
