"""Corpora: read, split, encode, pack, describe, discover."""

from collegium.data.agreement import found_and_labels, normalised_mutual_information, purity, size_ratio
from collegium.data.clusters import Clusters
from collegium.data.demo import DEMO_DOMAINS, pull
from collegium.data.description import Description, describe
from collegium.data.discovery import as_corpus, discover, write_domains
from collegium.data.documents import MINIMUM_DOCUMENTS, Corpus, Document, Domain, Message, Split
from collegium.data.duplicates import NearDuplicate, near_duplicates
from collegium.data.encoding import Encoded, encode
from collegium.data.labelled import LabelledTask, LabelledText, labelled_task, read_labelled
from collegium.data.labelled_pull import LABELLED_TASKS, pull_labelled
from collegium.data.preference_detection import holds_preferences
from collegium.data.preference_hub import PREFERENCE_HUB, read_hub
from collegium.data.preference_pull import PREFERENCE_DOMAINS, pull_hub, pull_preferences
from collegium.data.preference_reading import preferences_from_dataset, preferences_from_rows, read_preferences
from collegium.data.preference_report import PreferenceDescription, PreferenceDomain, describe_preferences
from collegium.data.preferences import Pair, PairCorpus, PairDomain, PairSplit, take_pairs
from collegium.data.reading import read_documents, read_domains
from collegium.data.synthetic_preferences import conflicting_domains, toy_domains
from collegium.data.task_pull import TASK_DOMAINS, pull_tasks
from collegium.data.text_tasks import TaskRow, TextTask, read_tasks, text_task
from collegium.data.windows import Windows, cut, join_windows, pack

__all__ = [
    "DEMO_DOMAINS",
    "LABELLED_TASKS",
    "MINIMUM_DOCUMENTS",
    "PREFERENCE_DOMAINS",
    "PREFERENCE_HUB",
    "TASK_DOMAINS",
    "Clusters",
    "Corpus",
    "Description",
    "Document",
    "Domain",
    "Encoded",
    "LabelledTask",
    "LabelledText",
    "Message",
    "NearDuplicate",
    "Pair",
    "PairCorpus",
    "PairDomain",
    "PairSplit",
    "PreferenceDescription",
    "PreferenceDomain",
    "Split",
    "TaskRow",
    "TextTask",
    "Windows",
    "as_corpus",
    "conflicting_domains",
    "cut",
    "describe",
    "describe_preferences",
    "discover",
    "encode",
    "found_and_labels",
    "holds_preferences",
    "join_windows",
    "labelled_task",
    "near_duplicates",
    "normalised_mutual_information",
    "pack",
    "preferences_from_dataset",
    "preferences_from_rows",
    "pull",
    "pull_hub",
    "pull_labelled",
    "pull_preferences",
    "pull_tasks",
    "purity",
    "read_documents",
    "read_domains",
    "read_hub",
    "read_labelled",
    "read_preferences",
    "read_tasks",
    "size_ratio",
    "take_pairs",
    "text_task",
    "toy_domains",
    "write_domains",
]
