"""Files at the edge: where the shipped data lives, reading text, writing without ever leaving half a file."""

import contextlib
import difflib
import errno
import gzip
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from maenas.errors import MaenasError

DataKind = Literal["search_spaces", "latency_tables", "searched_models"]

# The data that travels with maenas. A user's own files beside them are none of it; pyproject.toml lists the same files.
SHIPPED: Final[Mapping[DataKind, tuple[str, ...]]] = MappingProxyType(
    {
        "search_spaces": (
            "csp.yaml",
            "demo.yaml",
            "k1kx-small.yaml",
            "k1kx-tiny.yaml",
            "k1kx.yaml",
            "k1kxk1.yaml",
            "kxkx-large.yaml",
            "kxkx-medium.yaml",
            "mob.yaml",
        ),
        "searched_models": (
            "damo-yolo-l.json",
            "damo-yolo-m.json",
            "damo-yolo-nano-l.json",
            "damo-yolo-nano-m.json",
            "damo-yolo-nano-s.json",
            "damo-yolo-s.json",
            "damo-yolo-t.json",
        ),
        "latency_tables": (
            "a100-ultralytics-fp16-b1.json",
            "cpu-amd-epyc-onnxruntime-t1-fp32-b1.json",
            "cpu-amd-epyc-onnxruntime-t2-fp32-b1.json",
            "cpu-epyc-zen1-onnxruntime-t1-fp32-b1.json",
            "cpu-epyc-zen1-openvino-t1-fp32-b1.json",
            "cpu-epyc-zen3-onnxruntime-t1-fp32-b1.json",
            "cpu-epyc-zen3-openvino-t1-fp32-b1.json",
            "cpu-epyc-zen3-openvino-t1-int8-b1.json",
            "cpu-epyc-zen4-onnxruntime-t1-fp32-b1.json",
            "cpu-epyc-zen4-openvino-t1-bf16-b1.json",
            "cpu-epyc-zen4-openvino-t1-fp32-b1.json",
            "cpu-epyc-zen4-openvino-t1-int8-b1.json",
            "devices.yaml",
            "h100-torch-fp16-b1.json",
            "orin-agx-trtutils-fp16-b1.json",
            "orin-nano-super-ultralytics-fp16-b1.json",
            "orin-nano-super-ultralytics-int8-b1.json",
            "orin-nano-trtutils-fp16-b1.json",
            "orin-nx-trtutils-fp16-b1.json",
            "published/t4.json",
            "published/v100-tensorrt-fp16-b1.json",
            "rtx3080ti-trtutils-fp16-b1.json",
            "rtx3090-trtutils-fp16-b1.json",
            "shared-fp16-b1.json",
            "t4-damo-yolo-report-fp16-b1.json",
            "t4-detr-papers-fp16-b1.json",
            "t4-tensorrt10-fp16-b1.json",
            "titan-rtx-trtutils-fp16-b1.json",
            "xavier-nx-trtutils-fp16-b1.json",
        ),
    }
)

MAX_TEXT_BYTES = 64 * 1024 * 1024
LONGEST_NAME: Final = 255  # bytes, on the usual file systems
MOST_NAME_BYTES: Final = 200  # of a name to which we add


class FileStamp(NamedTuple):
    """What changes when a file does."""

    inode: int
    size: int
    changed_ns: int


def file_stamp(path: Path) -> FileStamp:
    """The stamp of a file that is there; raises `OSError`."""
    found = path.stat()
    return FileStamp(found.st_ino, found.st_size, found.st_mtime_ns)


def data_dir(kind: DataKind) -> Path:
    """The folder of shipped data of this kind: inside an installed wheel, else at the root of a checkout.

    Raises MaenasError if neither exists.
    """
    package = Path(__file__).resolve().parent
    candidates = (package / "_data" / kind, package.parent / kind)
    for folder in candidates:
        if folder.is_dir():
            return folder
    tried = " and ".join(str(folder) for folder in candidates)
    raise MaenasError(f"the folder {kind} is missing (looked in {tried}): install maenas again")


def shipped_names(kind: DataKind, suffix: str) -> list[str]:
    """Names, without `suffix`, of the shipped files of this kind that stand directly in its folder."""
    return sorted(name.removesuffix(suffix) for name in SHIPPED[kind] if name.endswith(suffix) and "/" not in name)


def shipped_file(kind: DataKind, name: str) -> Path:
    """The shipped file of this kind called `name`. Raises `MaenasError` if maenas ships no such file."""
    if name not in SHIPPED[kind]:
        raise MaenasError(f"maenas ships no {kind}/{name}")
    return data_dir(kind) / name


