"""`router fit / eval` and `library derive`, and gates named in references, from the command line on."""

import shutil

import pytest

from collegium.library import Library
from collegium.models import load_base

SMALL = ("--steps", 4, "--window", 32, "--batch", 2, "--evaluate-every", 2, "--dev-tokens", 64, "--memory-tokens", 256)
EXPERT = ("--rank", 2, "--steps", 6, "--window", 32, "--batch", 2, "--dev-tokens", 64)


@pytest.fixture(scope="module")
def made(tmp_path_factory, pico_folder, texts):
    """A library of two experts, made by the command line once."""
    from collegium.cli.main import main

    folder = tmp_path_factory.mktemp("gates")
    words = ["train", texts, "--library", folder / "college", "--base", pico_folder, "--out", folder / "work", *EXPERT]
    assert main([*map(str, words), "--json"]) == 0
    return folder / "college"


@pytest.fixture
def college(made, tmp_path):
    return shutil.copytree(made, tmp_path / "college")


def test_gates_speak_wherever_a_model_is_named(ask, college, texts):
    reference = f"{college}?compose=mix&router=arrow:top_k=1"
    code, found, _ = ask("eval", texts, "--model", reference, "--context", 8)
    assert code == 0
    assert set(found["composed"]) == {"law", "code"}
    assert found["routing"]["accuracy"] is not None
    code, found, _ = ask("generate", "Article", "--model", f"{college}?router=arrow", "--tokens", 4)
    assert code == 0, "gates are used in mix where no composition is named"
    code, _, shown = ask("eval", texts, "--model", f"{college}?router=arrow:top_k=0", "--context", 8)
    assert code == 2
    assert "at least one expert, got 0" in shown
    code, _, shown = ask("eval", texts, "--model", f"{college}?router=arrow:temperature=nan", "--context", 8)
    assert code == 2
    assert "finite number, got nan" in shown


@pytest.mark.recipe
def test_gates_are_fitted_kept_and_looked_at(ask, college, texts):
    for router in ("phatgoose", "xlora"):
        code, found, shown = ask("router", "fit", router, texts, "--library", college, *SMALL)
        assert code == 0, shown
        assert set(found["experts"]) == {"law", "code"}
        assert found["experts"]["law"]["held_out_nats"] <= found["experts"]["law"]["held_out_nats_before"]
        code, found, shown = ask("router", "eval", texts, "--model", f"{college}?router={router}", "--context", 8)
        assert code == 0, shown
        assert found["way"] == f"mix {router}"
        assert sum(found["weights"]["law"].values()) == pytest.approx(1, abs=1e-4)
        assert found["places"]
    code, found, _ = ask("compare", texts, "--library", college, "--context", 8, "--keep-default")
    assert code == 0
    assert {"mix arrow", "mix phatgoose", "mix xlora"} <= {row["name"] for row in found["rows"]}


@pytest.mark.recipe
def test_routers_are_fitted_one_by_one(ask, college, texts):
    for router in ("classifier", "cluster", "cached_prior"):
        library = Library(college)
        before = library.load_router(router)[1]
        library.remove(router)
        code, found, shown = ask("router", "fit", router, texts, "--library", college)
        assert code == 0, shown
        assert set(found["experts"]) == {"law", "code"}
        assert Library(college).load_router(router)[1]["experts"] == before["experts"]
    code, found, _ = ask("router", "eval", texts, "--model", f"{college}?router=classifier", "--context", 8)
    assert code == 0
    assert found["places"] == {}
    assert found["weights"]["law"]["law"] > found["weights"]["law"]["code"]


def test_arrow_needs_no_text(ask, college):
    code, found, _ = ask("router", "fit", "arrow", "--library", college)
    assert (code, set(found["experts"])) == (0, {"law", "code"})


@pytest.mark.recipe
def test_a_newcomer_makes_fits_stale_and_a_new_fit_mends_it(ask, college, texts, pico_folder):
    ask("router", "fit", "xlora", texts, "--library", college, *SMALL)
    ask("router", "fit", "phatgoose", texts, "--library", college, *SMALL)
    library = Library(college, base=load_base(str(pico_folder)))
    library.add(library["law"], name="twin")
    for router, says in (("xlora", "twin came"), ("phatgoose", "without ['twin']")):
        code, _, shown = ask("eval", texts, "--model", f"{college}?router={router}", "--context", 8)
        assert code == 2
        assert says in shown
        assert f"router fit {router}" in shown
    code, found, _ = ask("library", "remove", "code", "--library", college)
    assert code == 0
    assert any("router fit xlora" in trace for trace in found["traces"])
    assert "code" not in Library(college).load_router("phatgoose")[1]["experts"]
    code, _, shown = ask("eval", texts / "law", "--model", f"{college}?experts=law&router=phatgoose", "--context", 8)
    assert code == 0, shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fit", "arow"), "Did you mean 'arrow'"),
        (("fit", "xlora"), "is fitted on texts"),
        (("fit", "arrow", "--experts", "law"), "--experts is for phatgoose alone"),
        (("fit", "classifier", "TEXTS", "--width", 8), "--width is for xlora alone"),
        (("fit", "phatgoose", "TEXTS", "--experts", "lw"), "Did you mean 'law'"),
        (("fit", "phatgoose", "TEXTS", "--learning-rate", "nan"), "learning_rate is positive"),
    ],
)
def test_mistakes_in_fits(ask, college, texts, words, says):
    told = [texts if word == "TEXTS" else word for word in words]
    code, _, shown = ask("router", *told, "--library", college)
    assert code == 2
    assert says in shown


