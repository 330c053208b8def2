"""Data sets of the hub: rows in the published shapes become pairs; what cannot be fetched says what else there is."""

import gzip
import json

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from collegium.core.errors import DataError, ResourceError
from collegium.core.names import is_name
from collegium.data import PREFERENCE_HUB, pull_hub, read_hub
from collegium.data.preference_hub import hh_pairs, reward_bench_pairs, shp_pairs, summary_pairs, webgpt_pairs

SAID = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: What is 2 + 2?\n\nAssistant:"


def hh(chosen=SAID + " Four.", rejected=SAID + " Five."):
    return {"chosen": chosen, "rejected": rejected}


def shp(labels=1, **columns):
    return {
        "post_id": "p1",
        "domain": "askbaking_train",
        "upvote_ratio": 0.98,
        "history": "Why does my bread sink?",
        "c_root_id_A": "a",
        "c_root_id_B": "b",
        "created_at_utc_A": 2,
        "created_at_utc_B": 1,
        "score_A": 30 if labels else 5,
        "score_B": 10,
        "human_ref_A": "Bake it longer.",
        "human_ref_B": "Bad luck.",
        "labels": labels,
        "seconds_difference": 60.0,
        "score_ratio": 3.0 if labels else 2.0,
        **columns,
    }


def webgpt(score=0.5, **columns):
    return {
        "question": {"dataset": "eli5", "id": "q1", "full_text": "Why is the sky blue?"},
        "quotes_0": {"title": ["Sky"], "extract": ["Light scatters."]},
        "answer_0": "Light scatters [1].",
        "tokens_0": {"prefix": [1, 2], "completion": [3]},
        "score_0": score,
        "quotes_1": {"title": [], "extract": []},
        "answer_1": "It just is.",
        "tokens_1": {"prefix": [1], "completion": [4]},
        "score_1": -score,
        **columns,
    }


def summary(choice=1, post="I lost my cat and found it.", article=None, **columns):
    return {
        "info": {
            "id": "t3_1",
            "post": post,
            "title": "A cat" if post else None,
            "subreddit": "pets",
            "site": None,
            "article": article,
        },
        "summaries": [
            {"text": " Cats.", "policy": "sup1", "note": None},
            {"text": " Cat lost, cat found.", "policy": "sup2", "note": None},
        ],
        "choice": choice,
        "worker": "w",
        "batch": "batch3",
        "split": "train",
        "extra": {"confidence": None},
        **columns,
    }


def bench(subset="alpacaeval-easy", number=1):
    return {
        "prompt": f"How many legs have {number} ants?",
        "chosen": f"{6 * number}.",
        "chosen_model": "one",
        "rejected": "Ants?",
        "rejected_model": "two",
        "subset": subset,
        "id": number,
    }


def test_hh_prompt_and_answers_run_on_to_the_published_chats():
    (pair,) = hh_pairs(hh())
    assert (pair.prompt, pair.chosen, pair.rejected) == (SAID, " Four.", " Five.")
    (pair,) = hh_pairs(hh(chosen=SAID + " Four, so: 4.", rejected=SAID + " Four, no?\n\nHuman: Yes\n\nAssistant: Ok"))
    assert pair.prompt == SAID
    assert pair.rejected == " Four, no?\n\nHuman: Yes\n\nAssistant: Ok"


def test_hh_chats_that_part_before_the_assistant_speaks_give_nothing():
    assert hh_pairs(hh("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: y")) == []


def test_hh_chats_that_part_early_share_the_earlier_prompt():
    first = "\n\nHuman: Hi\n\nAssistant:"
    (pair,) = hh_pairs(hh(first + " Yes.\n\nHuman: a\n\nAssistant: x", first + " No.\n\nHuman: b\n\nAssistant: y"))
    assert (pair.prompt, pair.chosen) == (first, " Yes.\n\nHuman: a\n\nAssistant: x")


@pytest.mark.parametrize(("labels", "margin"), [(1, 20.0), (0, 5.0)])
def test_shp_prefers_the_comment_that_the_label_names(labels, margin):
    (pair,) = shp_pairs(shp(labels))
    answers = ("Bake it longer.", "Bad luck.")
    assert (pair.chosen, pair.rejected) == (answers if labels else answers[::-1])
    assert (pair.prompt, pair.margin, pair.group) == ("Why does my bread sink?", margin, "p1")


def test_webgpt_prefers_the_higher_score_and_drops_ties():
    (pair,), (other,) = webgpt_pairs(webgpt(0.5)), webgpt_pairs(webgpt(-0.25))
    assert (pair.chosen, pair.rejected, pair.margin) == ("Light scatters [1].", "It just is.", 1.0)
    assert (other.chosen, other.rejected, other.margin) == (pair.rejected, pair.chosen, 0.5)
    assert pair.prompt.strip() == "Why is the sky blue?"
    assert pair.group == "q1"
    assert webgpt_pairs(webgpt(0.0)) == []


def test_summaries_follow_the_choice_for_posts_and_for_news():
    (pair,), (other,) = summary_pairs(summary(1)), summary_pairs(summary(0, post=None, article="News of a cat."))
    assert (pair.chosen, pair.rejected) == (" Cat lost, cat found.", " Cats.") == (other.rejected, other.chosen)
    assert pair.prompt == "A cat\nI lost my cat and found it.\nTL;DR:"
    assert other.prompt == "News of a cat.\nTL;DR:"
    assert pair.group == "t3_1"


