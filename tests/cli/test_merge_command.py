"""`library merge`: expressions and methods make experts with parents, recipe and error; mistakes are answered."""

from typing import get_args, get_type_hints

import pytest
import torch

from collegium.core.cards import ExpertCard
from collegium.data import read_domains
from collegium.experts import Expert, FitConfig, WholePayload, adapter_payload, fit_expert
from collegium.library import Library
from collegium.models import Ia3Weights, LoraWeights, load_base
from collegium.recipes.merging.run import MergeConfig
from collegium.recipes.merging.ways import WAYS
from collegium.testing.library import snapshot
from collegium.testing.pico import random_adapter


@pytest.fixture(scope="module")
def base(pico_folder):
    return load_base(str(pico_folder))


def expert(base, name, seed, **fields):
    adapter = random_adapter(base, seed, rank=2 + seed, scale=0.1)
    return Expert(ExpertCard(name=name, kind="lora", base=base.fingerprint, **fields), adapter_payload(base, adapter))


@pytest.fixture
def library(base, pico_folder, tmp_path):
    made = Library(tmp_path / "college", base=base, base_reference=str(pico_folder))
    for seed, name in enumerate(("law", "code", "code-2")):
        made.add(expert(base, name, seed, documents={"train": (f"doc-{seed}",)}))
    return made


def dense(library, weights, path):
    return sum(weight * library[name].payload.lora[path].delta() for name, weight in weights.items())


def test_an_expression_becomes_an_expert(ask, library):
    path = "model.layers.0.self_attn.q_proj"
    code, found, shown = ask(
        "library", "merge", "0.6*law + 0.4*code-2 - code", "--library", library.path, "--as", "both"
    )
    assert code == 0, shown
    assert found["added"] == "both"
    assert found["relative_error"] == 0.0
    assert found["rank"] == 2 + 3 + 4
    merged = library["both"]
    wanted = dense(library, {"law": 0.6, "code-2": 0.4, "code": -1}, path)
    torch.testing.assert_close(merged.payload.lora[path].delta(), wanted, atol=1e-5, rtol=1e-5)
    assert merged.card.parents == {name: library[name].digest for name in ("law", "code", "code-2")}
    assert merged.card.recipe["expression"] == "0.6*law + 0.4*code-2 - code"
    assert merged.card.documents == {"train": ("doc-0", "doc-2", "doc-1")}
    assert library.descendants("law") == ("both",)
    assert library.verify() == {}


def test_a_rank_has_its_error(ask, library):
    code, found, _ = ask("library", "merge", "law + code", "--library", library.path, "--as", "both", "--rank", 2)
    assert code == 0
    errors = found["error_by_rank"]
    assert list(errors) == ["1", "2", "4"]
    assert errors["1"] > errors["2"] > errors["4"] > 0
    assert found["relative_error"] == pytest.approx(errors["2"])
    assert library["both"].card.recipe["relative_error"] == found["relative_error"]
    path = "model.layers.0.self_attn.q_proj"
    wanted = dense(library, {"law": 1, "code": 1}, path)
    merged = library["both"].payload.lora[path]
    assert merged.rank == 2
    error = float((merged.delta() - wanted).norm() / wanted.norm())
    assert found["error_by_layer"][path] == pytest.approx(error, abs=1e-5)


def test_a_negative_expert_is_kept_as_it_is(ask, library):
    assert ask("library", "merge", "(-law)", "--library", library.path, "--as", "anti")[0] == 0
    path = "model.layers.1.mlp.up_proj"
    torch.testing.assert_close(library["anti"].payload.lora[path].delta(), -dense(library, {"law": 1}, path))


def test_a_dry_run_leaves_nothing(ask, library):
    before = snapshot(library.path)
    code, found, _ = ask("library", "merge", "law-code", "--library", library.path, "--as", "x", "--dry-run")
    assert (code, found["would_add"]) == (0, "x")
    assert "added" not in found
    assert snapshot(library.path) == before


