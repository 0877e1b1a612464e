"""Where results come from and how they are stored; every other module may use this one.

Git's state, versions, the device; files that are written whole or not at all; lines that
several processes can append at the same time, each with a digest; the identity of a run.
"""

import errno
import hashlib
import json
import os
import platform
import re
import reprlib
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from filelock import FileLock, SoftFileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

try:
    import resource
except ImportError:  # not on Windows
    resource = None

__all__ = [
    "DamagedLine",
    "DamagedRecord",
    "Git",
    "Line",
    "RecordError",
    "append_line",
    "check_appendable",
    "check_writable",
    "choose_device",
    "device_name",
    "exclusive_lock",
    "explain",
    "file_lock",
    "git_state",
    "identify",
    "loaded_git",
    "now",
    "peak_memory",
    "read_lines",
    "read_models",
    "seal",
    "seal_file",
    "unseal",
    "versions",
    "write_whole",
]


class RecordError(RuntimeError):
    """A result cannot be written."""


class DamagedLine(ValueError):
    """A line of results was changed after it was written."""


class MissingDigest(DamagedLine):
    """A line of results has no digest, so changes cannot be detected."""


class DamagedRecord(UserWarning):
    """A line of results could not be read and was skipped."""


# ------------------------------------------------------------------ what made a result


class Git(BaseModel):
    """The commit of the package, and whether its files were unchanged since.

    Files outside the package, such as the records that a batch appends to, do not affect
    training and are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str | None
    clean: bool | None


def git_state(package: Path = Path(__file__).parent) -> Git:
    """The commit of a package's files; None if they are not in a repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        commit = git("rev-parse", "HEAD").strip()
        return Git(commit=commit, clean=not git("status", "--porcelain", "--", ".").strip())
    except (OSError, subprocess.CalledProcessError):
        return Git(commit=None, clean=None)


@cache
def loaded_git() -> Git:
    """`git_state` of this package when this process first asked. A process computes with
    the files that it loaded: what is checked out or edited later is not what ran."""
    return git_state()


def versions() -> dict[str, str]:
    """Versions of Python, torch and lpa_core."""
    from lpa_core import __version__

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lpa_core": __version__,
    }


def now() -> datetime:
    """The current time, UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def choose_device(name: str = "auto") -> torch.device:
    """The device to compute on; "auto" takes a GPU if there is one.

    Raises:
        ValueError: this machine does not have the device, or it does not work.
    """
    if name == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        try:
            device = torch.device(name)
            torch.empty(1, device=device).cpu()  # "meta" has no values to copy
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"device {name!r} is not available here: {first_sentence(error)} "
                "(choose auto, cpu or cuda)"
            ) from error
    if device.type == "cuda":
        check_card(device)
    return device


def check_card(device: torch.device) -> None:
    """Try a GPU before anything depends on it.

    Raises:
        ValueError: torch has no kernels for the GPU, or its first product fails.
    """
    advice = "choose --device cpu, in a chapter set CUDA_VISIBLE_DEVICES to nothing"
    try:
        name = torch.cuda.get_device_name(device)
        capability = torch.cuda.get_device_capability(device)
        built = torch.cuda.get_arch_list()
        if not has_kernels(capability, built):
            major, minor = capability
            raise ValueError(
                f"{name} has compute capability {major}.{minor}, but torch "
                f"{torch.__version__} has kernels for {', '.join(built)}: {advice}, or "
                "install a torch that was built for this GPU"
            )
        ones = torch.ones(8, 8, device=device)
        product = (ones @ ones).sum().item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"the GPU {device} fails at its first product: {first_sentence(error)}; "
            f"{advice}"
        ) from error
    if product != 512:
        raise ValueError(f"the first product on {name} is wrong: {advice}")


def has_kernels(capability: tuple[int, int], built: list[str]) -> bool:
    """Whether kernels built for some architectures run on a GPU.

    Machine code (sm_75) runs on the same major version from its minor version on;
    intermediate code (compute_75) is compiled for any later one.
    """
    for architecture in built:
        kind, _, digits = architecture.partition("_")
        digits = digits.rstrip("af")  # sm_90a: with features of only that GPU
        if not digits.isdigit():
            continue
        version = (int(digits[:-1]), int(digits[-1]))
        if version <= capability and (kind == "compute" or version[0] == capability[0]):
            return True
    return not built  # a build without a list may work


def first_sentence(error: BaseException) -> str:
    return (str(error).strip().split(". ")[0].splitlines() or [""])[0]


def device_name(device: torch.device) -> str:
    """The name of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(s.split(":")[1].strip() for s in lines if s.startswith("model name"))
    except (OSError, StopIteration):
        return f"{device.type} ({sys.platform})"


