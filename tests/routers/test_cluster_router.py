import math

import pytest
import torch
from domain_texts import OWN, Texts
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import RoutingError, StaleRouter
from collegium.core.protocols import Context, RouterRecipe
from collegium.data import Clusters, Document, discover
from collegium.routers import cluster, fit_cluster, fit_discovered, grow_cluster, posterior, shrink_cluster
from collegium.routers.words import Reading, finished
from collegium.testing.router import check_router
from collegium.testing.shelf import MemoryShelf
from collegium.testing.tiny import LetterTokenizer

EXPERTS = ("law", "code", "drama")


@pytest.fixture(scope="module")
def space(texts: Texts) -> Clusters:
    documents = [Document(text=text) for name in OWN for text in texts.train[name]]
    return discover(documents, 4, seed=0)


@pytest.fixture
def fitted(shelf: MemoryShelf, space: Clusters, texts: Texts) -> MemoryShelf:
    fit_cluster(shelf, clusters=space, documents_by_expert={name: texts.train[name] for name in EXPERTS})
    return shelf


def weigh(
    recipe: RouterRecipe, shelf: MemoryShelf, tokens: list[int], letters: LetterTokenizer, *, experts=EXPERTS
) -> torch.Tensor:
    """The weights after each token of one text."""
    router = recipe.bind(experts, shelf=shelf, tokenizer=letters)
    row = torch.tensor([tokens])
    context = Context(row[:, :1], torch.ones(1, dtype=torch.long))
    return router.step(router.start(context), row, None)[0].dense()[0]


@pytest.mark.parametrize("recipe", [cluster(), cluster(top_k=2), cluster(temperature=2.0, top_k=1)])
def test_it_keeps_the_contract_and_grows_exactly(recipe, fitted: MemoryShelf, texts: Texts, letters: LetterTokenizer):
    prompts = [letters.encode(texts.test[name][0])[:40] for name in EXPERTS]
    check_router(
        recipe,
        experts=EXPERTS,
        shelf=fitted,
        tokenizer=letters,
        texts=prompts,
        top_k=recipe.top_k,
        newcomer="medicine",
        grow=lambda: grow_cluster(fitted, expert="medicine", documents=texts.train["medicine"]),
        shrink=lambda: shrink_cluster(fitted, expert="medicine"),
    )


def test_it_can_be_a_posteriors_prior(fitted: MemoryShelf, texts: Texts, letters: LetterTokenizer):
    prompts = [letters.encode(texts.test[name][0])[:40] for name in EXPERTS]
    check_router(posterior(cluster()), experts=EXPERTS, shelf=fitted, tokenizer=letters, texts=prompts, newcomer=None)


def from_scratch(clusters: Clusters, centres: dict[str, torch.Tensor], prefix: str, temperature: float) -> torch.Tensor:
    """exp(-d^2 / T) of the finished words of a whole prefix, normalised; equal where there are none."""
    total = torch.zeros_like(next(iter(centres.values())))
    for word in clusters.tokenise(finished(prefix)):
        total = total + clusters.word_vector(word)
    if not total.any():
        return torch.full((len(EXPERTS),), 1 / len(EXPERTS))
    embedding = total / total.norm()
    raw = [math.exp(-float((embedding - centres[name]).square().sum()) / temperature) for name in EXPERTS]
    return torch.tensor(raw) / sum(raw)


def test_stepping_is_embedding_each_prefix_from_scratch(
    fitted: MemoryShelf, space: Clusters, texts: Texts, letters: LetterTokenizer
):
    tensors, _ = fitted.load_router("cluster")
    centres = {name: tensors[f"centre.{name}"] for name in EXPERTS}
    tokens = letters.encode(texts.test["law"][0] + " " + texts.test["drama"][0])[600:900]
    weights = weigh(cluster(temperature=0.5), fitted, tokens, letters)
    expected = [from_scratch(space, centres, letters.decode(tokens[: i + 1]), 0.5) for i in range(len(tokens))]
    torch.testing.assert_close(weights, torch.stack(expected), atol=1e-5, rtol=0)


def test_before_the_first_finished_word_weights_are_equal(fitted: MemoryShelf, letters: LetterTokenizer):
    weights = weigh(cluster(), fitted, letters.encode("judge"), letters)
    assert torch.equal(weights, torch.full((5, 3), 1 / 3))


def test_it_finds_the_domain(fitted: MemoryShelf, texts: Texts, letters: LetterTokenizer):
    for column, name in enumerate(EXPERTS):
        last = weigh(cluster(), fitted, letters.encode(texts.test[name][0]), letters)[-1]
        assert int(last.argmax()) == column


def test_claim_m11_cold_is_top_1_and_hot_is_uniform(fitted: MemoryShelf, texts: Texts, letters: LetterTokenizer):
    tokens = letters.encode(texts.test["code"][0])[:200]
    top_1 = weigh(cluster(top_k=1), fitted, tokens, letters)
    cold = weigh(cluster(temperature=1e-6), fitted, tokens, letters)
    started = ~(weigh(cluster(), fitted, tokens, letters) == 1 / 3).all(-1)
    assert torch.equal(cold[started], top_1[started])
    hot = weigh(cluster(temperature=math.inf), fitted, tokens, letters)
    assert torch.equal(hot, torch.full_like(hot, 1 / 3))
    torch.testing.assert_close(weigh(cluster(temperature=1e6), fitted, tokens, letters), hot, atol=1e-5, rtol=0)


