"""The built-in task: which installed package does a docstring come from?

It needs no download: the texts are docstrings of packages that every installation of paretune has.
Source is read by `ast`, never imported. Every package's names are masked in every text, near
duplicates are dropped, classes are balanced, and whole files are dealt to the splits, so that no
two splits share one. With the versions that requirements.lock pins the rows are the same
everywhere, which a digest proves.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Final

from ...errors import DataError
from ...spaces.configuration import digest
from .rows import Row, Rows
from .spec import SPLITS, TaskSpec, place

ALGORITHM: Final = 1
"""Raised when the same source would give other rows."""

PACKAGES: Final[Mapping[str, str]] = {
    "huggingface_hub": "huggingface_hub",
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "sqlalchemy": "SQLAlchemy",
    "sympy": "sympy",
    "torch": "torch",
    "transformers": "transformers",
}
"""The classes: import names, and the distributions they come in."""

PINNED: Final[Mapping[str, str]] = {
    "SQLAlchemy": "2.1.9",
    "huggingface_hub": "2.4.0",
    "networkx": "3.6.1",
    "numpy": "2.4.6",
    "pandas": "3.1.1",
    "scikit-learn": "1.9.1",
    "scipy": "1.17.1",
    "sympy": "1.14.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}
"""The versions of requirements.lock under which `PINNED_DIGEST` holds."""

PINNED_DIGEST: Final = "d3c85e1566d911bb1251eee7bc7b025c"

PER_CLASS: Final[Mapping[str, int]] = {
    "train": 120,
    "calibration": 30,
    "validation": 40,
    "test": 200,
}

MASK: Final = "package"
_LONG_NAMES = (
    r"hugging[ _-]?face(?:[ _-]?hub)?|networkx|numpy|pandas|scipy|scikit[ _-]?learn|scikits?"
    r"|sklearn|sql[ _-]?alchemy|sympy|py[ _-]?torch|torch|transformers"
)
_ALIASES = r"hf|nx|np|pd|sp|spla|sk|skl|sa|sqla|aten"
# A long name is masked wherever it stands, an alias where it is a whole part of an identifier.
_NAMES = re.compile(rf"{_LONG_NAMES}|(?<![^\W_])(?:{_ALIASES})(?![^\W_])", re.IGNORECASE)

_Holder = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_SKIPPED_FOLDERS = {"tests", "testing", "externals", "_vendor", "vendored", "array_api_compat"}
_SKIPPED_FILES = {"__config__.py", "version.py", "_version.py"}
_FILE_BYTES = (500, 60_000)  # one file beyond costs as much time as ten within
_PER_FILE = 10
_CHARACTERS = (60, 320)
_SHINGLE = 4
_OPENING = 30  # words compared: what a model of 32 tokens sees
_SAME = 0.5  # Jaccard similarity of word 4-grams from which two texts count as one


def docstring_rows(spec: TaskSpec, cache: Path) -> Rows:
    """Balanced rows `text`, `label` by split; extracted once for each set of versions.

    Args:
        spec: read for nothing but its name.
        cache: folder in which the extracted rows are kept.

    Raises:
        DataError: a package is missing or too small, or the pinned versions give other rows than
            they should (an altered installation).
    """
    versions = _versions()
    path = cache / f"docstrings-{digest({'algorithm': ALGORITHM, 'versions': versions})}.json"
    if path.is_file():
        splits = json.loads(path.read_text(encoding="utf-8"))
        _check(splits, versions, path)
    else:
        splits = _balanced(_extracted())
        _check(splits, versions, path)
        _write(path, splits)
    return Rows(splits, spec.name, tuple(PACKAGES), whole=True)


def mask(text: str) -> str:
    """A text in which no class gives itself away by name, abbreviation or import alias.

    >>> mask("np.ndarray to torch_dtype of a PyTorch tensor, see sklearn; inputs")
    'package.ndarray to package_dtype of a package tensor, see package; inputs'
    """
    return _NAMES.sub(MASK, text)


def rows_digest(splits: Mapping[str, Sequence[Row]]) -> str:
    """A name for the content of extracted rows."""
    return digest({split: [dict(row) for row in rows] for split, rows in splits.items()})


def _versions() -> dict[str, str]:
    try:
        return {name: version(name) for name in PACKAGES.values()}
    except PackageNotFoundError as error:
        raise DataError(
            f"the docstrings task reads the package {error.name}, which is not installed; "
            "install paretune with its dependencies"
        ) from error


def _check(splits: Mapping[str, Sequence[Row]], versions: Mapping[str, str], path: Path) -> None:
    # A local build such as 2.13.0+cpu carries the same Python source.
    plain = {name: number.partition("+")[0] for name, number in versions.items()}
    found = rows_digest(splits)
    if plain == PINNED and found != PINNED_DIGEST:
        raise DataError(
            f"the docstrings of the pinned packages give digest {found}, not {PINNED_DIGEST}: "
            f"delete {path} if it is there, else an installed package is not what its version "
            f"says: reinstall {', '.join(PINNED)} as requirements.lock pins them"
        )


def _write(path: Path, splits: Mapping[str, Sequence[Row]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(splits), encoding="utf-8")
    temporary.replace(path)


def _extracted() -> dict[str, dict[str, list[str]]]:
    """Texts by package and split, as many as are wanted where there are as many."""
    kept = _Distinct()
    return {package: _texts_of(package, kept) for package in PACKAGES}


def _texts_of(package: str, kept: _Distinct) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {split: [] for split in PER_CLASS}
    for path, name in _files(package):
        split = _split_of(name)
        wanted = PER_CLASS[split] - len(texts[split])
        if not wanted:
            continue
        fresh = (text for text in _readable(path) if kept.add(text))
        texts[split].extend(islice(fresh, min(wanted, _PER_FILE)))
        if all(len(texts[s]) == n for s, n in PER_CLASS.items()):
            break
    return texts


def _files(package: str) -> Iterator[tuple[Path, str]]:
    """A package's files of usable size with their names inside it, in a pseudo-random order."""
    found = importlib.util.find_spec(package)  # looks, does not import
    roots = found.submodule_search_locations if found else None
    if not roots:
        raise DataError(f"the docstrings task cannot find the source of {package}; reinstall it")
    root = Path(roots[0])
    files = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if _SKIPPED_FOLDERS.isdisjoint(parts) and path.name not in _SKIPPED_FILES:
            files.append((path, "/".join((package, *parts))))
    return iter(sorted(files, key=lambda file: place(file[1], 0)))