def peak_memory(device: torch.device) -> int:
    """Bytes: of this process on a CPU (0 on Windows), of the tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def identify(facts: dict[str, Any]) -> str:
    """The identity of a result: a hash of everything that it depends on.

    Args:
        facts: JSON values; the order of keys does not matter.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -------------------------------------------------------------------- files, whole or not


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: whatever happens, it is complete or unchanged.

    Raises:
        OSError: it cannot be written; the error names the file, which is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)  # if it was not renamed


def check_writable(folder: Path) -> None:
    """Check before hours of work that the result can be written at the end.

    Raises:
        RecordError: the folder cannot be written or created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RecordError(
            f"cannot write to the folder {folder} ({error.strerror}): name one that is "
            "writable"
        ) from error


def check_appendable(path: Path) -> None:
    """The same for a file that lines will be appended to, which may not exist yet.

    Raises:
        RecordError: the file cannot be written.
    """
    check_writable(path.parent)
    try:
        if path.exists():
            open(path, "ab").close()
    except OSError as error:
        raise RecordError(
            f"cannot write to {path} ({error.strerror}): name a file that is writable"
        ) from error


# --------------------------------------------------------- lines, each under its digest

DIGEST = re.compile(r', "digest": "([0-9a-f]{64})"\}$')


def seal(text: str) -> str:
    """A JSON object, with a digest of its text added as the last field."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]}, "digest": "{digest}"}}'


def unseal(line: str) -> dict[str, Any]:
    """The object that `seal` wrote, without its digest.

    Raises:
        DamagedLine: a character of the line was changed.
        MissingDigest: there is no digest.
    """
    found = DIGEST.search(line)
    if not found:
        raise MissingDigest("it has no digest, so it cannot be checked for changes")
    text = line[: found.start()] + "}"
    if hashlib.sha256(text.encode()).hexdigest() != found[1]:
        raise DamagedLine("its digest does not match: a character was changed")
    return json.loads(text)


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Line(Generic[M]):
    """One line of a file of results.

    Attributes:
        number: from 1, including empty lines.
        fields: as in the file, without the digest; empty if the line is damaged.
        model: the model of the fields; None if the line is damaged.
        fault: what is wrong with it, in one line.
    """

    number: int
    fields: dict[str, Any]
    model: M | None
    fault: str = ""


