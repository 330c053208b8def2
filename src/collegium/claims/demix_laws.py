"""Exact claims on DEMix, on pico models: whose weights a batch moves, and what a further expert changes. M13, M14."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from collegium.claims.experiment import Place, one_piece
from collegium.compose import attach_expert
from collegium.data import Corpus, Document, Domain
from collegium.experts import FitConfig, JointTraining, fit_documents, fit_whole, open_whole
from collegium.experts.objective import Texts
from collegium.library import Library
from collegium.models import Base, RowPlan
from collegium.testing.pico import pico_base
from collegium.train import LoopConfig, fit

_WORDS = {"law": "The court finds", "code": "return x +", "sea": "A harbour light"}
_QUICK = FitConfig(kind="ffn", steps=4, batch=2, window=32, evaluate_every=2, learning_rate=3e-3, dev_tokens=128)
_NEW = Domain("port", tuple(Document(text=f"A harbour wall number {n}. " * 5) for n in range(9)))
_TEXT = torch.tensor([list(b"The court finds number 3. A harbour light.")])


def corpus() -> Corpus:
    """Return three small domains."""
    return Corpus(
        tuple(
            Domain(name, tuple(Document(text=f"{words} number {n}. " * 5) for n in range(9)))
            for name, words in _WORDS.items()
        )
    )


def separation(place: Place) -> dict[str, float]:
    """Return M13's law: what a batch leaves in other domains' blocks, as a gradient and as an update with decay."""
    base = pico_base(place.number)
    strays, silent, moved = [], 0, []
    for step, name in enumerate(_WORDS):
        training = JointTraining(base, corpus(), config=dataclasses.replace(_QUICK, threads=1))
        training.objective.loss(step, 0).total.backward()
        found = {key: _largest(each.grad) for key, each in training.parameters.items()}
        strays += [value for key, value in found.items() if not key.startswith(("shared/", f"{name}/"))]
        silent += sum(value == 0 for key, value in found.items() if key.startswith(f"{name}/"))
    for heeded in (True, False):
        training = JointTraining(base, corpus(), config=dataclasses.replace(_QUICK, threads=1))
        idle = training.objective.idle(0)
        before = {key: training.parameters[key].detach().clone() for key in idle}
        one = LoopConfig(1, 3e-3, weight_decay=0.5)
        fit(training.parameters, training.objective.loss, config=one, idle=training.objective.idle if heeded else None)
        moved.append(max(_largest(training.parameters[key].detach() - each) for key, each in before.items()))
    return {
        "gradient_in_other_blocks": max(strays),
        "own_blocks_without_gradient": float(silent),
        "change_of_idle_blocks": moved[0],
        "decay_leaves_idle_blocks": float(moved[1] == 0),
    }


def _largest(tensor: Tensor | None) -> float:
    return 0.0 if tensor is None else float(tensor.abs().max())


def further(place: Place) -> dict[str, float]:
    """Return M14's law: what of old experts and answers changes when one is copied and trained on a new domain."""
    base, config = pico_base(place.number), dataclasses.replace(_QUICK, threads=1, steps=12)
    done = JointTraining(base, corpus(), config=config).run()
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder) / "library", base=done.model)
        for expert in done.experts(done.model):
            library.add(expert)
        said = answers(done.model, library)
        files, weights = files_of(library), state(done.model)
        texts, parent = Texts.of(_NEW), library["sea"]
        made = fit_documents(done.model, texts.train, dev=texts.dev, config=config, name=_NEW.name, begin=parent)
        library.add(made.expert)
        now, again, left = files_of(library), answers(done.model, library), state(done.model)
    dense = fit_whole(done.model, _NEW, config=dataclasses.replace(config, kind="lora")).expert
    alike = torch.equal(done.model.logprobs(_TEXT), open_whole(dense, done.model).logprobs(_TEXT))
    return {
        "changed_files": float(sum(now.get(name) != digest for name, digest in files.items())),
        "changed_answers": float(sum(not torch.equal(again[name], each) for name, each in said.items())),
        "changed_base_weights": float(sum(not torch.equal(left[name], each) for name, each in weights.items())),
        "new_expert_unchanged": float(made.expert.digest == parent.digest),
        "dense_unchanged": float(alike),
    }


def answers(base: Base, library: Library) -> dict[str, Tensor]:
    """Return what every expert but the new one says of a text, and the base."""
    own: Callable[[str], Tensor] = lambda name: base.logprobs_rows(  # noqa: E731
        _TEXT, plan=RowPlan.one(attach_expert(base, library[name]))
    )
    return {"base": base.logprobs(_TEXT)} | {name: own(name) for name in library if name != _NEW.name}


def files_of(library: Library) -> dict[str, str | None]:
    """Return the digest of every expert but the new one."""
    return {name: library.expert_digest(name) for name in library if name != _NEW.name}


def state(base: Base) -> dict[str, Tensor]:
    """Return copies of a base's weights."""
    return {name: tensor.clone() for name, tensor in base.model.state_dict().items()}


DEMIX_LAWS = {"demix": one_piece("separation", separation), "dapt": one_piece("further", further)}
"""By the name of the experiment."""