@pytest.mark.parametrize("method", [name for name, way in WAYS.items() if not (way.base or way.data or way.texts)])
def test_methods_take_lists(ask, library, method):
    code, found, shown = ask(
        "library", "merge", "law, code - 0.5*code-2", "--library", library.path, "--as", "x", "--method", method
    )
    assert code == 0, shown
    assert found["method"] == method
    assert found["operands"] == ["law", "(code - (0.5 * 'code-2'))"]
    assert 0 <= found["relative_error"] < 1
    assert (found["relative_error"] > 0) == (method not in ("average", "linear"))
    assert list(library["x"].card.parents) == ["code", "code-2", "law"]


@pytest.mark.parametrize("method", WAYS)
def test_every_way_can_be_planned(ask, library, texts, method):
    way, before = WAYS[method], snapshot(library.path)
    reads = [*(("--data", texts) if way.data else ()), *(("--texts", texts) if way.texts else ())]
    words = ("library", "merge", "law, code", "--library", library.path, "--as", "x", "--method", method, *reads)
    code, found, shown = ask(*words, "--dry-run")
    assert code == 0, shown
    assert found.get("would_add", "x") == "x"
    assert snapshot(library.path) == before


def test_every_way_may_be_asked_for():
    assert set(get_args(get_type_hints(MergeConfig)["method"])) == set(WAYS)


def test_nothing_named_means_all(ask, library):
    code, found, _ = ask("library", "merge", "--library", library.path, "--as", "x", "--method", "average")
    assert code == 0
    assert found["weights"] == dict.fromkeys(("code", "code-2", "law"), 1 / 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "there is nothing to merge"),
        (("law +",), "character 6"),
        (("law + code", "--method", "ties"), "with commas between them"),
        (("law, code", "--method", "ties", "--density", 2), "density is the share"),
        (("law, code", "--method", "soup"), "give --data FOLDER"),
        (("law, code", "--method", "regmean"), "give --texts FOLDER"),
        (("law", "--data", "texts"), "reads no --data"),
        (("law", "--as", "code"), "has 'code' already"),
        (("law", "--as", "../x"), "Names never have path parts"),
        (("law", "--method", "tie"), "invalid choice"),
    ],
)
def test_mistakes_are_answered_and_leave_nothing(ask, library, words, says):
    before = snapshot(library.path)
    ending = () if "--as" in words else ("--as", "x")
    code, found, shown = ask("library", "merge", *words, "--library", library.path, *ending)
    assert (code, found) == (2, None)
    assert says in " ".join(shown.replace("│", " ").split())
    assert "Traceback" not in shown
    assert snapshot(library.path) == before


def test_whole_models_are_refused_by_name_and_left_out_of_all(ask, base, library):
    library.add(Expert(ExpertCard(name="tree", kind="whole", base=base.fingerprint), WholePayload(base.model)))
    code, found, shown = ask("library", "merge", "law + tree", "--library", library.path, "--as", "x")
    assert (code, found) == (2, None)
    assert "'tree' is a whole model" in shown
    code, found, _ = ask("library", "merge", "--library", library.path, "--as", "x", "--method", "average")
    assert (code, found["operands"]) == (0, ["code", "code-2", "law"])


def test_rescalings_are_merged_whole(ask, base, library):
    for seed, name in enumerate(("calm", "loud")):
        draw = torch.Generator().manual_seed(seed)
        adapter = {
            path: Ia3Weights(1 + 0.1 * torch.randn(outputs, generator=draw))
            for path, (_, outputs) in base.linear_sites(["k_proj", "v_proj"]).items()
        }
        card = ExpertCard(name=name, kind="ia3", base=base.fingerprint)
        library.add(Expert(card, adapter_payload(base, adapter)))
    code, found, shown = ask("library", "merge", "calm - 0.5*loud", "--library", library.path, "--as", "x")
    assert code == 0, shown
    assert (found["kind"], found["rank"], found["relative_error"]) == ("ia3", None, 0.0)
    for path, part in library["x"].payload.adapter.items():
        wanted = library["calm"].payload.adapter[path].factors - 0.5 * (
            library["loud"].payload.adapter[path].factors - 1
        )
        torch.testing.assert_close(part.factors, wanted)
    code, _, shown = ask("library", "merge", "calm", "--rank", 2, "--library", library.path, "--as", "y")
    assert code == 2
    assert "have no rank" in shown


