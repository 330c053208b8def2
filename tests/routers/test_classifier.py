import pytest
import torch
from domain_texts import Texts

from collegium.core.errors import RoutingError, StaleRouter
from collegium.core.protocols import Context, RouterRecipe
from collegium.core.randomness import generator
from collegium.core.routing import dense_weights
from collegium.routers import classifier, default, fit_classifier, grow_classifier, posterior, shrink_classifier
from collegium.testing.router import check_router
from collegium.testing.shelf import MemoryShelf
from collegium.testing.tiny import LetterTokenizer

FIRST = ("law", "code", "drama")


@pytest.fixture(scope="module")
def _once(texts: Texts) -> MemoryShelf:
    shelf = MemoryShelf()
    train, dev = ({name: part[name] for name in FIRST} for part in (texts.train, texts.dev))
    fit_classifier(shelf, texts_by_expert=train, dev_by_expert=dev)
    return shelf


@pytest.fixture
def fitted(_once: MemoryShelf, shelf: MemoryShelf) -> MemoryShelf:
    shelf.stored.update(_once.stored)
    return shelf


def weigh(shelf: MemoryShelf, prompts: list[str], *, experts=FIRST, recipe: RouterRecipe | None = None) -> torch.Tensor:
    """One row per prompt, a column per expert, `base` last."""
    router = (recipe or classifier()).bind(experts, shelf=shelf)
    many = len(prompts)
    context = Context(torch.zeros(many, 1, dtype=torch.long), torch.ones(many, dtype=torch.long), tuple(prompts))
    return dense_weights(router.step(router.start(context), context.tokens, None)[0], (*experts, "base"))[:, 0]


def cut(texts: Texts, name: str, words: int) -> list[str]:
    return [" ".join(text.split()[:words]) for text in texts.test[name]]


@pytest.mark.parametrize(
    "recipe", [classifier(), classifier(threshold=0.0), classifier(threshold=1.0), posterior(classifier()), default()]
)
def test_it_keeps_the_contract_and_grows_exactly(
    recipe: RouterRecipe, fitted: MemoryShelf, texts: Texts, letters: LetterTokenizer
):
    prompts = [letters.encode(text)[:60] for name in FIRST for text in texts.test[name][:1]]
    check_router(
        recipe,
        experts=FIRST,
        shelf=fitted,
        tokenizer=letters,
        texts=prompts,
        newcomer="medicine",
        grow=lambda: grow_classifier(
            fitted, expert="medicine", texts=texts.train["medicine"], dev=texts.dev["medicine"]
        ),
        shrink=lambda: shrink_classifier(fitted, expert="medicine"),
    )


@pytest.mark.parametrize(("words", "least"), [(24, 0.95), (96, 1.0)])
def test_it_finds_the_domain_of_unseen_prompts(fitted: MemoryShelf, texts: Texts, words: int, least: float):
    right = [
        float((weigh(fitted, cut(texts, name, words)).argmax(-1) == column).float().mean())
        for column, name in enumerate(FIRST)
    ]
    assert sum(right) / 3 >= least


def test_its_probabilities_are_calibrated_on_short_prompts(fitted: MemoryShelf, texts: Texts):
    """Where the words say nothing sure, it is as often right as it says: within 0.12 over 96 prompts of 6 words."""
    sure, right = [], []
    for column, name in enumerate(FIRST):
        prompts = [" ".join(text.split()[at : at + 6]) for text in texts.test[name] for at in (0, 40, 80, 120)]
        weights = weigh(fitted, prompts, recipe=classifier(threshold=0.0))
        sure += weights.max(-1).values.tolist()
        right += (weights.argmax(-1) == column).float().tolist()
    assert abs(sum(sure) / len(sure) - sum(right) / len(right)) < 0.12


def test_longer_evidence_makes_it_surer(fitted: MemoryShelf, texts: Texts):
    short, long = (weigh(fitted, cut(texts, "law", words))[:, 0].mean() for words in (6, 96))
    assert short < long


def test_it_abstains_on_what_no_fit_ever_saw(fitted: MemoryShelf):
    for prompt in ("", "  \n", "\u00a0", "zyx wvu tsr qpo nml kji", "bonjour le monde", "12 34 56"):
        assert weigh(fitted, [prompt]).tolist() == [[0.0, 0.0, 0.0, 1.0]], prompt


def habits(domain: str, *, texts: int, seed: int, words: int = 200) -> list[str]:
    """Texts of words that every domain uses, each as often as is its habit: a stranger has no word of its own."""
    often = (1.5 * torch.randn(200, generator=generator(0, "habit", domain))).softmax(dim=-1)
    drawn = torch.multinomial(often.expand(texts, -1), words, replacement=True, generator=generator(seed, domain))
    return [" ".join(f"w{word}" for word in row) for row in drawn.tolist()]


def test_it_abstains_on_a_domain_it_never_saw_and_speaks_on_its_own():
    shelf, known = MemoryShelf(), ("one", "two", "three", "four")
    train, dev = ({name: habits(name, texts=8, seed=seed) for name in known} for seed in (0, 1))
    fit_classifier(shelf, texts_by_expert=train, dev_by_expert=dev)

    def abstains(name: str) -> float:
        prompts = habits(name, texts=50, seed=2, words=24)
        return float(weigh(shelf, prompts, experts=known)[:, -1].mean())

    for stranger in ("five", "six", "seven"):
        assert abstains(stranger) >= 0.8, stranger
    for name in known:
        assert abstains(name) <= 0.1, name


