"""The whole line on a pico base: build, then everything a user does with what it leaves."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from listening import Log

from collegium.core.errors import ConfigError, DataError, LibraryError, NameTaken, UnknownName
from collegium.data import cut, read_domains
from collegium.experts import FitConfig
from collegium.infer import Sampling, held_out
from collegium.library import Library
from collegium.models import load_base
from collegium.recipes import build, compare, dense, evaluate, generate, train
from collegium.recipes.building import newcomer, training
from collegium.recipes.common import Common
from collegium.recipes.keep import remove_expert
from collegium.recipes.reserved import NEWCOMER
from collegium.recipes.watch import Silent
from collegium.testing.library import snapshot

pytestmark = [pytest.mark.recipe, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
COMMON = Common(device="cpu", dtype="float32", threads=1)
FIT = FitConfig(rank=4, window=64, batch=8, learning_rate=1e-2, evaluate_every=10)
DOMAINS = {"law", "sea", "kitchen"}


@pytest.fixture(scope="session")
def built(texts: Path, pico_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("built")
    config = build.BuildConfig(
        data=texts,
        library=root / "library",
        base=str(pico_folder),
        budget="20k",
        eval_window=64,
        context=16,
        out=root / "out",
        fit=dataclasses.replace(FIT, steps=build.FULL_STEPS),
        common=COMMON,
    )
    log = Log()
    return config, build.run(config, watch=log), log


def test_every_expert_is_best_on_its_own_domain(built):
    matrix = built[1].result["matrix"]
    for domain in DOMAINS:
        assert min(matrix, key=lambda name: matrix[name][domain]) == domain


def test_the_composition_beats_the_base_and_stays_near_the_oracle(built):
    result = built[1].result
    for domain in DOMAINS:
        assert result["composed"][domain] < result["base"][domain]
        assert result["composed"][domain] < 1.03 * result["oracle"][domain]


def test_the_result_has_the_promised_shape(built):
    result = json.loads(json.dumps(built[1].result, allow_nan=False))
    assert set(result["base"]) == set(result["composed"]) == set(result["oracle"]) == DOMAINS
    assert set(result["routing"]) == {"accuracy", "regret_nats_per_token", "ece"}
    assert set(result["discovered"]) == {"nmi"}
    assert result["discovered"]["nmi"] > 0.8
    assert result["seconds"] > 0


def test_a_further_expert_leaves_no_trace(built):
    removed = built[1].result["removed"]
    assert removed["largest_change"] == 0.0
    assert NEWCOMER not in Library(built[0].library)
    assert any(value != 0 for value in removed["while_present_nats"].values())


def test_an_interrupted_visit_leaves_no_trace(built, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    base = load_base(built[0].base)
    library = Library(shutil.copytree(built[0].library, tmp_path / "library"), base=base)
    domain = next(iter(read_domains(built[0].data)))
    text = held_out({domain.name: cut(domain.split().test, base.tokenizer, window=64)}, context=16)
    monkeypatch.setattr(newcomer, "composed", lambda *_: None)
    monkeypatch.setattr(newcomer, "route_to", interrupted)
    with pytest.raises(KeyboardInterrupt):
        newcomer.visit(base, library, text, domain, FIT, steps=1, watch=Silent())
    assert set(library.names()) == DOMAINS


@pytest.mark.parametrize("name", ["cluster", "classifier", "cached_prior", NEWCOMER])
def test_domains_of_reserved_names_are_refused_before_anything_is_loaded(texts, tmp_path, name):
    shutil.copytree(texts / "law", tmp_path / "texts" / name)
    for recipe, config in ((build, build.BuildConfig), (train, train.TrainConfig)):
        with pytest.raises((DataError, NameTaken), match=f"'{name}'"):
            recipe.run(
                config(tmp_path / "texts", tmp_path / "library", base="none", out=tmp_path / "out"), watch=Silent()
            )


def test_one_domain_has_no_clusters_to_agree_with(built, texts, tmp_path):
    shutil.copytree(texts / "law", tmp_path / "texts" / "law")
    config = dataclasses.replace(
        built[0], data=tmp_path / "texts", library=tmp_path / "library", out=tmp_path / "out", budget="2k"
    )
    result = build.run(config, watch=Silent()).result
    assert result["discovered"] is None
    assert "NMI" not in (tmp_path / "out" / "report.html").read_text()


def test_the_plan_comes_first_and_the_first_result_before_the_rest(built):
    lines = built[2].lines
    assert lines[0].startswith("domains")
    assert any(line.startswith("first result after") for line in lines)


def test_the_report_is_one_file_that_needs_nothing_else(built):
    page = (built[0].out / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?https?:", page)
    assert "Who speaks" in page


def test_a_long_first_expert_is_shown_under_way_and_trained_the_same(built, texts, tmp_path, monkeypatch):
    config, only = built[0], tmp_path / "texts"
    shutil.copytree(texts / "law", only / "law")
    base, corpus = load_base(config.base), read_domains(only)
    fit = dataclasses.replace(config.fit, steps=6)
    cards = []
    for seconds in (0.0, 1e6):
        monkeypatch.setattr(training, "FIRST_RESULT_SECONDS", seconds)
        log, library = Log(), Library(tmp_path / f"library-{seconds:g}", base=base)
        training.train_one(base, library, corpus["law"], fit, folder=tmp_path / "c", watch=log, start=0.0)
        shown = [line for line in log.lines if line.startswith("first result after")]
        assert len(shown) == 1
        assert (", at step 1: " in shown[0]) == (seconds == 0)
        cards.append(library.card("law").payload)
    assert cards[0] == cards[1]


def test_a_second_run_finds_everything_done(built, monkeypatch):
    def refuse(*arguments, **names):
        raise AssertionError("nothing is trained or scored twice")

    monkeypatch.setattr("collegium.recipes.building.training.fit_domain", refuse)
    monkeypatch.setattr("collegium.recipes.build.fill_table", refuse)
    monkeypatch.setattr("collegium.recipes.building.newcomer.fit_expert", refuse)
    again = build.run(built[0], watch=Silent())
    assert again.result["composed"] == built[1].result["composed"]


def test_a_dry_run_shows_the_plan_and_makes_nothing(built, tmp_path):
    config = dataclasses.replace(built[0], library=tmp_path / "none", out=tmp_path / "out", dry_run=True)
    found = build.run(config, watch=Silent()).result
    assert found["plan"]["steps"] > 0
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "out").exists()


def test_experts_of_an_earlier_run_keep_their_own_figures(built, tmp_path):
    library = Library(shutil.copytree(built[0].library, tmp_path / "library"))
    config = dataclasses.replace(built[0], library=library.path, out=tmp_path / "out", budget="4k")
    log = Log()
    found = build.run(config, watch=log).result
    own = {name: library.card(name).tokens_seen for name in DOMAINS}
    assert found["tokens_seen"] == own
    assert min(own.values()) > 2 * found["plan"]["tokens_per_expert"]
    kept = f"law: is in the library, made with other settings or from other texts ({own['law']:,} training tokens)"
    assert kept in log.lines
    assert f"{own['law']:,}" in (tmp_path / "out" / "report.html").read_text()
    few = dataclasses.replace(FIT, steps=2)
    with pytest.raises(ConfigError, match="another --library"):
        build.run(dataclasses.replace(config, budget="full", fit=few, out=tmp_path / "full"), watch=Silent())


def test_steps_beside_a_budget_that_decides_them_are_refused(built):
    config = dataclasses.replace(built[0], fit=dataclasses.replace(FIT, steps=30))
    with pytest.raises(ConfigError, match=r"--budget 15360 .* --budget full --steps 30"):
        build.run(config, watch=Silent())


def test_dry_runs_of_the_other_commands_make_nothing(built, texts, tmp_path):
    library = tmp_path / "none"
    config = train.TrainConfig(data=texts, library=library, base=built[0].base, dry_run=True, fit=FIT, common=COMMON)
    assert train.run(config, watch=Silent()).result["plan"]["expected_seconds"] > 0
    whole = dataclasses.replace(
        config, whole=True, domains=("law",), fit=dataclasses.replace(FIT, rank=FitConfig().rank)
    )
    assert train.run(whole, watch=Silent()).result["plan"]["domains"] == ["law"]
    assert not library.exists()
    judged = evaluate.EvalConfig(data=texts, model=str(built[0].library), dry_run=True, common=COMMON)
    assert evaluate.run(judged, watch=Silent()).result["plan"]["rows"] == 5
    compared = compare.CompareConfig(data=texts, library=built[0].library, dry_run=True, common=COMMON)
    assert compare.run(compared, watch=Silent()).result["plan"]["tokens"] > 0


def test_the_full_budget_adds_dense_baselines_and_cluster_experts(built, tmp_path, monkeypatch):
    few = dataclasses.replace(FIT, steps=4)
    config = dataclasses.replace(built[0], library=tmp_path / "library", out=tmp_path / "out", budget="full", fit=few)
    result = build.run(config, watch=Silent()).result
    names = [row["name"] for row in result["baselines"]]
    assert names[:2] == ["dense", "dense rank 12"]
    assert "c-BTM, ensemble cluster top-2" in names
    assert "dense rank 12" in (tmp_path / "out" / "report.html").read_text()
    assert [row["learning_rate"] in dense.LEARNING_RATES for row in result["baselines"][:2]] == [True, True]
    assert result["plan"]["steps"] == few.steps
    many = len(DOMAINS) * few.steps * FIT.tokens_per_step
    assert all(0.9 * many < row["tokens_seen"] <= many for row in result["baselines"][:2])
    monkeypatch.setattr(dense, "fit_union", None)
    assert build.run(config, watch=Silent()).result["baselines"] == result["baselines"], "nothing is trained twice"


def test_the_full_budget_without_enough_texts_for_cluster_experts_says_so(built, texts, tmp_path, monkeypatch):
    for domain in DOMAINS:
        (tmp_path / "texts" / domain).mkdir(parents=True)
        for path in sorted((texts / domain).iterdir())[:4]:
            shutil.copy(path, tmp_path / "texts" / domain)
    few, out = dataclasses.replace(FIT, steps=2), tmp_path / "out"
    config = dataclasses.replace(built[0], data=tmp_path / "texts", library=tmp_path / "library", out=out, fit=few)
    dense_row = {**built[1].result["columns"][0], "name": "dense"}
    monkeypatch.setattr(build, "dense_rows", lambda *_, **__: [dense_row])
    log = Log()
    result = build.run(dataclasses.replace(config, budget="full"), watch=log).result
    assert result["baselines"] == [dense_row]
    assert any(line.startswith("no cluster experts to compare with: a cluster needs") for line in log.lines)
    assert "none were trained: a cluster needs at least 3 documents" in (out / "report.html").read_text()


def test_eval_scores_what_no_member_has_seen(built, texts):
    config = evaluate.EvalConfig(data=texts, model=str(built[0].library), window=64, context=16, common=COMMON)
    found = evaluate.run(config, watch=Silent()).result
    assert found["skipped_documents"] > 0
    for domain in DOMAINS:
        assert found["composed"][domain] == pytest.approx(built[1].result["composed"][domain], rel=1e-5)


@pytest.mark.parametrize(
    "query", ["?router=posterior&compose=mix", "?compose=merge", "?experts=law,sea&router=uniform"]
)
def test_eval_of_other_compositions(built, texts, query):
    model = f"{built[0].library}{query}"
    config = evaluate.EvalConfig(data=texts, model=model, window=64, context=16, budget="600", common=COMMON)
    found = evaluate.run(config, watch=Silent()).result
    assert all(value > 1 for value in found["composed"].values())


def test_eval_of_one_expert_is_its_row_of_the_matrix(built, texts):
    model = f"{built[0].library}#law"
    config = evaluate.EvalConfig(data=texts, model=model, window=64, context=16, common=COMMON)
    found = evaluate.run(config, watch=Silent()).result
    assert found["composed"] == found["matrix"]["law"]


def test_eval_of_the_base_alone(texts, pico_folder):
    config = evaluate.EvalConfig(data=texts, model=str(pico_folder), window=64, context=16, common=COMMON)
    found = evaluate.run(config, watch=Silent()).result
    assert found["composed"] == found["base"]
    assert found["matrix"] == {}


def test_compare_sets_the_best_as_default(built, texts):
    config = compare.CompareConfig(
        data=texts, library=built[0].library, window=64, context=16, budget="900", common=COMMON
    )
    found = compare.run(config, watch=Silent()).result
    names = [row["name"] for row in found["rows"]]
    assert {"base", "oracle", "ensemble uniform", "ensemble posterior", "mix posterior", "merge uniform"} <= set(names)
    assert found["best"] in names
    library = Library(built[0].library)
    assert library.defaults.composition is not None
    library.set_defaults()


def test_compare_within_the_base_speed_leaves_merges(built, texts):
    config = compare.CompareConfig(
        data=texts,
        library=built[0].library,
        window=64,
        context=16,
        budget="600",
        max_slowdown=1.0,
        keep_default=True,
        common=COMMON,
    )
    best = compare.run(config, watch=Silent()).result["best"]
    assert best is None or best.startswith("merge")
    with pytest.raises(ConfigError, match="--max-slowdown"):
        compare.run(dataclasses.replace(config, max_slowdown=0.5), watch=Silent())


def test_generate_says_who_spoke(built):
    config = generate.GenerateConfig(
        prompt="Court statute plaintiff ", model=str(built[0].library), sampling=Sampling(tokens=12), common=COMMON
    )
    found = generate.run(config, watch=Silent()).result
    assert max(found["speakers"], key=found["speakers"].get) == "law"
    fixed = dataclasses.replace(config, experts="sea=.7,law=.3")
    assert set(generate.run(fixed, watch=Silent()).result["speakers"]) >= {"sea", "law"}


def test_train_leaves_alone_what_is_there_and_adds_the_rest(built, texts, tmp_path):
    config = train.TrainConfig(
        data=texts,
        library=tmp_path / "library",
        base=built[0].base,
        domains=("law",),
        out=tmp_path / "out",
        fit=dataclasses.replace(FIT, steps=4),
        common=COMMON,
    )
    first = train.run(config, watch=Silent()).result["experts"]
    assert set(first) == {"law"}
    second = train.run(dataclasses.replace(config, domains=()), watch=Silent()).result["experts"]
    assert set(second) == {"sea", "kitchen"}
    with pytest.raises(UnknownName, match="kitchen"):
        train.run(dataclasses.replace(config, domains=("kitchn",)), watch=Silent())


def test_a_model_that_saw_everything_cannot_be_judged(built, texts, tmp_path):
    only = tmp_path / "texts" / "law"
    only.mkdir(parents=True)
    card = Library(built[0].library).card("law")
    hashes = {each for part in card.documents.values() for each in part}
    for document in read_domains(texts)["law"].documents:
        if document.hash in hashes:
            (only / f"{document.hash[:8]}.txt").write_text(document.text)
    config = evaluate.EvalConfig(data=tmp_path / "texts", model=str(built[0].library), common=COMMON)
    with pytest.raises(DataError, match="trained on"):
        evaluate.run(config, watch=Silent())


def test_an_unknown_expert_is_told_with_the_nearest(built, texts):
    config = evaluate.EvalConfig(data=texts, model=f"{built[0].library}#lw", common=COMMON)
    with pytest.raises(UnknownName, match="law"):
        evaluate.run(config, watch=Silent())


def test_a_removal_killed_before_the_expert_went_is_finished_by_the_same_call(built, tmp_path, monkeypatch):
    library = Library(shutil.copytree(built[0].library, tmp_path / "library"))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Library, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_expert(library, "sea")
    assert "sea" in library
    assert library.verify() == {}
    remove_expert(library, "sea")
    assert "sea" not in library
    assert all("sea" not in library.load_router(name)[1]["experts"] for name in library.router_names())


def test_a_refused_removal_touches_no_router(built, tmp_path):
    library = Library(shutil.copytree(built[0].library, tmp_path / "library"))
    library.save_model("pair", {"members": ["law", "sea"]})
    before = snapshot(library.path)
    with pytest.raises(LibraryError, match="pair"):
        remove_expert(library, "sea")
    with pytest.raises(ConfigError, match="not both"):
        remove_expert(library, "sea", cascade=True, keep_descendants=True)
    assert snapshot(library.path) == before


def test_a_removed_expert_is_gone_from_every_router(built, texts, pico_folder, tmp_path):
    config = dataclasses.replace(built[0], library=tmp_path / "library", out=tmp_path / "out", budget="4k")
    build.run(config, watch=Silent())
    library = Library(config.library)
    traces = remove_expert(library, "sea")
    assert "sea" not in library
    assert any("classifier" in line for line in traces)
    left = tmp_path / "two"
    for domain in ("law", "kitchen"):
        (left / domain).mkdir(parents=True)
        for path in (texts / domain).iterdir():
            (left / domain / path.name).write_text(path.read_text())
    found = evaluate.run(
        evaluate.EvalConfig(data=left, model=str(config.library), window=64, context=16, common=COMMON), watch=Silent()
    ).result
    assert set(found["matrix"]) == {"law", "kitchen"}
