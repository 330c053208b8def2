"""What comes into a library: experts that do not fit, folders of ours, PEFT folders, whole models."""

import warnings

import peft
import pytest
import torch
from tiny_library import BASE

from collegium.core.cards import ExpertCard
from collegium.core.errors import (
    CorruptExpert,
    IncompatibleExpert,
    LibraryError,
    NameTaken,
)
from collegium.experts import AdapterPayload, Expert, WholePayload, adapter_payload, open_whole, save_expert
from collegium.library import Library, UnverifiedBase
from collegium.models import LoraWeights
from collegium.testing.pico import random_adapter, random_base


@pytest.fixture(scope="module")
def base():
    return random_base("llama")


def test_an_expert_that_does_not_fit_is_refused(base, path):
    library = Library(path, base=base)
    adapter = random_adapter(base)
    site = next(iter(adapter))
    sound = adapter[site]

    def expert(**fields):
        card = ExpertCard(name="bad", kind="lora", base=base.fingerprint)
        return Expert(card, adapter_payload(base, {**adapter, **fields}))

    other = Expert(ExpertCard(name="bad", kind="lora", base=BASE), adapter_payload(base, adapter))
    cases = [
        (other, IncompatibleExpert, f"{BASE.short}.*{base.fingerprint.short}"),
        (expert(**{site: LoraWeights(sound.a[:, :5], sound.b, 1.0)}), IncompatibleExpert, "maps 5 inputs to"),
        (expert(elsewhere=sound), IncompatibleExpert, "no linear layers"),
        (expert(**{site: LoraWeights(sound.a * float("nan"), sound.b, 1.0)}), CorruptExpert, "NaN"),
        (expert(**{site: LoraWeights(sound.a, sound.b / 0, 1.0)}), CorruptExpert, "infinity"),
    ]
    for broken, kind, words in cases:
        with pytest.raises(kind, match=words):
            library.add(broken)
    with pytest.raises(NameTaken, match="path parts"):
        library.add(expert(), "../x")
    assert library.names() == ()
    assert sorted(each.name for each in path.iterdir()) == [".lock", "collegium.json"]


def test_the_layers_of_the_base_are_noted_and_compared_without_it(base, path):
    adapter = random_adapter(base)
    site = next(iter(adapter))
    unnamed = Expert(ExpertCard(name="unnamed", kind="lora"), adapter_payload(base, adapter))
    misfit = AdapterPayload({**adapter, site: LoraWeights(adapter[site].a[:, :5], adapter[site].b, 1.0)})
    blind = Library(path, base=base.fingerprint)
    assert blind.sites is None
    with pytest.raises(LibraryError, match="must be compared with the base's"):
        blind.add(unnamed)
    Library(path, base=base).add(unnamed, "first", trust_base=True)
    for library in (blind, Library(path), Library(path, read_only=True)):
        assert library.sites == base.sites
    with pytest.raises(IncompatibleExpert, match="maps 5 inputs to"):
        blind.add(Expert(ExpertCard(name="odd", kind="lora"), misfit))
    save_expert(Expert(ExpertCard(name="odd", kind="lora", base=base.fingerprint), misfit), path / "experts" / "odd")
    assert set(blind.verify()) == {"odd"}
    for file in (path / "derived").iterdir():
        file.write_bytes(b"damaged")
    assert Library(path).sites is None
    Library(path, base=base).add(unnamed, "second", trust_base=True)
    assert Library(path).sites == base.sites, "noted anew"


def test_what_comes_in_is_told_without_adding_it(base, path):
    library = Library(path, base=base)
    ours = Expert(
        ExpertCard(name="ours", kind="lora", base=base.fingerprint), adapter_payload(base, random_adapter(base))
    )
    assert library.incoming(ours, "mine").name == "mine"
    assert sorted(each.name for each in path.iterdir()) == [".lock", "collegium.json"]
    library.add(ours)
    with pytest.raises(NameTaken, match="already"):
        library.incoming(ours)


def test_folders_of_ours_are_added_whole_or_refused(base, path, tmp_path):
    library = Library(path, base=base)
    expert = Expert(
        ExpertCard(name="ours", kind="lora", base=base.fingerprint), adapter_payload(base, random_adapter(base))
    )
    save_expert(expert, tmp_path / "ours")
    library.add(tmp_path / "ours")
    library.add(str(tmp_path / "ours"), "again")
    assert library.names() == ("again", "ours")
    assert library["again"].digest == library["ours"].digest
    weights = tmp_path / "ours" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CorruptExpert, match="truncated"):
        library.add(tmp_path / "ours", "third")
    with pytest.raises(LibraryError, match="no folder"):
        library.add(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptExpert, match="holds no expert"):
        library.add(tmp_path / "empty")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_peft_folder_is_added_with_a_warning_unless_trusted(base, path, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(random_base("llama").model, config).save_pretrained(tmp_path / "theirs")
    library = Library(path, base=base)
    with pytest.warns(UnverifiedBase, match="--trust-base"):
        library.add(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = library.add(tmp_path / "theirs", "trusted", trust_base=True)
    assert card.base is None
    assert "unverified" in card.warnings[0]
    assert library.names() == ("theirs", "trusted")
    assert library.verify() == {}
    with pytest.raises(LibraryError, match="must be compared with the base's"):
        Library(path).add(tmp_path / "theirs", "blind")


def test_a_whole_model_is_kept_and_opened(base, path):
    library = Library(path, base=base)
    model = random_base("llama", 5)
    card = ExpertCard(name="own", kind="whole", base=base.fingerprint)
    library.add(Expert(card, WholePayload(model.model)))
    opened = open_whole(Library(path, base=base)["own"], base)
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(opened.logprobs(tokens), model.logprobs(tokens))
    assert library.verify() == {}
    assert sorted(each.name for each in (path / "experts" / "own").iterdir()) == [
        "card.json",
        "config.json",
        "model.safetensors",
    ]