# -- methods that read texts ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(base, texts):
    config = FitConfig(rank=2, steps=25, batch=2, window=48, learning_rate=1e-2, dev_tokens=128, patience=0, threads=1)
    return {domain.name: fit_expert(base, domain, config=config) for domain in read_domains(texts)}


@pytest.fixture
def college(base, pico_folder, tmp_path, trained):
    made = Library(tmp_path / "college", base=base, base_reference=str(pico_folder))
    for each in trained.values():
        made.add(each)
    return made


@pytest.fixture
def law_alone(texts, tmp_path):
    folder = tmp_path / "new" / "law"
    folder.mkdir(parents=True)
    for path in (texts / "law").iterdir():
        (folder / path.name).write_text(path.read_text())
    return folder.parent


def test_weights_are_searched_on_dev_text(ask, college, law_alone):
    words = ("library", "merge", "law, code", "--library", college.path, "--data", law_alone, "--method", "lorahub")
    words = (*words, "--window", 48, "--evaluations", 14, "--tokens", 200, "--dtype", "float32")
    code, found, shown = ask(*words, "--as", "mine")
    assert code == 0, shown
    search = found["search"]
    assert search["evaluations"] <= 14
    assert search["nats_per_token"] < search["base_nats_per_token"] - 0.2
    assert found["weights"]["law"] > 0.3
    assert found["weights"]["law"] > abs(found["weights"]["code"])
    card = college["mine"].card
    assert set(card.documents["dev"]) >= set(read_domains(law_alone)["law"].split().hashes["dev"])
    again, same, _ = ask(*words, "--as", "again")
    assert again == 0
    assert same["weights"] == found["weights"]


def test_a_soup_leaves_out_who_does_not_help(ask, college, law_alone):
    code, found, shown = ask(
        "library", "merge", "law, code", "--library", college.path, "--as", "mine", "--data", law_alone,
        "--method", "soup", "--window", 48, "--tokens", 200, "--dtype", "float32",
    )  # fmt: skip
    assert code == 0, shown
    assert found["weights"]["law"] in (1.0, 0.5)
    assert found["search"]["evaluations"] == 3


def test_the_nearest_by_text_are_averaged(ask, college, texts, law_alone):
    code, found, shown = ask(
        "library", "merge", "--library", college.path, "--as", "mine", "--data", law_alone, "--texts", texts,
        "--method", "adaptersoup", "--nearest", 1,
    )  # fmt: skip
    assert code == 0, shown
    assert found["weights"] == {"code": 0.0, "law": 1.0}
    assert found["similarity"]["law"] > found["similarity"]["code"]
    path = "model.layers.0.self_attn.q_proj"
    assert isinstance(college["mine"].payload.adapter[path], LoraWeights)
    assert list(college["mine"].card.parents) == ["law"]


def test_the_regression_mean_reads_each_experts_own_texts(ask, college, texts):
    code, found, shown = ask(
        "library", "merge", "law, code", "--library", college.path, "--as", "mine", "--texts", texts,
        "--method", "regmean", "--window", 48, "--tokens", 200, "--dtype", "float32",
    )  # fmt: skip
    assert code == 0, shown
    assert found["relative_error"] == 0.0
    assert found["rank"] == 4
    code, _, shown = ask(
        "library", "merge", "law, 2*code", "--library", college.path, "--as", "other", "--texts", texts,
        "--method", "regmean",
    )  # fmt: skip
    assert code == 2
    assert "takes experts by name" in shown


def test_a_search_can_be_planned(ask, college, law_alone):
    before = snapshot(college.path)
    code, found, _ = ask(
        "library", "merge", "--library", college.path, "--as", "mine", "--data", law_alone, "--method", "lorahub",
        "--dry-run",
    )  # fmt: skip
    assert (code, found["plan"]["blends"]) == (0, 80)
    assert snapshot(college.path) == before
