"""Every row of the table of routers is walked through the laws of routers, whoever adds one."""

import pytest
import torch
from domain_texts import OWN

from collegium.core.names import FITTED_ROUTERS
from collegium.data import Document, discover
from collegium.routers import (
    ROUTERS,
    fit_cached_prior,
    fit_classifier,
    fit_cluster,
    grow_cached_prior,
    grow_classifier,
    grow_cluster,
    shrink_cached_prior,
    shrink_classifier,
    shrink_cluster,
)
from collegium.testing.router import check_router

EXPERTS, NEWCOMER = ("law", "code", "drama"), "medicine"
ARGUMENTS = {"fixed": ({"law": 0.5, "code": 0.25},), "oracle": ({"law": "law", "code": "code", "drama": "base"},)}
"""What rows need that have no default."""


def likelihoods(experts, seed):
    return -5 * torch.rand(12, experts, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def fitted(shelf, texts):
    documents = [Document(text=text) for name in OWN for text in texts.train[name]]
    train, dev = ({name: part[name] for name in EXPERTS} for part in (texts.train, texts.dev))
    fit_cluster(shelf, clusters=discover(documents, 4, seed=0), documents_by_expert=train)
    fit_classifier(shelf, texts_by_expert=train, dev_by_expert=dev)
    fit_cached_prior(shelf, log_likelihoods=likelihoods(3, 0), experts=EXPERTS)
    assert set(shelf.stored) == set(FITTED_ROUTERS), "a fitted router is fitted, grown and shrunk here"
    return shelf


@pytest.mark.parametrize("name", ROUTERS)
def test_every_router_keeps_the_contract(name, fitted, texts, letters):
    def grow():
        grow_cluster(fitted, expert=NEWCOMER, documents=texts.train[NEWCOMER])
        grow_classifier(fitted, expert=NEWCOMER, texts=texts.train[NEWCOMER], dev=texts.dev[NEWCOMER])
        grow_cached_prior(fitted, expert=NEWCOMER, log_likelihoods=likelihoods(1, 1)[:, 0])

    def shrink():
        for forget in (shrink_cluster, shrink_classifier, shrink_cached_prior):
            forget(fitted, expert=NEWCOMER)

    check_router(
        ROUTERS[name].build(*ARGUMENTS.get(name, ())),
        experts=EXPERTS,
        shelf=fitted,
        tokenizer=letters,
        texts=[letters.encode(texts.test[each][0])[:24] for each in EXPERTS],
        domains=EXPERTS,
        newcomer=NEWCOMER,
        grow=grow,
        shrink=shrink,
    )
