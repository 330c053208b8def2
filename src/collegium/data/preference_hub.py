"""Well-known preference data of the Hugging Face hub as domains of pairs: a row for each, and how its rows are read.

Nothing here is fetched unless it is asked for by name. What a row's columns hold is taken from the data sets' own
cards. Where a name stands without a commit, the revision is the branch of parquet files that the hub itself keeps; the
commit that it pointed at is written down as the source, and `NAME@COMMIT` fetches the same again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.core.parcels import Progress
from collegium.core.tables import nearest
from collegium.data.hub import CONVERTED, Row, hub_folder, hub_rows
from collegium.data.preferences import Pair, PairCorpus, PairDomain, plain_text

_INSTEAD = (
    "take pairs that need no hub (`data pull FOLDER --preferences`), or give a folder of your own jsonl files with "
    "prompt, chosen and rejected."
)
_ASSISTANT = "\n\nAssistant:"


@dataclass(frozen=True)
class HubRecipe:
    """A data set of the hub: where it lies, and what becomes of a row.

    files:  domain -> patterns of its files, of the split that is meant for training (or the only one there is).
    pairs:  none, one or several pairs of a row; none where nobody preferred either answer.
    subset: the column that names a row's domain, in the place of the one in `files`.
    """

    repository: str
    revision: str
    files: Mapping[str, tuple[str, ...]]
    pairs: Callable[[Row], list[Pair]]
    kind: str
    licence: str
    subset: str = ""


def hh_pairs(row: Row) -> list[Pair]:
    """Return the pair of a row of hh-rlhf: two chats alike up to an answer, `chosen` and `rejected`.

    The prompt is what they share, up to and with the last `Assistant:` in it, so that prompt and answer run on make the
    published text. A row that shares no such beginning gives none.

    >>> said = "\\n\\nHuman: Hi\\n\\nAssistant:"
    >>> (pair,) = hh_pairs({"chosen": said + " Hello!", "rejected": said + " What?"})
    >>> pair.prompt == said, pair.chosen, pair.rejected
    (True, ' Hello!', ' What?')
    """
    chosen, rejected = row["chosen"], row["rejected"]
    alike = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    start = chosen.rfind(_ASSISTANT, 0, alike)
    end = start + len(_ASSISTANT)
    return [Pair(chosen[:end], chosen[end:], rejected[end:])] if start >= 0 else []


def shp_pairs(row: Row) -> list[Pair]:
    """Return the pair of a row of SHP: two comments on a post; `labels` is 1 where the first has the higher score.

    margin: by how much the scores differ; group: the post.
    """
    margin = abs(float(row["score_A"]) - float(row["score_B"]))
    return [_of_two(row["history"], row["human_ref_A"], row["human_ref_B"], row["labels"] == 1, margin, row["post_id"])]


def webgpt_pairs(row: Row) -> list[Pair]:
    """Return the pair of a row of WebGPT comparisons: two answers with scores that sum to 0; none for a tie.

    margin: by how much the scores differ; group: the question.
    """
    question, margin = row["question"]["full_text"], float(row["score_0"]) - float(row["score_1"])
    if margin == 0.0:
        return []
    return [_of_two(f"{question}\n", row["answer_0"], row["answer_1"], margin > 0, abs(margin), row["question"]["id"])]


def summary_pairs(row: Row) -> list[Pair]:
    """Return the pair of a row of summarize-from-feedback: `choice` says which of two summaries was preferred.

    The prompt is the post (or the news article) with its title; group: the post.
    """
    info, (first, second) = row["info"], (each["text"] for each in row["summaries"])
    text = "\n".join(part for part in (info["title"], info["post"] or info["article"]) if part)
    return [_of_two(f"{text}\nTL;DR:", first, second, row["choice"] == 0, None, info["id"])]


def reward_bench_pairs(row: Row) -> list[Pair]:
    """Return the pair of a row of RewardBench: prompt, chosen, rejected."""
    return [Pair(f"{row['prompt']}\n", row["chosen"], row["rejected"])]


def _of_two(prompt: str, first: str, second: str, first_wins: bool, margin: float | None, group: str) -> Pair:
    chosen, rejected = (first, second) if first_wins else (second, first)
    return Pair(prompt, chosen, rejected, margin=margin, group=str(group))


PREFERENCE_HUB: Mapping[str, HubRecipe] = {
    "hh": HubRecipe(
        repository="Anthropic/hh-rlhf",
        revision="09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        files={
            "harmless": ("harmless-base/train.jsonl.gz",),
            "helpful": tuple(f"helpful-{part}/train.jsonl.gz" for part in ("base", "online", "rejection-sampled")),
        },
        pairs=hh_pairs,
        kind="human choices",
        licence="MIT",
    ),
    "reward-bench": HubRecipe(
        repository="allenai/reward-bench",
        revision=CONVERTED,
        files={"reward-bench": ("default/filtered/*.parquet",)},
        pairs=reward_bench_pairs,
        kind="benchmark, for evaluation alone",
        licence="ODC-BY",
        subset="subset",
    ),
    "shp": HubRecipe(
        repository="stanfordnlp/SHP",
        revision=CONVERTED,
        files={"shp": ("default/train/*.parquet",)},
        pairs=shp_pairs,
        kind="votes on comments",
        licence="see the card of stanfordnlp/SHP",
    ),
    "summaries": HubRecipe(
        repository="openai/summarize_from_feedback",
        revision=CONVERTED,
        files={"summaries": ("comparisons/train/*.parquet",)},
        pairs=summary_pairs,
        kind="human choices",
        licence="see the card of openai/summarize_from_feedback",
    ),
    "webgpt": HubRecipe(
        repository="openai/webgpt_comparisons",
        revision=CONVERTED,
        files={"webgpt": ("default/train/*.parquet",)},
        pairs=webgpt_pairs,
        kind="human ratings",
        licence="see the card of openai/webgpt_comparisons",
    ),
}
"""The data sets by the names that `data pull --hub` knows them under."""


def read_hub(name: str, *, rows: int | None = None, progress: Progress | None = None) -> PairCorpus:
    """Return the domains of a data set of the hub, fetched on the first call; later calls need no network.

    Pairs whose answers are equal, or with an empty text, are left out and counted, and so are exact copies.

    name: one of PREFERENCE_HUB, or NAME@COMMIT for another revision. rows: read at most so many of each domain's files.

    Raises DataError for an unknown name or columns that are not the published ones, ResourceError when the data set
    cannot be fetched.
    """
    short, _, commit = name.partition("@")
    if short not in PREFERENCE_HUB:
        raise DataError(f"no data set of pairs is called {short!r}. {nearest(short, PREFERENCE_HUB)}")
    if rows is not None and rows < 1:
        raise DataError(f"at least one row of {short} is to be read, got {rows}.")
    recipe = PREFERENCE_HUB[short]
    folder = hub_folder(
        recipe.repository,
        commit or recipe.revision,
        [pattern for each in recipe.files.values() for pattern in each],
        licence=recipe.licence,
        instead=_INSTEAD,
        say=progress or _silent,
    )
    source = Source(f"hf:{recipe.repository}@{folder.name}", recipe.licence, folder.name)
    pairs: dict[str, list[Pair]] = {}
    for domain, patterns in recipe.files.items():
        for number, row in enumerate(islice(hub_rows(folder, patterns), rows), start=1):
            for subset, pair in _pairs(recipe, row, domain, where=f"{recipe.repository}, row {number} of {domain}"):
                pairs.setdefault(subset, []).append(pair)
    return PairCorpus(tuple(_domain(each, pairs[each], recipe.kind, source) for each in sorted(pairs)))


def _silent(_: str) -> None:
    pass


def _pairs(recipe: HubRecipe, row: Row, domain: str, *, where: str) -> Iterator[tuple[str, Pair]]:
    try:
        for pair in recipe.pairs(row):
            yield (str(row[recipe.subset]) if recipe.subset else domain), pair
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}: the columns are not those of the published data ({error!r}). Name the commit that has them "
            "(NAME@COMMIT)."
        ) from error


def _domain(name: str, pairs: Sequence[Pair], kind: str, source: Source) -> PairDomain:
    usable = [each for each in pairs if _is_usable(each)]
    distinct = _distinct(usable)
    return PairDomain(
        name,
        tuple(distinct),
        kind=kind,
        sources=(source,),
        duplicates=len(usable) - len(distinct),
        unusable=len(pairs) - len(usable),
    )


def _is_usable(pair: Pair) -> bool:
    texts = [plain_text(each).strip() for each in (pair.prompt, pair.chosen, pair.rejected)]
    return all(texts) and texts[1] != texts[2]


def _distinct(pairs: Iterable[Pair]) -> list[Pair]:
    return list({each.identity: each for each in reversed(list(pairs))}.values())[::-1]
