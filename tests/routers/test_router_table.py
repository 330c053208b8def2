import dataclasses
from importlib.metadata import EntryPoint

import pytest

from collegium.core.errors import CollegiumError, ConfigError
from collegium.core.names import FITTED_ROUTERS
from collegium.core.tables import Method
from collegium.routers import (
    ENTRY_POINTS,
    ROUTERS,
    available,
    cached_prior,
    classifier,
    cluster,
    default,
    fixed,
    parse,
    posterior,
    table,
    uniform,
)


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("uniform", uniform()),
        ("posterior", posterior()),
        ("posterior:decay=0.9", posterior(decay=0.9)),
        ("posterior:prior=cached_prior,decay=1", posterior(cached_prior())),
        ("posterior:prior=none", posterior()),
        ("cluster:temperature=0.5,top_k=2", cluster(temperature=0.5, top_k=2)),
        ("cluster:top_k=none", cluster()),
        ("cached_prior:fit=mine", cached_prior(fit="mine")),
        ("classifier:threshold=0.7", classifier(threshold=0.7)),
        ("default", default()),
        ("fixed:law=0.7,code=0.3", fixed({"law": 0.7, "code": 0.3})),
        ("fixed", fixed({})),
    ],
)
def test_text_names_a_router(text: str, recipe: object):
    assert parse(text) == recipe


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("postrior", "Did you mean 'posterior'"),
        ("cluster:temprature=0.1", "Did you mean 'temperature'"),
        ("cluster:temperature", "KEY=VALUE"),
        ("cluster:temperature=", "KEY=VALUE"),
        ("cluster:temperature=warm", "not a number"),
        ("cluster:top_k=1.5", "not a whole number"),
        ("cluster:top_k=0", "at least one"),
        ("cluster:temperature=0", "above 0"),
        ("posterior:prior=cached", "Did you mean 'cached_prior'"),
        ("fixed:law=much", "not a number"),
        ("oracle", "true domain"),
        ("posterior:prior=oracle", "true domain"),
        ("uniform:weight=1", "unknown argument 'weight'"),
        ("fixed:law=0.5,law=0.5", "'law' is given twice"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(text: str, says: str):
    with pytest.raises(CollegiumError, match=says):
        parse(text)


def test_each_row_builds_a_frozen_recipe_of_its_own_name():
    arguments = {"fixed": ({},), "oracle": ({},)}
    for name, method in ROUTERS.items():
        recipe = method.build(*arguments.get(name, ()))
        assert recipe.name == name
        assert dataclasses.is_dataclass(recipe)
        assert method.growth == "exact"
        assert method.summary


def test_installed_packages_bring_routers(monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint("loudest", "collegium.routers.table:ROUTERS", ENTRY_POINTS)
    outside = Method(uniform, growth="exact")
    monkeypatch.setattr(EntryPoint, "load", lambda self: outside)
    monkeypatch.setattr(table, "entry_points", lambda *, group: [point] if group == ENTRY_POINTS else [])
    assert available()["loudest"] is outside
    assert parse("loudest") == uniform()
    assert "loudest" not in ROUTERS


@pytest.mark.parametrize(("name", "value", "says"), [("uniform", Method(uniform), "taken"), ("own", 3, "not a Method")])
def test_packages_that_bring_what_is_no_new_router_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, says: str
):
    point = EntryPoint(name, "elsewhere:thing", ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda self: value)
    monkeypatch.setattr(table, "entry_points", lambda *, group: [point])
    with pytest.raises(ConfigError, match=says):
        available()


def test_the_names_under_which_fits_are_kept_are_reserved():
    arguments = {"fixed": ({},), "oracle": ({},)}
    recipes = [method.build(*arguments.get(name, ())) for name, method in ROUTERS.items()]
    assert {recipe.fit for recipe in recipes if hasattr(recipe, "fit")} == set(FITTED_ROUTERS)
