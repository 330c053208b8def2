"""Exact claims on prototypes: they belong to an expert's change alone. B2, B3."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.claims.experiment import Place, one_piece
from collegium.core.cards import ExpertCard
from collegium.core.files import file_hash
from collegium.core.randomness import generator
from collegium.experts import AdapterPayload, Expert, adapter_payload
from collegium.library import Library, Prototypes, adapter_prototypes, prototypes, subtract_general
from collegium.models import Base, LoraWeights
from collegium.testing.pico import pico_base, random_adapter

NAMES = ("law", "code", "verse", "chat")
RANK = 4
ALIKE = 0.9
"""A cosine of raw weights above which clustering would take two experts for one."""


def invariance(place: Place) -> dict[str, float]:
    """Return B2: how far prototypes move, and whether raw weights stay alike, when (A, B) becomes (R A, B R^-1)."""
    base = pico_base(place.number)
    gaps, cosines = [], []
    for name in NAMES:
        adapter = random_adapter(base, place.number, rank=RANK)
        turned = refactored(adapter, seed=place.number, name=name)
        before, after = adapter_prototypes(adapter), adapter_prototypes(turned)
        gaps += [1 - float((before[path] @ after[path]).abs()) for path in before]
        cosines.append(float(torch.cosine_similarity(flat(adapter), flat(turned), dim=0)))
    return {"prototype_gap": max(gaps), "raw_weights_alike": float(max(cosines) > ALIKE)}


def refactored(adapter: Mapping[str, LoraWeights], *, seed: int, name: str) -> dict[str, LoraWeights]:
    """Return the same change written with other factors: (R A, B R^-1), R drawn for each layer."""
    found = {}
    for path, part in adapter.items():
        draw = generator(seed, "refactored", name, path)
        turn = torch.linalg.qr(torch.randn(RANK, RANK, generator=draw, dtype=torch.float64)).Q
        turn = turn * torch.logspace(-0.5, 0.5, RANK, dtype=torch.float64)
        a, b = turn @ part.a.double(), part.b.double() @ torch.linalg.inv(turn)
        found[path] = LoraWeights(a.float(), b.float(), part.scale)
    return found


def flat(adapter: Mapping[str, LoraWeights]) -> Float[Tensor, " weight"]:
    """Return the raw weights as one vector."""
    return torch.cat([tensor.flatten() for part in adapter.values() for tensor in (part.a, part.b)])


def growth(place: Place) -> dict[str, float]:
    """Return B3 on a pico library on disk: what of the old experts' prototypes changes when a fourth comes and goes."""
    base = pico_base(place.number)
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder) / "library", base=base)
        for number, name in enumerate(NAMES[:3]):
            library.add(drawn(base, name, 10 * place.number + number))
        before, files = prototypes(library), kept_files(library)
        library.add(drawn(base, NAMES[3], 10 * place.number + 3))
        during, now = prototypes(library), kept_files(library)
        joint = jointly(library)
        library.remove(NAMES[3])
        after = prototypes(library)
        alone = jointly(library)
    return {
        "changed_prototypes": float(changed(before, during) + changed(before, after)),
        "changed_files": float(sum(now.get(name) != digest for name, digest in files.items())),
        "written_files_beyond_one": float(len(now) - len(files) - 1),
        "joint_prototypes_unchanged": float(changed(alone, joint) == 0),
    }


def drawn(base: Base, name: str, seed: int) -> Expert:
    """Return a random expert."""
    payload = adapter_payload(base, random_adapter(base, seed, rank=RANK))
    return Expert(ExpertCard(name=name, kind="lora", base=base.fingerprint), payload)


def kept_files(library: Library) -> dict[str, str]:
    """Return the digest of every derived file."""
    return {path.name: file_hash(path) for path in (library.path / "derived").iterdir()}


def jointly(library: Library) -> dict[str, Prototypes]:
    """Return prototypes that are not one expert's own: of each change less the mean of all of them."""
    adapters = {name: lora_of(library, name) for name in library}
    return {name: adapter_prototypes(each) for name, each in subtract_general(adapters).items()}


def lora_of(library: Library, name: str) -> Mapping[str, LoraWeights]:
    """Return an expert's low-rank parts."""
    payload = library[name].payload
    assert isinstance(payload, AdapterPayload)
    return payload.lora


def changed(before: Mapping[str, Prototypes], after: Mapping[str, Prototypes]) -> int:
    """Return how many vectors of the experts of `before` are not the same bits in `after`."""
    return sum(
        not torch.equal(vector, after[name][path]) for name, each in before.items() for path, vector in each.items()
    )


GATE_LAWS = {name: one_piece(name, law) for name, law in {"prototypes": invariance, "prototype_growth": growth}.items()}
