"""Corpora: read, split, encode, pack, describe, discover."""

from collegium.data.demo import DEMO_DOMAINS, pull
from collegium.data.documents import Corpus, Document, Domain, Message, Split
from collegium.data.encoding import Encoded, encode
from collegium.data.reading import read_domains
from collegium.data.windows import Windows, cut, pack

__all__ = [
    "DEMO_DOMAINS",
    "Corpus",
    "Document",
    "Domain",
    "Encoded",
    "Message",
    "Split",
    "Windows",
    "cut",
    "encode",
    "pack",
    "pull",
    "read_domains",
]