def test_the_published_fourth_power_is_another_router(fitted: MemoryShelf, texts: Texts, letters: LetterTokenizer):
    """c-BTM's code squares distances that are squared already; the law above would not hold for it."""
    tokens = letters.encode(texts.test["law"][0])[:120]
    weights = weigh(cluster(temperature=0.5), fitted, tokens, letters)[-1]
    squared = -weights.log() * 0.5
    fourth = (-(squared - squared.min()).square() / 0.5).softmax(-1)
    assert float((fourth - weights).abs().max()) > 0.01


def test_top_k_renormalises_the_largest(fitted: MemoryShelf, texts: Texts, letters: LetterTokenizer):
    tokens = letters.encode(texts.test["law"][0])[:100]
    whole, kept = (weigh(cluster(temperature=1.0, top_k=k), fitted, tokens, letters)[-1] for k in (None, 2))
    expected = whole.masked_fill(whole == whole.min(), 0.0)
    torch.testing.assert_close(kept, expected / expected.sum())


def test_discovered_centres_are_kept_under_the_experts_names(
    shelf: MemoryShelf, space: Clusters, texts: Texts, letters: LetterTokenizer
):
    names = ("cluster-0", "cluster-1", "cluster-2", "cluster-3")
    fit_discovered(shelf, clusters=space, experts=names)
    tensors, _ = shelf.load_router("cluster")
    torch.testing.assert_close(torch.stack([tensors[f"centre.{name}"] for name in names]), space.centres.float())
    tokens = letters.encode(texts.test["law"][0])
    assert float(weigh(cluster(), shelf, tokens, letters, experts=names)[-1].sum()) == pytest.approx(1.0)
    with pytest.raises(RoutingError, match="need as many experts"):
        fit_discovered(shelf, clusters=space, experts=names[:2])


def test_adding_and_removing_leaves_the_same_bytes(fitted: MemoryShelf, texts: Texts):
    before = fitted.stored["cluster"]
    grow_cluster(fitted, expert="medicine", documents=texts.train["medicine"])
    assert fitted.stored["cluster"] != before
    shrink_cluster(fitted, expert="medicine")
    assert fitted.stored["cluster"] == before


def test_what_does_not_suffice_is_refused(fitted: MemoryShelf, letters: LetterTokenizer):
    with pytest.raises(StaleRouter, match=r"medicine.*grow_cluster"):
        cluster().bind((*EXPERTS, "medicine"), shelf=fitted, tokenizer=letters)
    with pytest.raises(RoutingError, match="no tokenizer"):
        cluster().bind(EXPERTS, shelf=fitted)
    with pytest.raises(RoutingError, match=r"never fitted.*fit_cluster"):
        cluster().bind(EXPERTS, shelf=MemoryShelf(), tokenizer=letters)
    with pytest.raises(RoutingError, match="no document of expert 'empty'"):
        grow_cluster(fitted, expert="empty", documents=["", "?!"])
    with pytest.raises(RoutingError, match="Did you mean 'drama'"):
        shrink_cluster(fitted, expert="dramas")
    for arguments in ({"temperature": 0.0}, {"temperature": float("nan")}, {"top_k": 0}):
        with pytest.raises(RoutingError):
            cluster(**arguments)


class Bytes:
    """Token ids are bytes, as in a byte-level tokenizer: a character may take several."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids, *, skip_special_tokens: bool = False) -> str:
        return bytes(token_ids).decode(errors="replace")


class Pieces:
    """Token ids are words; decoding drops the leading space, as sentencepiece tokenizers do."""

    words = (" to", " be", "ing", ",", " or", "\u00e9", " not")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        raise AssertionError("only decoded")

    def decode(self, token_ids, *, skip_special_tokens: bool = False) -> str:
        return "".join(self.words[token] for token in token_ids).removeprefix(" ")


def read(tokens: list[int], tokenizer) -> tuple[str, str]:
    reading, done = Reading(), ""
    for token in tokens:
        text, reading = reading.read(token, tokenizer)
        done += text
    return done, reading.word


@given(text=st.text(max_size=12))
def test_bytes_are_read_as_the_whole_text_is(text: str):
    tokenizer = Bytes()
    done, word = read(tokenizer.encode(text), tokenizer)
    assert done == finished(text)
    assert done + word == text


@given(tokens=st.lists(st.integers(0, 6), max_size=8))
def test_pieces_are_read_as_the_whole_text_is(tokens: list[int]):
    tokenizer = Pieces()
    done, word = read(tokens, tokenizer)
    assert done + word == tokenizer.decode(tokens)
    assert done == finished(done + word)


def test_bytes_that_are_no_character_do_not_wait_for_ever():
    done, word = read([0xFF] * 8 + list(b" to be"), Bytes())
    assert done.endswith(" to ")
    assert word == "be"


def test_another_expert_of_a_removed_ones_name_does_not_get_its_centre(
    fitted: MemoryShelf, texts: Texts, letters: LetterTokenizer
):
    fitted.digests["law"] = "another payload"
    with pytest.raises(StaleRouter, match="law"):
        cluster().bind(EXPERTS, shelf=fitted, tokenizer=letters)
    grow_cluster(fitted, expert="law", documents=texts.train["law"])
    cluster().bind(EXPERTS, shelf=fitted, tokenizer=letters)
    assert fitted.load_router("cluster")[1]["first"] == sorted(EXPERTS)