def _split_of(name: str) -> str:
    """The split that a file is dealt to, in proportion to what the splits want."""
    point = place(name, 1) * sum(PER_CLASS.values())
    for split, wanted in PER_CLASS.items():
        if point < wanted:
            return split
        point -= wanted
    return SPLITS[-1]


def _readable(path: Path) -> Iterator[str]:
    """The masked docstrings of a file that are long enough, cut after whole words."""
    if not _FILE_BYTES[0] <= path.stat().st_size <= _FILE_BYTES[1]:
        return
    source = path.read_bytes().replace(b"\r\n", b"\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # other people's invalid escapes
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return  # newer or older Python than ours: the file has no docstring for us
    for raw in _docstrings(tree):
        words = " ".join(inspect.cleandoc(raw).split())
        text = mask(words[: 3 * _CHARACTERS[1]])  # a mask is no third of a name
        if len(text) > _CHARACTERS[1]:
            text = text[: _CHARACTERS[1]].rsplit(" ", 1)[0]
        if len(text) >= _CHARACTERS[0]:
            yield text


def _docstrings(node: _Holder) -> Iterator[str]:
    """Docstrings of modules, classes and functions, without a look into expressions."""
    if node.body and (own := _constant(node.body[0])):
        yield own
    for child in node.body:
        if isinstance(child, _Holder):
            yield from _docstrings(child)


def _constant(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        value = statement.value.value
        return value if isinstance(value, str) else None
    return None


class _Distinct:
    """Keeps texts that no text before them resembles (exact Jaccard over word shingles)."""

    def __init__(self) -> None:
        self._holders: dict[int, list[int]] = defaultdict(list)
        self._sizes: list[int] = []

    def add(self, text: str) -> bool:
        """Takes a text in; False where one before it is nearly the same."""
        words = re.findall(r"\w+", text.lower())[:_OPENING]
        grams = {
            _hash(" ".join(words[i : i + _SHINGLE]))
            for i in range(max(1, len(words) - _SHINGLE + 1))
        }
        shared = Counter(holder for gram in grams for holder in self._holders.get(gram, ()))
        for holder, both in shared.items():
            if both >= _SAME * (len(grams) + self._sizes[holder] - both):
                return False
        for gram in grams:
            self._holders[gram].append(len(self._sizes))
        self._sizes.append(len(grams))
        return True


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _balanced(found: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, list[Row]]:
    """As many rows of each class as the smallest has, classes taking turns."""
    splits: dict[str, list[Row]] = {}
    for split in PER_CLASS:
        count = min(len(texts[split]) for texts in found.values())
        if not count:
            short = [package for package, texts in found.items() if not texts[split]]
            raise DataError(
                f"the docstrings task finds no usable docstring for {split} in {', '.join(short)};"
                " install the versions of requirements.lock"
            )
        splits[split] = [
            {"text": found[package][split][i], "label": package}
            for i in range(count)
            for package in found
        ]
    return splits