def read_text(path: str | os.PathLike[str], *, what: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The UTF-8 text of a file.

    `what` names the kind of file in messages, for example "search space".

    Raises MaenasError if the file is missing, not a regular file, larger than `max_bytes`, not UTF-8 or unreadable.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise MaenasError(f"{what} {path}: there is no such file{_nearest_names(path)}")
        if path.is_dir():
            raise MaenasError(f"{what} {path}: this is a folder; name a file in it")
        refuse_pipe(path, what=what)
        with path.open("rb") as file:
            # Memory is set aside for as many bytes as are asked for.
            data = file.read(min(max_bytes, os.fstat(file.fileno()).st_size) + 1)
    except OSError as error:
        raise MaenasError(f"{what} {path}: cannot be read: {reason(error)}") from error
    if len(data) > max_bytes:
        raise MaenasError(f"{what} {path}: larger than the limit of {max_bytes} bytes; is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MaenasError(f"{what} {path}:{line}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def read_packed_text(path: str | os.PathLike[str], *, what: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """As `read_text`; a file whose name ends in .gz is unpacked, and `max_bytes` holds for what comes out."""
    path = Path(path)
    if not path.name.lower().endswith(".gz") or not path.is_file():
        return read_text(path, what=what, max_bytes=max_bytes)
    try:
        with gzip.open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MaenasError(f"{what} {path}: cannot be read: {error}") from error
    if len(data) > max_bytes:
        raise MaenasError(f"{what} {path}: larger than the limit of {max_bytes} bytes when unpacked")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MaenasError(f"{what} {path}: not UTF-8 text (byte {error.start})") from error


def refuse_pipe(path: str | os.PathLike[str], *, what: str) -> None:
    """Raises MaenasError for a pipe or a device, which could keep a reader waiting for ever, or reading."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise MaenasError(f"{what} {path}: this is not a regular file")


def ensure_folder(path: Path) -> None:
    """Make `path` and its parents, and see that a file can be written there; raises `MaenasError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise MaenasError(f"cannot write into {path}: {reason(error)}") from error
    except ValueError as error:  # a NUL character, a lone surrogate
        raise MaenasError(f"cannot write into {str(path)!r}: {error}") from error


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder` when the block ends; where the block raises, it is gone.

    Raises MaenasError if `folder` exists and is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MaenasError(f"{folder} exists already; name a new folder")
    parent = folder.resolve().parent
    ensure_folder(parent)
    work = Path(tempfile.mkdtemp(dir=parent, prefix=hidden_name(folder.name, "")))
    try:
        yield work
        work.chmod(0o755)  # mkdtemp makes private folders
        os.replace(work, folder)
    except OSError as error:
        raise MaenasError(f"cannot write {folder}: {reason(error)}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Replaces the file at `path` by `data` so that a reader sees the old file or the new one, never a part.

    The text is written as UTF-8 to a temporary file in the same folder, synced to disk, and renamed over `path`. The
    folder is made where it is missing. What is not a regular file is never replaced.
    A new file gets the usual permissions of new files; an existing file keeps its own.

    Raises MaenasError if the system refuses; the old file is then untouched and the temporary file gone.
    """
    target = output_target(path)
    try:
        content = data.encode("utf-8") if isinstance(data, str) else data
    except UnicodeEncodeError as error:
        raise MaenasError(f"cannot write {path}: {error}") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, content)
    except OSError as error:
        raise MaenasError(f"cannot write {path}: {reason(error)}") from error


def output_target(path: str | os.PathLike[str]) -> Path:
    """The place that an output called `path` has or will have: links are followed to the file that they stand for.

    Raises MaenasError where no file can be called so, and where a folder, a device, a pipe or a loop of links has this
    name: renaming a file over a device would destroy it.
    """
    try:
        target = Path(os.path.realpath(path))  # replacing a link would cut it off from its file
    except ValueError as error:  # a NUL character, a lone surrogate
        raise MaenasError(f"cannot write {str(path)!r}: {error}") from error
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    except OSError as error:
        raise MaenasError(f"cannot write {path}: {reason(error)}") from error
    if stat.S_ISLNK(mode):
        raise MaenasError(f"cannot write {path}: this is a link that leads back to itself")
    if stat.S_ISDIR(mode):
        raise MaenasError(f"cannot write {path}: this is a folder; name a file in it")
    if not stat.S_ISREG(mode):
        raise MaenasError(f"cannot write {path}: this is a device or a pipe; name a regular file")
    return target


def hidden_name(name: str, suffix: str) -> str:
    """The name of a hidden file beside the one called `name`, short enough for every file system."""
    encoded = os.fsencode(name)
    if len(encoded) > MOST_NAME_BYTES:
        name = f"{encoded[:MOST_NAME_BYTES].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"
    return f".{name}.{suffix}"


def _replace(target: Path, content: bytes) -> None:
    temporary = target.with_name(hidden_name(target.name, f"{secrets.token_hex(6)}.tmp"))
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException:  # Ctrl-C must not leave the temporary file behind either
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def filled_lines(text: str) -> list[str]:
    """The lines of a text without blanks around them; empty ones are left out."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _nearest_names(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (nor a folder {folder})"
    there = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]  # locks, files half written
    names = difflib.get_close_matches(path.name, there, n=3, cutoff=0.5)
    if not names:
        return ""
    return f"; did you mean {' or '.join(str(folder / name) for name in names)}?"


_ADVICE = {
    errno.ENOSPC: "free some space or choose another disk",
    errno.EDQUOT: "free some space or choose another disk",
    errno.EACCES: "choose a place where you have the permission, or ask for it",
    errno.EPERM: "choose a place where you have the permission, or ask for it",
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "a part of the path is a file; choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def reason(error: OSError) -> str:
    """What the system says, and what to do about it."""
    text = (error.strerror or str(error)).lower()
    advice = _ADVICE.get(error.errno or 0)
    return f"{text}; {advice}" if advice else text
