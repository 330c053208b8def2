"""On an accelerator everything is as on the CPU: run with `pytest -m gpu` on a machine that has one."""

import dataclasses
from pathlib import Path

import pytest
import torch

from collegium.compose import Ensemble, Mix, SlotVoices, ensemble, merge, mix
from collegium.core.protocols import LanguageModel, RouterRecipe
from collegium.data import Document, Domain
from collegium.experts import AdapterPayload, Expert, FitConfig, fit_documents, fit_expert, fit_experts, fit_whole
from collegium.infer import Sampling, generate
from collegium.library import Library
from collegium.models import Base, inspect_machine, load_base
from collegium.routers import fixed, posterior, uniform
from collegium.testing.composition import check_composition, check_mixture
from collegium.testing.pico import random_adapter, random_base

pytestmark = pytest.mark.gpu

NAMES = ("law", "code", "chat")
CONFIG = FitConfig(
    rank=4, steps=12, batch=2, window=32, evaluate_every=4, learning_rate=3e-3, dev_tokens=256, threads=1
)
TEXTS = {"law": "The court finds for tenant {n}. ", "code": "def f{n}(x): return {n}\n", "chat": "Yes, {n} is due. "}
DOMAINS = [Domain(name, tuple(Document(text=text.format(n=n) * 8) for n in range(9))) for name, text in TEXTS.items()]
PROMPTS = torch.tensor([list(b"The court finds for"), list(b"def f2(x): return 2")])


@pytest.fixture(scope="module")
def folder(_pico_once: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pico")
    _pico_once.model.save_pretrained(place)
    _pico_once.tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def card(folder: Path) -> Base:
    return load_base(folder, device="cuda")


@pytest.fixture
def host(folder: Path) -> Base:
    return load_base(folder, device="cpu")


def weights(expert: Expert) -> dict[str, torch.Tensor]:
    assert isinstance(expert.payload, AdapterPayload)
    return {f"{path} {half}": getattr(each, half) for path, each in expert.payload.adapter.items() for half in "ab"}


def largest_gap(one: Expert, other: Expert) -> float:
    left, right = weights(one), weights(other)
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3"])
def test_compositions_keep_their_laws(architecture):
    raw = random_base(architecture)
    base = Base.from_model(raw.model.to("cuda"), raw.tokenizer, name="random")
    for place, name in enumerate(NAMES):
        base.attach(name, random_adapter(base, place))
    keys = {name: name for name in NAMES}
    alone: dict[str, LanguageModel] = {
        name: Mix(base, {name: name}, fixed({name: 1.0}).bind((name,))) for name in NAMES
    }
    alone["base"] = base

    def ensemble_of(recipe: RouterRecipe) -> LanguageModel:
        return Ensemble(SlotVoices(base, keys), recipe.bind(NAMES))

    check_composition(ensemble_of, alone)
    check_mixture(ensemble_of, alone)
    check_composition(lambda recipe: Mix(base, keys, recipe.bind(NAMES)), alone)


def test_an_expert_is_nearly_the_one_made_on_the_cpu_and_the_same_twice(card, host):
    made = fit_expert(card, DOMAINS[0], config=CONFIG)
    assert largest_gap(made, fit_expert(card, DOMAINS[0], config=CONFIG)) == 0
    assert largest_gap(made, fit_expert(host, DOMAINS[0], config=CONFIG)) < 1e-4
    assert made.card.recipe["device"] == "cuda"


def test_an_interrupted_fit_goes_on_as_if_nothing_had_happened(card, tmp_path):
    class Interrupted(Exception):
        pass

    class Interrupting:
        def log(self, step: int, values: object) -> None:
            if step == 7:
                raise Interrupted

        def close(self) -> None:
            pass

    split = DOMAINS[0].split()
    with pytest.raises(Interrupted):
        fit_documents(
            card, split.train, dev=split.dev, config=CONFIG, name="law", checkpoint=tmp_path, logger=Interrupting()
        )
    assert card.attached == ()
    resumed = fit_documents(card, split.train, dev=split.dev, config=CONFIG, name="law", checkpoint=tmp_path)
    straight = fit_documents(card, split.train, dev=split.dev, config=CONFIG, name="law")
    assert largest_gap(resumed.expert, straight.expert) == 0


def test_alone_and_in_parallel_are_the_same_to_the_last_bit(card, tmp_path):
    outcomes = fit_experts(card, DOMAINS, config=CONFIG, work=tmp_path, workers=2)
    for domain, outcome in zip(DOMAINS, outcomes, strict=True):
        assert outcome.expert is not None, outcome.error
        assert largest_gap(outcome.expert, fit_expert(card, domain, config=CONFIG)) == 0


def test_a_library_answers_as_on_the_cpu_also_after_a_removal(card, host, tmp_path):
    made = [fit_expert(card, domain, config=CONFIG) for domain in DOMAINS]
    there, here = Library(tmp_path / "card", base=card), Library(tmp_path / "host", base=host)
    for expert in made:
        there.add(expert)
        here.add(expert)
    for compose in (ensemble, mix):
        on_card, on_host = compose(card, there, router=posterior()), compose(host, here, router=posterior())
        said = on_card.score(PROMPTS)
        assert said.device.type == "cuda"
        torch.testing.assert_close(said.cpu(), on_host.score(PROMPTS), atol=1e-4, rtol=1e-4)
        greedy = Sampling(tokens=8, temperature=0.0)
        written = [generate(model, "The court finds", sampling=greedy)[0].tokens for model in (on_card, on_host)]
        assert written[0] == written[1]
    merged = [
        merge(base, shelf, router=uniform()).score(PROMPTS).cpu() for base, shelf in ((card, there), (host, here))
    ]
    torch.testing.assert_close(*merged, atol=1e-4, rtol=1e-4)
    before = ensemble(card, there, router=posterior()).score(PROMPTS)
    there.add(dataclasses.replace(made[0], card=dataclasses.replace(made[0].card, name="guest")))
    there.remove("guest")
    assert torch.equal(ensemble(card, there, router=posterior()).score(PROMPTS), before)


def test_a_whole_model_is_trained_and_speaks(card):
    trained = fit_whole(card, DOMAINS[0], config=dataclasses.replace(CONFIG, rank=FitConfig().rank))
    evaluations = trained.history.evaluations
    assert min(each.loss for each in evaluations) < evaluations[0].loss


def test_the_machine_tells_of_the_accelerators_memory():
    machine = inspect_machine("cuda")
    assert machine.memory_bytes == torch.cuda.get_device_properties(0).total_memory
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes
