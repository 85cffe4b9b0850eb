"""A folder on any file system that fsspec knows, with files that appear whole or not at all."""

import contextlib
import json
import os
import posixpath
import re
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from grepr_core.errors import UserError
from grepr_core.web.access import OWN_OPTIONS, WebAccess, for_reading, is_web, with_lower_scheme

# In the place of fsspec's own, wherever a URL of the web turns up in this process. It brings aiohttp, so it is imported
# when the first one does.
for _scheme in ("http", "https"):
    fsspec.register_implementation(_scheme, "grepr_core.web.file_system.WebFileSystem", clobber=True)

#: Which of the package's extras brings the driver of a scheme.
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}


Record = TypeVar("Record")
#: What a URL of the local disk begins with, whoever writes it: ``file:///x``, ``file:/x``, ``file://localhost/x``.
_FILE_URL = re.compile(r"file:(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)
#: Schemes other than those of the web whose URLs name a host that is asked.
_BY_HOST = frozenset({"ftp", "sftp", "ssh", "smb", "hdfs", "webhdfs", "jupyter", "jlab"})


class MissingDriver(UserError):  # noqa: N818 - says what is the matter
    """The package that reaches a file system is not installed."""


def is_local(url: str) -> bool:
    """Tells whether a path or URL names the local file system."""
    return "://" not in url or is_file_url(url)


def is_file_url(url: str) -> bool:
    """Tells whether a text is a URL of the local file system."""
    return _FILE_URL.match(url) is not None


def file_url_path(url: bytes) -> bytes:
    """Gives the path in a URL for which :func:`is_file_url` holds, percent-encoded or not."""
    begin = _FILE_URL.match(url.decode("latin-1"))
    assert begin is not None
    return urllib.parse.unquote_to_bytes(url[begin.end() :])


def absolute(url: str) -> str:
    """Gives the absolute path of a local path or file URL, and any other URL by a scheme in small letters.

    Args:
        url: As a person gives it: a path may begin with ``~``, and a file URL be percent-encoded.
    """
    if not is_local(url):
        return with_lower_scheme(url)
    path = os.fsdecode(file_url_path(os.fsencode(url))) if is_file_url(url) else url
    # Two slashes at the beginning would be kept, and make another name of the same file. A file's own name that begins
    # with ~ is no home: expanded is only what does not say otherwise, as ./~ does.
    return re.sub("^//+", "/", os.path.abspath(os.path.expanduser(path)))


def from_record(kind: type[Record], record: Mapping[str, Any]) -> Record:
    """Makes a dataclass of what was kept of one, perhaps by another version.

    Args:
        kind: The dataclass.
        record: Its fields. Those that are unknown here are left out; those that are lacking have their defaults.

    Returns:
        The dataclass.

    Raises:
        TypeError: The record lacks a field that has no default.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in record.items() if name in known})


def open_file_system(url: str, storage_options: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """Opens the file system of a path or URL.

    Args:
        url: Of a file or folder.
        storage_options: For fsspec; those of grepr are for the web.

    Returns:
        The file system, and the path as it writes it.

    Raises:
        LinkLocalError: The host may not be asked.
    """
    url = "::".join(map(with_lower_scheme, url.split("::")))
    own = {name: value for name, value in storage_options.items() if name in OWN_OPTIONS}
    options = {name: value for name, value in storage_options.items() if is_web(url) or name not in own}
    for part in url.split("::"):  # a chain of file systems, each within the next
        scheme, _, rest = part.partition("://")
        if scheme in _BY_HOST:
            host = urllib.parse.urlsplit(f"//{rest}").hostname or ""
            WebAccess.of(own).check_host(host, resolve=True)
        if is_web(part) and part != url:  # where each has options by its name
            options[scheme] = {**options.get(scheme, {}), **own}
    fs, path = url_to_fs(url, **options)
    return fs, path


class Folder:
    """A folder addressed by a path or URL.

    Attributes:
        url: Absolute path, or URL.
        storage_options: For fsspec.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        """Opens nothing yet.

        Raises:
            MissingDriver: Says what to install.
        """
        self.url = absolute(url).rstrip("/")
        self.storage_options = dict(storage_options or {})
        try:
            # Other processes write here too, so what was listed once may not be taken for what is there.
            fresh = {} if is_local(self.url) else {"use_listings_cache": False}
            fs, root = open_file_system(self.url, {**fresh, **for_reading(self.storage_options, self.url)})
        except ImportError as error:
            extra = _EXTRAS.get(self.url.partition("://")[0])
            raise MissingDriver(
                f"{self.url}: {error}" + (f"; pip install 'grepr[{extra}]'" if extra else "")
            ) from error
        self.fs: fsspec.AbstractFileSystem = fs
        self._root: str = root

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, Any]]]:
        """Pickles by address: every process opens its own connections."""
        return type(self), (self.url, self.storage_options)

    def path(self, name: str) -> str:
        """Gives the path of a file as the file system itself writes it."""
        return posixpath.join(self._root, name)

    def child(self, name: str) -> "Folder":
        """Gives a folder inside this one."""
        return Folder(f"{self.url}/{name}", self.storage_options)

    def exists(self, name: str) -> bool:
        """Tells whether a file is there."""
        return bool(self.fs.exists(self.path(name)))

    def names(self) -> list[str]:
        """Lists the names of the files directly in the folder, freshly; none where the folder does not exist."""
        try:
            found = self.fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(posixpath.basename(path) for path in found)

    def read(self, name: str) -> bytes:
        """Reads a whole file."""
        content: bytes = self.fs.cat_file(self.path(name))
        return content

    def write(self, name: str, content: bytes) -> None:
        """Writes a file so that no reader ever sees a part of it, replacing one that is there.

        Object stores publish an object when its upload ends. A local file is written beside its place, flushed to the
        disk and renamed.
        """
        if not isinstance(self.fs, LocalFileSystem):
            self.fs.pipe_file(self.path(name), content)
            return
        with self.create(name) as file:
            file.write(content)

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Gives a file on the local disk to write to, for what is too large for :meth:`write`.

        Args:
            name: Of the file that appears, whole, when the block ends; none does if it ends by an exception.

        Yields:
            The file, which can be written at random.
        """
        path = self.path(name)
        if not isinstance(self.fs, LocalFileSystem):
            with tempfile.TemporaryDirectory(prefix="grepr-") as folder:
                local = Path(folder, "file")
                with local.open("wb") as file:
                    yield file
                self.fs.put_file(str(local), path)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # The leading dot hides a file left behind by a crash from every reader of the folder.
        temporary = posixpath.join(posixpath.dirname(path), f".grepr-{uuid.uuid4().hex}")
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def delete(self, name: str) -> None:
        """Deletes a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def remove(self) -> None:
        """Deletes the folder with all it holds, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self._root, recursive=True)

    def take_place(self, place: "Folder", *, aside: "Folder") -> None:
        """Puts the files of this folder in the place of another's; neither has folders in it.

        Local folders are renamed, so that the place holds one or the other. In a store files are copied, and those that
        the place has besides deleted; this folder stays. Ended in the middle, it is to be called again.

        Args:
            place: A folder of the same storage, which need not exist.
            aside: Where locally the place's own files go.
        """
        names = self.names()
        if not isinstance(self.fs, LocalFileSystem):
            self.fs.copy([self.path(name) for name in names], [place.path(name) for name in names])
            if surplus := sorted(set(place.names()) - set(names)):
                self.fs.rm([place.path(name) for name in surplus])
        elif names:  # else it was renamed before
            with contextlib.suppress(FileNotFoundError):
                os.rename(place._root, aside._root)
            os.rename(self._root, place._root)

    def read_json(self, name: str) -> Any:  # noqa: ANN401 - JSON is any value
        """Reads a JSON file.

        Raises:
            UserError: It is none; names it.
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise self._broken(name, f"not JSON ({error})") from error

    def read_record(self, name: str, kind: type[Record]) -> Record:
        """Reads a dataclass from a JSON file, as :func:`from_record` does.

        Raises:
            UserError: The file holds none; names it.
        """
        record = self.read_json(name)
        try:
            return from_record(kind, record)
        except (AttributeError, TypeError) as error:
            raise self._broken(name, f"not the record that belongs there ({error})") from error

    def _broken(self, name: str, what: str) -> UserError:
        return UserError(f"{self.url}/{name}: {what}; delete it and run the command that wrote it again")

    def write_json(self, name: str, value: object) -> None:
        """Writes a JSON file, whole or not at all."""
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        try:
            content = text.encode()
        except UnicodeEncodeError:  # a path that is not UTF-8, which JSON has an escape for
            content = (json.dumps(value, indent=2) + "\n").encode()
        self.write(name, content)