def test_reward_bench_rows_are_pairs_already():
    (pair,) = reward_bench_pairs(bench())
    assert (pair.prompt.strip(), pair.chosen, pair.rejected) == ("How many legs have 1 ants?", "6.", "Ants?")


# ---------------------------------------------------------------- fetching


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a function that puts rows onto a hub; `asked` of it tells what was asked for."""
    commit = tmp_path / "snapshots" / ("c0" * 20)
    asked = []

    def fetch(repository, **options):
        asked.append((repository, options["repo_type"], options["revision"], tuple(options["allow_patterns"])))
        return str(commit)

    def put(file, rows):
        path = commit / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    put.asked = asked
    return put


@pytest.mark.parametrize(
    ("name", "file", "row"),
    [
        ("shp", "default/train/0000.parquet", shp()),
        ("webgpt", "default/train/0000.parquet", webgpt()),
        ("summaries", "comparisons/train/0000.parquet", summary()),
        ("reward-bench", "default/filtered/0000.parquet", bench(subset="reward-bench")),
    ],
)
def test_parquet_files_become_a_domain(hub, name, file, row):
    hub(file, [row, row])
    (domain,) = read_hub(name)
    assert domain.name == name
    assert len(domain.pairs) == domain.duplicates == 1
    assert domain.kind == PREFERENCE_HUB[name].kind
    (source,) = domain.sources
    assert source.name == f"hf:{PREFERENCE_HUB[name].repository}@{'c0' * 20}"
    assert hub.asked == [
        (PREFERENCE_HUB[name].repository, "dataset", "refs/convert/parquet", (file[:-12] + "*.parquet",))
    ]


def test_hh_has_a_domain_of_helpful_and_one_of_harmless_chats(hub):
    hub("harmless-base/train.jsonl.gz", [hh()])
    hub("helpful-base/train.jsonl.gz", [hh(SAID + " 4", SAID + " 5")])
    hub(
        "helpful-online/train.jsonl.gz",
        [hh(SAID + " 4.0", SAID + " 5"), hh(SAID + " ", SAID + " 5"), hh(SAID + " 5", SAID + " 5")],
    )
    corpus = read_hub("hh")
    assert corpus.names == ("harmless", "helpful")
    assert [len(each.pairs) for each in corpus] == [1, 2]
    assert corpus["helpful"].unusable == 2
    assert [len(each.pairs) for each in read_hub("hh@abc", rows=1)] == [1, 1]
    assert [each[2] for each in hub.asked] == [PREFERENCE_HUB["hh"].revision, "abc"]


def test_reward_bench_has_a_domain_for_each_subset(hub):
    hub("default/filtered/0000.parquet", [bench("math-prm", 1), bench("hep-cpp", 2), bench("math-prm", 3)])
    assert {each.name: len(each.pairs) for each in read_hub("reward-bench")} == {"hep-cpp": 1, "math-prm": 2}


def test_other_columns_than_the_published_ones_are_told_with_the_row(hub):
    hub("default/train/0000.parquet", [shp(), {"history": "x"}])
    with pytest.raises(DataError, match="stanfordnlp/SHP, row 2 of shp: the columns are not those"):
        read_hub("shp")


def test_a_snapshot_without_the_files_is_told(hub):
    hub("README.jsonl.gz", [])
    with pytest.raises(DataError, match=r"holds no file default/train/\*.parquet"):
        read_hub("webgpt")


def test_unknown_names_and_no_rows_are_refused():
    with pytest.raises(DataError, match="Did you mean 'webgpt'"):
        read_hub("webgtp")
    with pytest.raises(DataError, match="at least one row"):
        read_hub("hh", rows=0)


def test_offline_the_way_out_is_told(tmp_path):
    with pytest.raises(ResourceError, match=r"cannot be fetched .* --preferences`\), or give a folder of your own"):
        pull_hub(tmp_path / "pairs", "hh")
    assert not (tmp_path / "pairs").exists()


def test_a_data_set_is_written_as_any_pairs_are_and_found_again(hub, tmp_path):
    hub("default/train/0000.parquet", [shp(), shp(0, post_id="p2", history="Another?")])
    folder = pull_hub(tmp_path / "pairs", "shp", rows=2)
    assert [json.loads(line) for line in (folder / "shp.jsonl").read_text().splitlines()] == [
        {
            "prompt": "Why does my bread sink?",
            "chosen": "Bake it longer.",
            "rejected": "Bad luck.",
            "margin": 20.0,
            "group": "p1",
        },
        {"prompt": "Another?", "chosen": "Bad luck.", "rejected": "Bake it longer.", "margin": 5.0, "group": "p2"},
    ]
    assert json.loads((folder / "sources.json").read_text())["kinds"] == {"shp": "votes on comments"}
    assert pull_hub(folder, "shp", rows=2) == folder
    assert len(hub.asked) == 1
    with pytest.raises(DataError, match="choose another folder"):
        pull_hub(folder, "shp")


def test_every_domain_and_data_set_has_a_name_that_a_library_takes():
    assert all(is_name(each) for name, recipe in PREFERENCE_HUB.items() for each in (name, *recipe.files))
