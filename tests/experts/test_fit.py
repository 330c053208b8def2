"""Laws of making experts: what is learnt from, what depends on what, what the card says."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch

from collegium.core.cards import Source, content_hash
from collegium.core.errors import ConfigError, DataError, NameTaken, ResourceError, TrainingError
from collegium.data import Corpus, Document, Domain, Message
from collegium.experts.fit import fit_documents, fit_domain, fit_expert, fit_union
from collegium.experts.fresh import fresh_adapter, with_tensors
from collegium.experts.objective import Objective, Texts, text_objective
from collegium.experts.payloads import AdapterPayload, Expert
from collegium.experts.recipe import FitConfig, resolve
from collegium.models import Adapter, Base, RowPlan
from collegium.train import MemoryLogger

CONFIG = FitConfig(rank=4, steps=8, batch=2, window=32, evaluate_every=4, learning_rate=3e-3, dev_tokens=256)
LAW = Domain(
    "law",
    tuple(
        Document(text=f"Article {n}. The court of appeal finds for tenant {n} in all points. " * 4) for n in range(12)
    ),
    (Source("statutes", "public domain"),),
)
CODE = Domain("code", tuple(Document(text=f"def f{n}(x):\n    return x + {n}\n" * 6) for n in range(12)))


def tensors(expert: Expert) -> dict[str, torch.Tensor]:
    assert isinstance(expert.payload, AdapterPayload)
    adapter = expert.payload.adapter
    return {f"{path} {half}": getattr(each, half) for path, each in adapter.items() for half in ("a", "b")}


def equal(one: Expert, other: Expert) -> bool:
    left, right = tensors(one), tensors(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def undated(expert: Expert) -> object:
    return dataclasses.replace(expert.card, created="")


def test_an_expert_gains_on_its_own_domain_and_the_base_is_as_it_was(pico):
    before = {name: tensor.clone() for name, tensor in pico.model.state_dict().items()}
    trained = fit_domain(pico, LAW, config=dataclasses.replace(CONFIG, steps=40))
    evaluations = trained.history.evaluations
    assert min(each.loss for each in evaluations) < evaluations[0].loss - 0.1
    assert trained.expert.card.warnings == ()
    assert pico.attached == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in pico.model.state_dict().items())


def test_the_first_measurement_is_the_base_and_the_last_is_the_expert(pico):
    trained = fit_domain(pico, LAW, config=CONFIG)
    objective = text_objective(pico, RowPlan.one("base"), texts={"law": Texts.of(LAW)}, config=CONFIG, label="law")
    with torch.no_grad():
        assert objective.held_out() == pytest.approx(trained.history.evaluations[0].loss, abs=1e-6)
        assert isinstance(trained.expert.payload, AdapterPayload)
        pico.attach("law", trained.expert.payload.adapter)
        own = dataclasses.replace(objective, plan=RowPlan.one("law")).held_out()
    best = trained.history.best
    assert best is not None
    assert own == pytest.approx(best.loss, abs=1e-6)


def test_the_card_says_what_it_was_made_from(pico):
    expert = fit_expert(pico, LAW, config=CONFIG)
    card, split = expert.card, LAW.split()
    assert (card.name, card.kind, card.task, card.domain) == ("law", "lora", "language", "law")
    assert card.base == pico.fingerprint
    assert card.sources == LAW.sources
    assert card.documents == {
        "train": tuple(each.hash for each in split.train),
        "dev": tuple(each.hash for each in split.dev),
    }
    assert card.recipe["alpha"] == 8.0
    assert card.recipe["threads"] == 1
    assert card.recipe_hash == content_hash(card.recipe)
    assert card.trained_parameters == sum(tensor.numel() for tensor in tensors(expert).values())
    assert 0 < card.tokens_seen <= CONFIG.steps * CONFIG.tokens_per_step


def test_an_expert_is_the_same_alone_and_after_others(pico):
    alone = fit_expert(pico, CODE, config=CONFIG)
    torch.manual_seed(123)
    law = fit_expert(pico, LAW, config=CONFIG)
    assert isinstance(law.payload, AdapterPayload)
    pico.attach("law", law.payload.adapter)
    later = fit_expert(pico, CODE, config=CONFIG)
    assert equal(alone, later)
    assert undated(alone) == undated(later)
    assert not equal(alone, fit_expert(pico, CODE, config=dataclasses.replace(CONFIG, seed=1)))


def test_experts_of_a_seed_begin_alike(pico):
    still = dataclasses.replace(CONFIG, steps=1, learning_rate=1e-12)

    def first(expert: Expert) -> dict[str, torch.Tensor]:
        return {name: each for name, each in tensors(expert).items() if name.endswith(" a")}

    law, code = (first(fit_expert(pico, each, config=still)) for each in (LAW, CODE))
    assert all(torch.allclose(law[name], code[name], atol=1e-9) for name in law)
    other_seed = first(fit_expert(pico, CODE, config=dataclasses.replace(still, seed=1)))
    split = CODE.split()
    other_label = first(fit_documents(pico, split.train, dev=split.dev, config=still, name="code", label="x").expert)
    for other in (other_seed, other_label):
        assert not any(torch.allclose(law[name], other[name], atol=1e-3) for name in law)


def test_the_law_rejects_weights_drawn_from_the_common_stream(pico, monkeypatch):
    def careless(base: Base, config: FitConfig, label: str, *, tokens: torch.Tensor) -> Adapter:
        fresh = fresh_adapter(base, config, label, tokens=tokens)
        return with_tensors(fresh, lambda tensor: torch.randn_like(tensor).mul_(0.05).requires_grad_())

    monkeypatch.setattr("collegium.experts.fit.fresh_adapter", careless)
    alone = fit_expert(pico, CODE, config=CONFIG)
    fit_expert(pico, LAW, config=CONFIG)
    assert not equal(alone, fit_expert(pico, CODE, config=CONFIG))


def test_the_order_of_documents_plays_no_part(pico):
    turned = Domain("law", tuple(reversed(LAW.documents)), LAW.sources)
    assert equal(fit_expert(pico, LAW, config=CONFIG), fit_expert(pico, turned, config=CONFIG))


def interrupted_then_resumed(pico: Base, folder, config: FitConfig = CONFIG) -> Expert:
    class Interrupting(MemoryLogger):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            if step == 5:
                raise KeyboardInterrupt
            super().log(step, values)

    with pytest.raises(KeyboardInterrupt):
        fit_expert(pico, LAW, config=CONFIG, checkpoint=folder, logger=Interrupting())
    assert pico.attached == ()
    return fit_expert(pico, LAW, config=config, checkpoint=folder)


def test_an_interrupted_expert_goes_on_to_the_same_weights(pico, tmp_path):
    resumed, whole = interrupted_then_resumed(pico, tmp_path), fit_expert(pico, LAW, config=CONFIG)
    assert equal(resumed, whole)
    assert undated(resumed) == undated(whole)


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"steps": 9}, {"seed": 1}, {"rank": 2}])
def test_a_checkpoint_of_another_recipe_is_refused(pico, tmp_path, change):
    with pytest.raises(ConfigError, match="another configuration"):
        interrupted_then_resumed(pico, tmp_path, dataclasses.replace(CONFIG, **change))


def test_a_checkpoint_of_other_documents_is_refused(pico, tmp_path):
    fit_expert(pico, LAW, config=CONFIG, checkpoint=tmp_path)
    with pytest.raises(ConfigError, match="other data"):
        fit_expert(pico, Domain("law", LAW.documents[1:]), config=CONFIG, checkpoint=tmp_path)


def test_an_expert_that_does_not_beat_the_base_says_so_and_changes_nothing(pico):
    noise = [Document(text=f"{n}zqxj#{n * n}@@~~^^kvw" * 9) for n in range(9)]
    trained = fit_documents(
        pico,
        noise,
        dev=LAW.documents[:2],
        config=dataclasses.replace(CONFIG, steps=12, learning_rate=0.05),
        name="noise",
    )
    (warning,) = trained.expert.card.warnings
    assert "does not beat what it started from on its own held-out text" in warning
    assert all(not tensor.any() for name, tensor in tensors(trained.expert).items() if name.endswith(" b"))


PAIRS = tuple(Document(prompt=f"Question {n}: what is due?", completion=f" Rent {n} is due in May.") for n in range(9))
CHATS = tuple(
    Document(messages=(Message("user", f"Is rent {n} due?"), Message("assistant", f"Yes, rent {n} is due.")))
    for n in range(9)
)


def gradient_of(pico: Base, documents: tuple[Document, ...], scored: str) -> tuple[torch.Tensor, int]:
    """The gradient of one batch by the objective, or by hand from all logits over chosen tokens."""
    config = resolve(dataclasses.replace(CONFIG, batch=3, window=96), "lora")
    adapter = fresh_adapter(pico, config, "pairs", tokens=torch.zeros(1, 1, dtype=torch.long))
    pico.attach("new", adapter)
    plan = RowPlan.one("new")
    texts = {"pairs": Texts(documents, documents[:2])}
    objective = text_objective(pico, plan, texts=texts, config=config, label="pairs")
    if scored == "objective":
        loss = objective.loss(0, 0)
        total, count = loss.total, loss.count
    else:
        batch = objective.train.take(objective.epochs.rows(0))
        hidden = pico.hidden(batch.tokens, segments=batch.segments, plan=plan)
        nats = -pico.output(hidden).log_softmax(-1)[:, :-1].gather(-1, batch.tokens[:, 1:, None])[..., 0]
        chosen = batch.scored if scored == "answers" else torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
        total, count = nats[chosen[:, 1:]].sum(), int(chosen[:, 1:].sum())
    total.backward()
    pico.detach("new")
    return torch.cat([part.tensors["b"].grad.flatten() for part in adapter.values()]), count  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("documents", [PAIRS, CHATS], ids=["pairs", "chats"])
def test_only_completions_and_answers_are_learnt(pico, documents):
    ours, count = gradient_of(pico, documents, "objective")
    by_hand, counted = gradient_of(pico, documents, "answers")
    everything, more = gradient_of(pico, documents, "all")
    assert count == counted < more
    torch.testing.assert_close(ours, by_hand, rtol=1e-3, atol=1e-4)
    assert (ours - everything).norm() > 0.1 * ours.norm()


@pytest.mark.parametrize("documents", [PAIRS, CHATS], ids=["pairs", "chats"])
def test_rows_and_chats_make_experts(pico, documents):
    trained = fit_domain(pico, Domain("answers", documents), config=dataclasses.replace(CONFIG, steps=24, window=96))
    evaluations = trained.history.evaluations
    assert min(each.loss for each in evaluations) < evaluations[0].loss


def test_the_depth_dial_leaves_the_trunk_alone(pico):
    expert = fit_expert(pico, LAW, config=dataclasses.replace(CONFIG, layers="top:1", targets=("q_proj", "down_proj")))
    assert isinstance(expert.payload, AdapterPayload)
    assert sorted(expert.payload.adapter) == ["model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
    assert all(tensor.any() for tensor in tensors(expert).values())


def objective_of(pico: Base, *domains: Domain, label: str, steps: int) -> Objective:
    config = resolve(dataclasses.replace(CONFIG, steps=steps), "lora")
    texts = {each.name: Texts.of(each) for each in domains}
    return text_objective(pico, RowPlan.one("base"), texts=texts, config=config, label=label)


def test_a_union_reads_the_very_windows_of_its_domains_experts(pico):
    long = Domain("law", tuple(Document(text=each.text * 20) for each in LAW.documents if each.text))
    apart = [objective_of(pico, each, label=each.name, steps=8) for each in (long, CODE)]
    together = objective_of(pico, long, CODE, label="dense", steps=16)
    for part in ("train", "dev"):
        read = [getattr(each, part) for each in apart]
        assert getattr(together, part).tokens.tolist() == [row for each in read for row in each.tokens.tolist()]
    counts = [each.train.tokens_count for each in apart]
    assert max(counts) < 1.5 * min(counts), "however much text a domain has"


def test_a_union_of_domains_makes_a_dense_baseline(pico):
    trained = fit_union(pico, Corpus((LAW, CODE)), config=CONFIG, name="dense")
    card, both = trained.expert.card, [LAW.split().hashes, CODE.split().hashes]
    assert (card.domain, card.sources) == (None, LAW.sources)
    assert card.documents == {part: both[0][part] + both[1][part] for part in both[0]}
    evaluations = trained.history.evaluations
    assert min(each.loss for each in evaluations) < evaluations[0].loss
    with pytest.raises(DataError, match="no domains at all"):
        fit_union(pico, Corpus(()), config=CONFIG, name="dense")


def test_a_domain_shorter_than_a_window_is_learnt(pico):
    short = Domain("short", tuple(Document(text=f"Rent {n}.") for n in range(3)))
    assert fit_expert(pico, short, config=CONFIG).card.tokens_seen > 0


def test_text_that_leaves_nothing_to_learn_is_refused_by_name(pico):
    with pytest.raises(DataError, match="'tiny' cannot be learnt from"):
        fit_expert(pico, Domain("tiny", tuple(Document(text=letter) for letter in "abc")), config=CONFIG)
    assert pico.attached == ()


def test_a_base_without_tokenizer_is_refused():
    from collegium.testing.pico import random_base

    with pytest.raises(DataError, match="no tokenizer"):
        fit_expert(random_base("llama"), LAW, config=CONFIG)


def test_a_fit_that_blows_up_leaves_the_base_free(pico):
    with pytest.raises(TrainingError, match=r"Lower the learning rate|lower clip"):
        fit_expert(pico, LAW, config=dataclasses.replace(CONFIG, learning_rate=1e18, clip=1e9, warmup=0.0, steps=40))
    assert pico.attached == ()


def test_a_reserved_name_is_refused_before_anything_is_read(pico):
    with pytest.raises(NameTaken):
        fit_expert(pico, LAW, config=CONFIG, name="base")


def test_threads_are_given_back(pico):
    before = torch.get_num_threads()
    expert = fit_expert(pico, LAW, config=dataclasses.replace(CONFIG, threads=2, steps=1))
    assert expert.card.recipe["threads"] == 2
    assert torch.get_num_threads() == before


def test_exhausted_memory_says_what_to_lower(pico, monkeypatch):
    def exhausted(*arguments: object, **named: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(pico, "token_nats", exhausted)
    with pytest.raises(ResourceError, match=r"lower --batch \(now 2; .*--window.*--workers.*--layers"):
        fit_expert(pico, LAW, config=CONFIG)
    assert pico.attached == ()


@pytest.mark.parametrize("odd", [{"learning_rate": 0.0}, {"learning_rate": float("inf")}, {"alpha": float("inf")}])
def test_no_number_is_taken_for_another(odd):
    with pytest.raises(ConfigError, match=f"{next(iter(odd))} is positive and finite, got"):
        FitConfig(**odd)


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(ConfigError, match=r"rank is at least 1, got 0; .*batch is at least 1, got -2"):
        FitConfig(rank=0, batch=-2)
