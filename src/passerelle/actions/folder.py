"""Opens files below a folder, and never anything else.

A path is opened segment by segment, each relative to the folder opened before it and without following symbolic links
(``O_NOFOLLOW``), so what is checked is what is opened: renaming a folder or placing a link in between changes nothing.
The folder itself may be a link, which is followed each time: a deployment may switch it.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from passerelle.errors import Failure, Kind

# The one name with a dot that is meant for others (RFC 8615), at the top of a folder.
_WELL_KNOWN: Final = b".well-known"
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO would wait for a writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MISSING: Final = (
    *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM),
    *(errno.ENXIO, errno.ENODEV, errno.EINVAL, errno.EISDIR),
)


@dataclass(frozen=True, slots=True)
class FileState:
    """The identity and the state of a file: two equal ones have the same content."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        """Return the state of what ``os.stat`` has found; times are in nanoseconds."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def has_content_of(self, other: FileState) -> bool:
        """Whether an open file was not written between the two states. It may have been renamed or removed."""
        return (self.size, self.modified) == (other.size, other.modified)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open regular file, which the owner closes."""

    descriptor: int
    state: FileState


Segments = tuple[bytes, ...]


def segments_of(path: bytes) -> Segments | None:
    """Return the names in a canonical path of a request; None if no file may have one of them.

    ``path`` begins without a slash and is percent-encoded. An empty path, and one that ends with a slash, end with an
    empty name.
    """
    names = tuple(unquote_to_bytes(part) for part in path.split(b"/")) if b"%" in path else tuple(path.split(b"/"))
    for index, name in enumerate(names):
        if name[:1] == b"." and (index or name != _WELL_KNOWN or len(names) == 1):
            return None
        if b"/" in name or b"\0" in name or (not name and index + 1 < len(names)):
            return None
    return names


class Folder:
    """A folder whose files are served."""

    __slots__ = ("path",)

    def __init__(self, path: bytes) -> None:
        self.path = path

    def location(self, names: Segments) -> bytes:
        """Return the path of a file in the file system. It may be a link: only :meth:`open` excludes that."""
        return b"/".join((self.path, *names))

    def open(self, names: Segments) -> OpenFile | None:
        """Open the regular file ``names``; None if there is none.

        :raises Failure: if the file cannot be opened for another reason.
        """
        try:
            place = self._parent(names)
            try:
                # A device may react to being opened.
                if not stat.S_ISREG(os.stat(names[-1], dir_fd=place, follow_symlinks=False).st_mode):
                    return None
                descriptor = os.open(names[-1], _FILE, dir_fd=place)
            finally:
                os.close(place)
        except OSError as error:
            _check_missing(error)
            return None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            return None
        return OpenFile(descriptor, FileState.of(found))

    def _parent(self, names: Segments) -> int:
        """Open the folder of the file ``names``. Raises ``OSError``."""
        place = os.open(self.path, _FOLDER)
        for name in names[:-1]:
            try:
                inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=place)
            finally:
                os.close(place)
            place = inner
        return place


def _check_missing(error: OSError) -> None:
    """Return if ``error`` means that there is no such file, and raise the failure of the request otherwise."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise Failure(Kind.OVERLOADED, f"a file cannot be opened: {error.strerror}")
    if error.errno not in _MISSING:
        raise Failure(Kind.INTERNAL, f"a file cannot be opened: {error.strerror}")