def test_a_newcomer_is_recognised_and_touches_no_other_row(fitted: MemoryShelf, texts: Texts):
    before, _ = fitted.load_router("classifier")
    grow_classifier(fitted, expert="medicine", texts=texts.train["medicine"], dev=texts.dev["medicine"])
    after, _ = fitted.load_router("classifier")
    assert all(torch.equal(after[key], each) for key, each in before.items())
    assert set(after) - set(before) == {"row.medicine", "calibration.medicine"}
    weights = weigh(fitted, cut(texts, "medicine", 48), experts=(*FIRST, "medicine"))
    assert bool((weights.argmax(-1) == 3).all())


def test_removing_one_of_the_first_and_adding_it_again_gives_the_same_bytes(fitted: MemoryShelf, texts: Texts):
    before = fitted.stored["classifier"]
    shrink_classifier(fitted, expert="code")
    with pytest.raises(StaleRouter, match="code"):
        weigh(fitted, ["x"])
    assert weigh(fitted, cut(texts, "law", 24), experts=("law", "drama"))[:, 0].mean() > 0.8
    grow_classifier(fitted, expert="code", texts=texts.train["code"], dev=texts.dev["code"])
    assert fitted.stored["classifier"] == before


def test_a_fit_depends_on_its_seed_and_nothing_else(fitted: MemoryShelf, texts: Texts):
    train, dev = ({name: part[name] for name in FIRST[::-1]} for part in (texts.train, texts.dev))
    again, other = MemoryShelf(), MemoryShelf()
    fit_classifier(again, texts_by_expert=train, dev_by_expert=dev)
    fit_classifier(other, texts_by_expert=train, dev_by_expert=dev, seed=1)
    assert again.stored == fitted.stored
    assert other.stored != fitted.stored


def test_a_posterior_with_it_as_prior_is_uniform_where_it_abstains(fitted: MemoryShelf):
    context = Context(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long), ("",))
    router = posterior(classifier()).bind(FIRST, shelf=fitted)
    routing, _ = router.step(router.start(context), context.tokens, torch.zeros(1, 1, 3))
    assert routing.weights[0, 0].tolist() == pytest.approx([1 / 3] * 3)


def test_tokens_are_decoded_where_the_context_has_no_text(fitted: MemoryShelf, letters: LetterTokenizer):
    router = classifier().bind(FIRST, shelf=fitted, tokenizer=letters)
    prompt = letters.encode("the judge and the court and the statute")
    context = Context(torch.tensor([[*prompt, -1, -1]]), torch.tensor([len(prompt)]))
    assert int(router.start(context).argmax()) == 0
    with pytest.raises(RoutingError, match="no tokenizer"):
        classifier().bind(FIRST, shelf=fitted).start(context)


def test_what_does_not_suffice_is_refused(fitted: MemoryShelf):
    with pytest.raises(RoutingError, match="at least two"):
        fit_classifier(fitted, texts_by_expert={"law": ["a b"]}, dev_by_expert={"law": ["a"]})
    with pytest.raises(RoutingError, match="no dev text"):
        fit_classifier(fitted, texts_by_expert={"law": ["a b"], "code": ["c"]}, dev_by_expert={"code": ["a"]})
    with pytest.raises(RoutingError, match="Did you mean 'drama'"):
        shrink_classifier(fitted, expert="dramas")
    with pytest.raises(RoutingError, match=r"never fitted.*fit_classifier"):
        classifier().bind(FIRST, shelf=MemoryShelf())
    with pytest.raises(RoutingError, match="threshold"):
        classifier(threshold=1.5)


def test_the_default_is_the_classifier_where_it_knows_everybody(fitted: MemoryShelf, letters: LetterTokenizer):
    prompt = letters.encode("the judge and the court and the statute")
    context = Context(torch.tensor([prompt]), torch.tensor([len(prompt)]))

    def first(experts: tuple[str, ...], **given) -> list[float]:
        router = default().bind(experts, **given)
        routing, _ = router.step(router.start(context), context.tokens[:, :1], torch.zeros(1, 1, len(experts)))
        return routing.weights[0, 0].tolist()

    assert first(FIRST, shelf=fitted, tokenizer=letters)[0] > 0.8
    assert first((*FIRST, "medicine"), shelf=fitted, tokenizer=letters) == [0.25] * 4
    assert first(("law", "code"), shelf=MemoryShelf(), tokenizer=letters) == [0.5] * 2
    assert first(("law", "code"), shelf=fitted) == [0.5] * 2
    assert first(("law", "code"), tokenizer=letters) == [0.5] * 2
    fitted.digests["code"] = "of another expert, which took the name"
    assert first(("law", "code"), shelf=fitted, tokenizer=letters) == [0.5] * 2


def test_a_default_over_something_else_than_a_classifier_says_so(fitted: MemoryShelf, letters: LetterTokenizer):
    tensors, card = fitted.load_router("classifier")
    fitted.save_router("classifier", tensors, {**card, "router": "cluster"})
    with pytest.raises(RoutingError, match="not a 'classifier'"):
        default().bind(FIRST, shelf=fitted, tokenizer=letters)


def test_another_expert_of_a_removed_ones_name_does_not_get_its_row(fitted: MemoryShelf, texts: Texts):
    fitted.digests["law"] = "another payload"
    with pytest.raises(StaleRouter, match="law"):
        classifier().bind(FIRST, shelf=fitted)
    grow_classifier(fitted, expert="law", texts=texts.train["law"], dev=texts.dev["law"])
    classifier().bind(FIRST, shelf=fitted)
    assert fitted.load_router("classifier")[1]["first"] == sorted(FIRST)