def read_lines(path: Path, model: type[M], strict: bool = False) -> Iterator[Line[M]]:
    """The lines of a file of results, including damaged ones.

    Args:
        strict: do not convert text to numbers.

    Raises:
        OSError: the file cannot be read.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = unseal(line.decode())
            made = model.model_validate_json(json.dumps(fields), strict=strict)
            yield Line(number, fields, made)
        except MissingDigest as error:
            hint = f"`python -m lpa_core records seal {path}` adds one"
            yield Line(number, {}, None, f"{error}: {hint}")
        except ValidationError as error:
            yield Line(number, {}, None, explain(error)[:300])
        except ValueError as error:
            yield Line(number, {}, None, str(error)[:300])


def read_models(path: Path, model: type[M]) -> list[M]:
    """The undamaged lines of a file of results.

    Each damaged line is reported with file, number and reason, as a `DamagedRecord`
    warning, and skipped.

    Raises:
        OSError: the file cannot be read.
    """
    whole = []
    for line in read_lines(path, model):
        if line.model is None:
            said = f"{path}, line {line.number}: {line.fault}"
            warnings.warn(said, DamagedRecord, stacklevel=3)
        else:
            whole.append(line.model)
    return whole


SHORT = reprlib.Repr()  # a value in a message, at most this long
SHORT.maxstring = SHORT.maxother = 200
SHORT.maxlist = SHORT.maxtuple = SHORT.maxdict = 10


def explain(error: ValidationError) -> str:
    """A pydantic error as one line: each field, what it got and what is allowed.

    Missing fields are only named; long values are shortened.
    """
    parts, missing = [], []
    for fault in error.errors():
        name = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":  # its input is everything else
            missing.append(name)
            continue
        allowed = fault["msg"].removeprefix("Value error, ")
        # Without a name, the error concerns several fields, which the message names.
        parts.append(
            f"{name}: {allowed} (got {SHORT.repr(fault['input'])})" if name else allowed
        )
    if missing:
        parts.append(f"missing: {', '.join(missing)}")
    return "; ".join(parts)


def seal_file(path: Path) -> int:
    """Add a digest to each line that has none; returns the number of these lines.

    Raises:
        DamagedLine: a line is not a JSON object or does not match its digest; the file is
            then unchanged.
        OSError: the file cannot be read or written.
    """
    lines, sealed = path.read_bytes().splitlines(), 0
    for place, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            text = line.decode()
            try:
                unseal(text)
            except MissingDigest:
                fields = json.loads(text)
                if not isinstance(fields, dict) or not fields or "digest" in fields:
                    said = "not a JSON object with fields and without a digest"
                    raise DamagedLine(said) from None
                lines[place] = seal(text.strip()).encode()  # other lines do not change
                sealed += 1
        except ValueError as error:
            raise DamagedLine(f"{path}, line {place + 1}: {error}") from error
    if sealed:
        write_whole(path, b"".join(line + b"\n" for line in lines))
    return sealed


def append_line(text: str, path: Path) -> None:
    """Seal a JSON object and append it, whole or not at all, even if others do the same.

    A line that is there already is not added again.

    Raises:
        RecordError: the file cannot be written; it is then unchanged.
    """
    check_appendable(path)
    line = seal(text).encode() + b"\n"
    try:
        # Unbuffered: a buffer would write the rest of a line after a failure.
        with (
            file_lock(path.with_name(f".{path.name}.lock")),
            open(path, "a+b", buffering=0) as file,
        ):
            file.seek(0)
            before = file.read()
            if line in before:
                return
            if before and not before.endswith(b"\n"):  # the last line is incomplete
                line = b"\n" + line
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(len(before))
                raise
    except OSError as error:
        raise RecordError(f"cannot write to {path}: {error.strerror}") from error


@contextmanager
def exclusive_lock(path: Path, taken: str) -> Iterator[None]:
    """Hold a lock file until the block or the process ends, for any reason.

    Args:
        taken: the error message if another process holds it.

    Raises:
        RecordError: another process holds it.
    """
    try:
        with file_lock(path, timeout=0):
            yield
    except Timeout as error:
        raise RecordError(taken) from error


# Errors of a file system without locks, such as some on clusters.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
SOFT_TIMEOUT = 60  # seconds; a line is appended in milliseconds


@contextmanager
def file_lock(path: Path, timeout: float = -1) -> Iterator[None]:
    """A lock between processes and threads, on any system (`filelock`).

    On a file system without locks, a file beside `path` is the lock as long as it exists.
    If a killed process has left such a file, the next process stops with an error that
    names it. (If filelock knows that the process ran on this machine and has ended, it
    removes the file.)

    Args:
        timeout: seconds to wait for it; -1 waits as long as necessary.

    Raises:
        Timeout: another process or thread holds it.
        RecordError: there are no locks, and the file in their place is not removed.
        OSError: the file cannot be written.
    """
    if has_locks(path.parent):
        with FileLock(path, timeout=timeout):
            yield
        return
    soft = path.with_name(f"{path.name}.held")
    lock = SoftFileLock(soft, timeout=SOFT_TIMEOUT if timeout < 0 else timeout)
    try:
        lock.acquire()
    except Timeout as error:
        raise RecordError(
            f"{soft} exists, so another process is working here; if there is none, a "
            "killed process left the file: delete it"
        ) from error
    try:
        yield
    finally:
        lock.release()


@cache
def has_locks(folder: Path) -> bool:
    """Whether the folder's file system locks files; prints a line if it does not."""
    try:
        import fcntl
    except ImportError:  # Windows: filelock knows its locks
        return os.name == "nt"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            return True  # the error appears when something is written there
        print(
            f"{folder.resolve()} is on a file system without locks ({error.strerror}): "
            "files NAME.held are used instead",
            file=sys.stderr,
        )
        return False
    return True
