"""Gates fitted through the frozen model: they alone change, they get better, and the same again is the same."""

import pytest
import torch

from collegium.compose import GatedMix, GateFit, Remembered, fit_phatgoose, fit_through, fit_xlora, memory_of
from collegium.core.errors import ConfigError, DataError, RoutingError
from collegium.data import Document, Domain
from collegium.experts import FitConfig, fit_expert
from collegium.models import Group, RowPlan
from collegium.routers import phatgoose, xlora
from collegium.testing import MemoryShelf
from collegium.testing.pico import train_pico

WORDS = {"law": "court statute appeal verdict jury clause", "sea": "harbour anchor tide mast reef keel"}
QUICK = GateFit(steps=12, batch=4, window=48, memory_tokens=1024, dev_tokens=256, evaluate_every=6, patience=0)


def texts(name):
    words, draw = WORDS[name].split(), torch.Generator().manual_seed(len(name) + ord(name[0]))
    return tuple(
        Document(text=" ".join(words[each] for each in torch.randint(6, (40,), generator=draw))) for _ in range(12)
    )


@pytest.fixture(scope="module")
def world():
    """A trained base, two experts on it, and what each remembers."""
    documents = {name: texts(name) for name in WORDS}
    base = train_pico([each.text for own in documents.values() for each in own[:2]], steps=60, batch=8)
    remembered = {}
    for name, own in documents.items():
        config = FitConfig(rank=4, steps=40, batch=4, window=48, learning_rate=1e-2, dev_tokens=128, threads=1)
        expert = fit_expert(base, Domain(name, own), config=config)
        base.attach(name, expert.payload.adapter)
        split = Domain(name, own).split()
        remembered[name] = Remembered(split.train, split.dev)
    return base, remembered


def keys(world):
    return {name: name for name in WORDS}


def bytes_of(base):
    parts = [*base.model.state_dict().values()]
    parts += [each for name in WORDS for part in base.adapter(name).values() for each in part.tensors.values()]
    return [each.clone() for each in parts]


def test_phatgoose_learns_on_its_own_texts_and_nothing_else_moves(world):
    base, remembered = world
    before, shelf = bytes_of(base), MemoryShelf()
    fits = fit_phatgoose(base, keys(world), shelf, documents=remembered, config=QUICK)
    assert all(torch.equal(one, other) for one, other in zip(before, bytes_of(base), strict=True))
    for name in WORDS:
        losses = [each.loss for each in fits[name].history.evaluations]
        assert min(losses[1:]) < losses[0], name
    tensors, card = shelf.load_router("phatgoose")
    assert set(card["experts"]) == set(WORDS)
    assert card["documents"]["law"] == list(remembered["law"].hashes)
    assert any(each.abs().max() > 0 for each in tensors.values())


@pytest.mark.recipe
def test_an_experts_vectors_do_not_depend_on_the_others(world):
    base, remembered = world
    together, alone = MemoryShelf(), MemoryShelf()
    fit_phatgoose(base, keys(world), together, documents=remembered, config=QUICK)
    fit_phatgoose(base, keys(world), alone, documents={"sea": remembered["sea"]}, config=QUICK)
    whole, own = together.load_router("phatgoose")[0], alone.load_router("phatgoose")[0]
    assert own
    assert all(torch.equal(whole[key], each) for key, each in own.items())


@pytest.mark.recipe
def test_a_head_learns_who_is_of_use(world):
    base, remembered = world
    before, shelf = bytes_of(base), MemoryShelf()
    done = fit_xlora(base, keys(world), shelf, documents=remembered, config=QUICK, width=16)
    assert all(torch.equal(one, other) for one, other in zip(before, bytes_of(base), strict=True))
    losses = [each.loss for each in done.history.evaluations]
    assert min(losses[1:]) < losses[0]
    adapters = {name: base.adapter(name) for name in WORDS}
    gating = xlora().bind_gates(("sea", "law"), base=base, adapters=adapters, shelf=shelf)
    model = GatedMix(base, keys(world), gating)
    for name in WORDS:
        tokens = torch.tensor([base.tokenizer.encode(remembered[name].dev[0].text)[:60]])
        weights = model.routing(tokens).dense()[0, 8:].mean(0)
        assert float(weights[("sea", "law").index(name)]) > 0.5, name


def test_the_same_again_is_the_same_and_another_seed_is_not(world):
    base, remembered = world
    found = []
    for seed in (0, 0, 1):
        shelf = MemoryShelf()
        fit_xlora(base, keys(world), shelf, documents=remembered, config=QUICK, seed=seed)
        found.append(shelf.load_router("xlora")[0])
    assert all(torch.equal(each, found[1][name]) for name, each in found[0].items())
    assert not all(torch.equal(each, found[2][name]) for name, each in found[0].items())


def test_a_head_begins_with_equal_weights_and_a_fit_of_no_steps_leaves_them(world):
    base, remembered = world
    for scale in ("softmax", "sigmoid"):
        shelf = MemoryShelf()
        none = GateFit(steps=0, window=48, memory_tokens=256, dev_tokens=128)
        fit_xlora(base, keys(world), shelf, documents=remembered, config=none, scale=scale)
        adapters = {name: base.adapter(name) for name in WORDS}
        gating = xlora().bind_gates(tuple(WORDS), base=base, adapters=adapters, shelf=shelf)
        weights = gating.head(torch.randn(2, 3, 64))
        assert torch.allclose(weights, torch.full_like(weights, 0.5), atol=1e-6)


def test_only_the_parameters_that_are_given_are_fitted(world):
    base, remembered = world
    memory = memory_of(remembered, base.tokenizer, config=QUICK)
    weights = torch.tensor([0.0, 0.0], requires_grad=True)

    def plan(batch):
        return RowPlan((Group(("law", "sea"), weights.sigmoid()[None, None]),))

    done = fit_through(base, plan, {"weights": weights}, memory, config=QUICK, label="law")
    losses = [each.loss for each in done.history.evaluations]
    assert min(losses) < losses[0]
    assert weights.detach().abs().max() > 0


def test_the_first_pass_of_a_head_is_told_where_documents_end(world, monkeypatch):
    base, remembered = world
    seen, plain = [], type(base).hidden

    def watched(self, tokens, **how):
        seen.append(how.get("segments"))
        return plain(self, tokens, **how)

    monkeypatch.setattr(type(base), "hidden", watched)
    fit_xlora(base, keys(world), MemoryShelf(), documents=remembered, config=GateFit(steps=1, window=500))
    assert seen
    assert all(each is not None for each in seen)
    assert any(int(each.max()) > 0 for each in seen), "no window held two documents"


def test_what_cannot_be_fitted_is_refused(world):
    base, remembered = world
    with pytest.raises(RoutingError, match="Did you mean 'law'"):
        fit_phatgoose(base, keys(world), MemoryShelf(), documents={"laws": remembered["law"]}, config=QUICK)
    with pytest.raises(DataError, match="at least one domain"):
        memory_of({}, base.tokenizer, config=QUICK)
    with pytest.raises(DataError, match="'law' cannot be remembered"):
        memory_of({"law": Remembered((), ())}, base.tokenizer, config=QUICK)
    with pytest.raises(ConfigError, match="batch is at least 1"):
        GateFit(batch=0)
    with pytest.raises(ConfigError, match="learning_rate"):
        GateFit(learning_rate=float("nan"))
    with pytest.raises(RoutingError, match="never fitted"):
        phatgoose().bind_gates(("law",), base=base, adapters={"law": base.adapter("law")}, shelf=MemoryShelf())
