"""The page of tasks one after another says what the cards say."""

import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def streams(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    yield importlib.import_module("stream_tables").streams
    for name in ("stream_tables", "reward_tables"):
        sys.modules.pop(name, None)


def method(*accuracies, told=False, rate=1e-3):
    orders = [
        {"average_accuracy": each, "forgetting": 0.25, "backward_transfer": -0.25, "matrix": [], "routing": None}
        for each in accuracies
    ]
    return {
        "average_accuracy": sum(accuracies) / len(accuracies), "orders": orders, "forward_transfer": 0.5,
        "parameters": 1_500_000, "rate": rate, "seconds": 90.0, "told_the_task": told,
    }  # fmt: skip


def card(seed, **methods):
    floor = {"words": {"film": 0.75}, "commonest": {"film": 0.5}}
    result = {"base": "b", "setup": "class", "orders": [["film"], ["film"]], "methods": methods, "floor": floor}
    common = {"seed": seed}
    return {"result": result, "config": {"common": common}, "date": "d", "machine": "m", "seconds": 600.0}


def test_means_are_over_seeds_and_orders_and_the_best_stands_first(streams):
    cards = [
        card(0, worse=method(0.1, 0.2), better=method(0.5, 0.7, told=True)),
        card(1, worse=method(0.3, 0.4, rate=3e-4), better=method(0.6, 0.8, told=True)),
    ]
    page = streams(cards)
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows[0] == "| `better`* | 0.650 ± 0.129 | 0.250 | -0.250 | +0.500 | 1.50 | 0.001 | 3.0 |"
    assert rows[1] == "| `worse` | 0.250 ± 0.129 | 0.250 | -0.250 | +0.500 | 1.50 | 0.0003 0.001 | 3.0 |"
    assert "20 minutes in all. Seeds 0, 1, 2 orders each" in page
    assert "film 0.75; the commonest label: film 0.50" in page


def test_two_streams_have_no_deviation(streams):
    page = streams([card(0, only=method(0.1, 0.2))])
    assert "| `only` | 0.150 |" in page
    assert "the mean of two orders" in page
