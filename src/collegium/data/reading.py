"""A folder or a file of the user's own texts as a corpus of domains."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.data.documents import Corpus, Document, Domain
from collegium.data.row_files import ROW_SUFFIXES
from collegium.data.rows import check_columns, read_rows
from collegium.data.texts import cut_at_blank_lines, read_text

TEXT_SUFFIXES = (".txt", ".md")
SOURCES_FILE = "sources.json"

_SUPPORTED = ", ".join((*TEXT_SUFFIXES, *ROW_SUFFIXES))


def read_domains(path: str | Path, *, columns: Mapping[str, str] | None = None) -> Corpus:
    """Return the domains of a folder: one for each sub-folder or each .txt, .md, .jsonl, .csv or .parquet file.

    A single file is one domain, named after it. In a sub-folder each file is one document, of rows one each row. A
    text file that is a whole domain is cut at blank lines into documents of at least 2,000 characters. Exact copies
    inside a domain are left out and counted, and so are empty files and rows; hidden files are not looked at.

    columns: what a row's `text`, `prompt`, `completion` or `messages` is called in these files.

    Raises DataError for whatever cannot be read.
    """
    root, renamed = Path(path), check_columns(columns)
    if not root.exists():
        raise DataError(f"{root} does not exist; give a folder or a file of texts. Check the path.")
    if not root.is_dir():
        return Corpus((_domain_of_file(root, renamed, {}),))
    sources = read_sources(root / SOURCES_FILE)
    parts = domain_parts(root, supported=supported_files())
    check_part_names(parts)
    return Corpus(
        tuple(
            _domain_of_folder(part, renamed, sources) if part.is_dir() else _domain_of_file(part, renamed, sources)
            for part in parts
        )
    )


def read_documents(path: str | Path, *, columns: Mapping[str, str] | None = None) -> tuple[Document, ...]:
    """Return the documents of a folder, however they are named or sorted, or of a file; each once.

    In a folder each file is one document, of rows one each row. A single text file is cut at blank lines, as one that
    is a whole domain is. Raises DataError for whatever cannot be read, or when there is none.
    """
    root, renamed = Path(path), check_columns(columns)
    if not root.exists():
        raise DataError(f"{root} does not exist; give a folder or a file of texts. Check the path.")
    found, _ = _folder_documents(root, renamed) if root.is_dir() else _file_documents(root, renamed)
    documents = [each for each in found if each.origin != str(root / SOURCES_FILE)]
    if not documents:
        raise DataError(f"{root} holds no text; give a folder with one document in each file, or a file of texts.")
    return tuple({each.hash: each for each in reversed(documents)}.values())[::-1]


def domain_parts(root: Path, *, supported: str) -> list[Path]:
    """Return the sub-folders and files of a folder of domains; raises DataError when there are none.

    supported: the suffixes of files that may be domains, for the message.
    """
    parts = [each for each in sorted(root.iterdir()) if not _hidden(each) and each.name != SOURCES_FILE]
    if not parts:
        raise DataError(f"{root} is empty; a domain is a sub-folder or one {supported} file in it.")
    return parts


def check_part_names(parts: Iterable[Path]) -> None:
    """Raise DataError when two sub-folders or files are named alike."""
    seen: dict[str, Path] = {}
    for part in parts:
        name = domain_name(part)
        if name in seen:
            raise DataError(
                f"each domain has a name of its own; {seen[name].name} and {part.name} are both {name!r}. "
                "Rename one, or put the file into the folder."
            )
        seen[name] = part


def domain_name(path: Path) -> str:
    """Return the name of the domain that a sub-folder or a file is."""
    return path.name if path.is_dir() else path.stem


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def supported_files() -> str:
    """Return the suffixes of files that may be domains, as a message lists them."""
    return _SUPPORTED.replace(", .parquet", " or .parquet")


def _domain_of_file(path: Path, columns: Mapping[str, str], sources: Mapping[str, tuple[Source, ...]]) -> Domain:
    documents, empty = _file_documents(path, columns)
    if not documents:
        raise DataError(f"{path} is empty; a domain needs at least three documents. Fill the file or take it away.")
    return _domain(domain_name(path), documents, empty, sources)


def _file_documents(path: Path, columns: Mapping[str, str]) -> tuple[list[Document], int]:
    """Return the documents of a file that holds several, and how many were empty."""
    suffix = path.suffix.lower()
    if suffix in ROW_SUFFIXES:
        documents, empty = read_rows(path, columns=columns, where=str(path))
    elif suffix in TEXT_SUFFIXES:
        pieces = cut_at_blank_lines(read_text(path))
        documents = [Document(text=text, origin=f"{path}:{n}") for n, text in enumerate(pieces, start=1)]
        empty = 0
    else:
        raise DataError(
            f"{path}: a file that is a domain is {supported_files()}, got {suffix or 'no suffix'!r}. Convert it, put "
            "it into a sub-folder if it is a plain text, or hide it with a leading dot."
        )
    return documents, empty


def _domain_of_folder(path: Path, columns: Mapping[str, str], sources: Mapping[str, tuple[Source, ...]]) -> Domain:
    documents, empty = _folder_documents(path, columns)
    if not documents:
        raise DataError(
            f"{path} holds no text; a domain is a folder with one document in each file. Fill it or take it away."
        )
    return _domain(path.name, documents, empty, sources)


def _folder_documents(path: Path, columns: Mapping[str, str]) -> tuple[list[Document], int]:
    """Return the documents of a folder, and how many files and rows were empty."""
    documents, empty = [], 0
    for file in files_below(path):
        if file.suffix.lower() in ROW_SUFFIXES:
            rows, without = read_rows(file, columns=columns, where=str(file))
            documents += rows
            empty += without
            continue
        text = read_text(file)
        if text.strip():
            documents.append(Document(text=text, origin=str(file)))
        else:
            empty += 1
    return documents, empty


def _domain(name: str, documents: list[Document], empty: int, sources: Mapping[str, tuple[Source, ...]]) -> Domain:
    distinct = {document.hash: document for document in reversed(documents)}
    kept = tuple(document for document in documents if distinct[document.hash] is document)
    return Domain(name, kept, sources.get(name, ()), duplicates=len(documents) - len(kept), empty=empty)


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files of a folder and its sub-folders in order, hidden ones left out.

    above: real paths of the folders it lies in; raises DataError for a link back to one of them.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder} is a link back to a folder it lies in ({real}). Remove the link.")
    for entry in sorted(folder.iterdir()):
        if _hidden(entry):
            continue
        if entry.is_dir():
            yield from files_below(entry, (*above, real))
        else:
            yield entry


def read_sources(path: Path) -> dict[str, tuple[Source, ...]]:
    """Return where each domain's texts come from, nothing without the file; raises DataError when it is malformed."""
    return _read_sources(path)[0]


def read_kinds(path: Path) -> dict[str, str]:
    """Return what kind of preferences each domain has, as far as the same file says so."""
    return _read_sources(path)[1]


def _read_sources(path: Path) -> tuple[dict[str, tuple[Source, ...]], dict[str, str]]:
    if not path.exists():
        return {}, {}
    try:
        raw = json.loads(read_text(path))
        sources = {name: tuple(Source(**each) for each in listed) for name, listed in raw["domains"].items()}
        kinds = dict(raw.get("kinds", {}).items())
        if not all(isinstance(kind, str) for kind in kinds.values()):
            raise TypeError("a kind is a text")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path} says where texts come from, as {{"domains": {{"law": [{{"name": ..., "licence": ...}}]}}}}, and '
            f'of preferences also what kind they are, "kinds": {{"law": ...}}; it cannot be read ({error}). '
            "Mend or delete it."
        ) from error
    return sources, kinds
