"""Files of the store: in a local folder, or behind a URL that fsspec knows.

Belongs here: writing whole or not at all, reading, local copies of what must be a real file (weights, a FAISS index).
Does not: what a file holds, tables (`sample_store.py`), what options an object store takes (`storage_options.py`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from resources.errors import ConfigError
from resources.fingerprint import fingerprint
from resources.storage_options import S3, fsspec_options

RECORD = ".synced.json"
"""In a local copy: what was brought here, so that only what changed travels. Names with a dot in front stay here."""
REVISION = ("size", "ETag", "etag", "generation", "last_modified")
"""What the object stores tell of a file's content: S3, Azure and Google under their own names."""


class StoreFiles(Protocol):
    """Files by the parts of their path within the store."""

    def check(self) -> None:
        """See whether files can be reached. Raises ConfigError."""

    def place(self, *parts: str) -> str:
        """Where a file is, for people: a path or a URL."""

    def exists(self, *parts: str) -> bool:
        """Whether there is such a file."""

    def read(self, *parts: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""

    def write(self, content: bytes, *parts: str) -> None:
        """Write a file whole or not at all."""

    def remove(self, *parts: str) -> None:
        """Remove a file, if it is there."""

    def local_copy(self, *parts: str) -> Path:
        """A folder of the store as it is now, to be read; it is made where there was none."""

    @contextmanager
    def working_copy(self, *parts: str) -> Iterator[Path]:
        """A folder of the store to read and to change; changes are in the store once the context ends."""


class LocalFiles:
    """Files in a folder, which is its own local copy."""

    def __init__(self, root: str) -> None:
        self.root = root

    def check(self) -> None:
        """See `StoreFiles`; a folder is made by the first write, which says itself what is wrong."""

    def place(self, *parts: str) -> str:
        """See `StoreFiles`."""
        return str(Path(self.root, *parts))

    def exists(self, *parts: str) -> bool:
        """See `StoreFiles`."""
        return Path(self.root, *parts).is_file()

    def read(self, *parts: str) -> bytes:
        """See `StoreFiles`."""
        return Path(self.root, *parts).read_bytes()

    def write(self, content: bytes, *parts: str) -> None:
        """See `StoreFiles`."""
        path = Path(self.root, *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)

    def remove(self, *parts: str) -> None:
        """See `StoreFiles`."""
        Path(self.root, *parts).unlink(missing_ok=True)

    def local_copy(self, *parts: str) -> Path:
        """See `StoreFiles`."""
        folder = Path(self.root, *parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def working_copy(self, *parts: str) -> Iterator[Path]:
        """See `StoreFiles`."""
        yield self.local_copy(*parts)


class RemoteFiles:
    """Files behind a URL; `copies` is the local folder of what must be real files.

    A local copy follows the store: what changed there is brought here, what went is removed. Files that were never in
    the store stay: they are what a killed run had made, and the next working copy takes them up.
    """

    def __init__(self, url: str, options: Mapping[str, str], copies: Path) -> None:
        self.url = url
        self.options = options
        self.copies = copies

    @cached_property
    def opened(self) -> tuple[Any, str]:
        """The file system of fsspec, and the store's path in it. Raises ConfigError where its package is missing."""
        from fsspec.core import url_to_fs

        scheme = self.url.partition("://")[0]
        try:
            # a listing that was kept would hide what other machines write
            found: tuple[Any, str] = url_to_fs(
                self.url, use_listings_cache=False, **fsspec_options(scheme, self.options)
            )
        except (ImportError, ValueError) as error:  # a protocol that fsspec does not know is a ValueError
            hint = "; run: pip install 'domain-gap[s3]'" if scheme in S3 else ""
            raise ConfigError(f"store: {self.url}: {' '.join(str(error).split())}{hint}") from None
        return found

    def check(self) -> None:
        """See `StoreFiles`."""
        try:
            self.system.ls(self.opened[1].split("/")[0])
        except ConfigError:
            raise
        except Exception as error:  # every object store has errors of its own
            raise ConfigError(
                f"store: {self.url}: can't be reached: {type(error).__name__}: {' '.join(str(error).split())[:160]}; "
                "see to its address, 'storage_options' and the credentials in the environment"
            ) from None

    @property
    def system(self) -> Any:
        """The file system of fsspec."""
        return self.opened[0]

    def path(self, *parts: str) -> str:
        """A file's path in the file system."""
        return "/".join([self.opened[1], *parts])

    def place(self, *parts: str) -> str:
        """See `StoreFiles`."""
        return "/".join([self.url, *parts])

    def exists(self, *parts: str) -> bool:
        """See `StoreFiles`."""
        return bool(self.system.isfile(self.path(*parts)))

    def read(self, *parts: str) -> bytes:
        """See `StoreFiles`."""
        content: bytes = self.system.cat_file(self.path(*parts))
        return content

    def write(self, content: bytes, *parts: str) -> None:
        """See `StoreFiles`; an object store shows an object once all of it is there."""
        self.system.pipe_file(self.path(*parts), content)

    def remove(self, *parts: str) -> None:
        """See `StoreFiles`."""
        if self.exists(*parts):
            self.system.rm_file(self.path(*parts))

    def local_copy(self, *parts: str) -> Path:
        """See `StoreFiles`."""
        folder = Path(self.copies, *parts)
        folder.mkdir(parents=True, exist_ok=True)
        before, there = _record(folder), self._revisions(*parts)  # in this order: another process may bring files back
        for name in before.keys() - there.keys():
            (folder / name).unlink(missing_ok=True)
        for name, revision in there.items():
            if before.get(name) != [revision, *_state(folder / name)]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                replace_file(folder / name, self.read(*parts, name))
        _note(folder, there)
        return folder

    @contextmanager
    def working_copy(self, *parts: str) -> Iterator[Path]:
        """See `StoreFiles`; after an error, too, what was finished before it is brought to the store."""
        folder = self.local_copy(*parts)
        try:
            yield folder
        finally:
            self._bring_back(folder, *parts)

    def _bring_back(self, folder: Path, *parts: str) -> None:
        before, here = _record(folder), _files(folder)
        for name, path in here.items():
            if before.get(name, [None])[1:] != _state(path):
                self.system.put_file(str(path), self.path(*parts, name))
        for name in before.keys() - here.keys():
            self.remove(*parts, name)
        there = self._revisions(*parts)
        _note(folder, {name: there[name] for name in here if name in there})

    def _revisions(self, *parts: str) -> dict[str, str]:
        """Every file below a folder of the store, by its path in there, with what changes when its content does."""
        prefix = self.path(*parts) + "/"
        found = self.system.find(prefix, detail=True)
        return {
            name.removeprefix(prefix): fingerprint([str(info.get(key)) for key in REVISION])
            for name, info in found.items()
        }


def replace_file(path: Path, content: bytes) -> None:
    """Write a local file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)  # and so with the rights of the user's umask, as every file of the store
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _files(folder: Path) -> dict[str, Path]:
    """Files of a local copy, in the order of writing: what is written last says that the rest is there."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    found.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
    return {path.relative_to(folder).as_posix(): path for path in found}


def _state(path: Path) -> list[int]:
    """What moves when a local file's content does; nothing where there is none."""
    if not path.is_file():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _record(folder: Path) -> dict[str, list[Any]]:
    """Files that were the same here and in the store: revision there, size and time here."""
    try:
        found: dict[str, list[Any]] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _note(folder: Path, revisions: Mapping[str, str]) -> None:
    record = {name: [revision, *_state(folder / name)] for name, revision in revisions.items()}
    replace_file(folder / RECORD, json.dumps(record).encode())