def test_texts_of_nobodys_domain_are_refused(ask, college, tmp_path):
    (tmp_path / "else" / "poems").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "else" / "poems" / f"{number}.txt").write_text(
            f"Shall I compare thee to summer day {number}?\n" * 4
        )
    code, _, shown = ask("router", "fit", "xlora", tmp_path / "else", "--library", college)
    assert code == 2
    assert "experts' own domains" in shown


def test_what_does_not_route_is_not_looked_at(ask, college, texts):
    for reference in (f"{college}#law", f"{college}?compose=merge&router=uniform"):
        code, _, shown = ask("router", "eval", texts, "--model", reference, "--context", 8)
        assert code == 2
        assert "does not route" in shown


@pytest.mark.recipe
def test_plans_make_nothing(ask, college, texts):
    code, found, _ = ask("router", "fit", "phatgoose", texts, "--library", college, *SMALL, "--dry-run")
    assert code == 0
    assert found["plan"]["tokens"] == 2 * 4 * 2 * 32
    assert "phatgoose" not in Library(college).router_names()
    code, found, _ = ask("router", "eval", texts, "--model", college, "--context", 8, "--dry-run")
    assert found["plan"]["rows"] == 4


@pytest.mark.recipe
def test_derivations(ask, college, texts, tmp_path):
    code, found, _ = ask("library", "derive", "prototypes", "--library", college)
    assert code == 0
    assert set(found["layers"]) == {"law", "code"}
    code, found, _ = ask("library", "derive", "clusters", "--library", college, "--clusters", 2)
    assert code == 0
    assert found["clusters"] == {"mbc-0": ["code"], "mbc-1": ["law"]}
    into = tmp_path / "derived"
    words = ("library", "derive", "clusters", texts, "--train", "--library", college, "--clusters", 1, "--into", into)
    code, found, shown = ask(*words, "--out", tmp_path / "work", *EXPERT)
    assert code == 0, shown
    assert found["trained"]["mbc-0"]["domains"] == ["code", "law"]
    card = Library(into).card("mbc-0")
    assert dict(card.parents) == {name: Library(college).expert_digest(name) for name in ("code", "law")}
    assert card.recipe["steps"] == 12
    code, found, _ = ask(*words, "--out", tmp_path / "work", *EXPERT)
    assert (code, found["trained"]) == (0, {})
    code, _, shown = ask("eval", texts, "--model", f"{into}#mbc-0", "--context", 8)
    assert code == 0, shown


@pytest.mark.recipe
def test_subtraction_makes_a_library_of_its_own(ask, college, texts, tmp_path):
    into = tmp_path / "own"
    words = ("library", "derive", "subtract", "--library", college, "--into", into)
    code, found, _ = ask(*words, "--dry-run")
    assert found["would_add"] == ["code-own", "law-own"]
    code, found, shown = ask(*words)
    assert code == 0, shown
    assert found["added"] == ["code-own", "law-own"]
    library = Library(into)
    assert set(library.card("law-own").parents) == {"law", "code"}
    assert set(library.card("law-own").documents["train"]) > set(Library(college).card("law").documents["train"])
    assert ask(*words)[1]["added"] == []
    assert ask("library", "verify", "--library", into)[0] == 0
    code, _, shown = ask("eval", texts, "--model", f"{into}?router=arrow", "--context", 8)
    assert code == 0, shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("protypes",), "Did you mean 'prototypes'"),
        (("prototypes", "--train"), "--train is for clusters alone"),
        (("clusters", "--train"), "go together"),
        (("clusters", "--clusters", 9), "9 clusters need"),
        (("subtract", "--general", "lw"), "Did you mean 'law'"),
        (("clusters", "--general", "law"), "--general is for subtract alone"),
    ],
)
def test_mistakes_in_derivations(ask, college, words, says):
    code, _, shown = ask("library", "derive", *words, "--library", college)
    assert code == 2
    assert says in shown


def test_a_name_that_is_taken_is_refused_before_training(ask, college, texts):
    words = ("library", "derive", "clusters", texts, "--train", "--library", college, "--clusters", 1, *EXPERT)
    library = Library(college)
    library.add(library["law"], name="mbc-0")
    code, _, shown = ask(*words, "--experts", "law", "code")
    assert code == 2
    assert "another expert 'mbc-0'" in shown
