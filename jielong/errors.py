"""Every error a user can cause, in one tree.

    JielongError            the user's mistake or the machine's bad day; the CLI prints one sentence, exit status 2
    ├── RecipeError         the recipe: unknown key, wrong type, value out of bounds, stages that do not fit together
    ├── InputError          a path, a source or an option that the user gave
    ├── DataError           the corpus itself: empty, nothing kept, documents that do not reconcile
    ├── TokenizerError      a tokenizer folder or its training
    ├── ShardError          token shards: missing, truncated, checksum
    ├── ModelError          a model folder or config that cannot be used
    ├── CheckpointError     a checkpoint: missing, incomplete, checksum
    ├── TrainingError       the run itself: a loss that is not finite, a batch that cannot be made
    ├── RunError            the run folder: in use by another process, not a run
    ├── DiskError           no space left, read-only folder
    └── MissingExtraError   an optional package is needed; the message names the extra

Messages follow one form: `<field>: <what is wrong>, got <value>; <bound or allowed values>; <what to do>`.
Our own broken invariants are `assert`s, never these.
"""

from __future__ import annotations

import errno
import re


class JielongError(Exception):
    """Base of all errors that the CLI shows as one sentence, without a traceback."""

    exit_code = 2


class RecipeError(JielongError):
    """The recipe is wrong; the message lists every problem found, one a line."""


class InputError(JielongError):
    """A path, source or option that the user gave cannot be used."""


class DataError(JielongError):
    """The corpus cannot be used."""


class TokenizerError(JielongError):
    """A tokenizer folder or its training cannot be used."""


class ShardError(JielongError):
    """Token shards are missing, truncated or fail their checksum."""


class ModelError(JielongError):
    """A model folder or configuration cannot be used."""


class CheckpointError(JielongError):
    """A checkpoint is missing, incomplete or fails its checksum."""


class TrainingError(JielongError):
    """Training cannot go on."""


class RunError(JielongError):
    """The run folder cannot be used."""


class DiskError(JielongError):
    """The disk is full or cannot be written."""


class Stopped(KeyboardInterrupt):  # no error: what was asked for has been done
    """A run was asked to stop, and has saved everything; `exit_code` is 0 where who asked will start it again."""

    exit_code = 130


class MissingExtraError(JielongError):
    """An optional package is missing."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{package}: not installed, needed {purpose}; install it with: pip install 'jielong[{extra}]'")


_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # what NumPy says of a full disk
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, over quota, over the file-size limit


def explain_os_error(error: BaseException) -> JielongError | None:
    """Turn an operating-system error into one sentence, or None when it is not one the user can act on.

    Arrow and safetensors wrap the number in their message instead of `errno`, so the text is read as well.
    """
    text = str(error)
    number = getattr(error, "errno", None)
    name = getattr(error, "filename", None)
    place = f" {name}" if name else ""
    if (
        number in FULL
        or any(f"os error {full}" in text for full in FULL)
        or "No space left" in text
        or _SHORT_WRITE.fullmatch(text)
    ):
        return DiskError(
            f"disk:{place} no space left, or a quota or file-size limit is reached; nothing that was finished is touched; "
            "free some space and run the same command again"
        )
    if (
        isinstance(error, (MemoryError, RecursionError))
        or type(error).__name__ == "OutOfMemoryError"
        or ("allocate memory" in text)
    ):
        if isinstance(error, RecursionError):
            return InputError("input: nested too deeply; write it flatter")
        return TrainingError(
            "memory: not enough on the device for this model and batch; lower train.micro_batch_tokens (or "
            "evaluate.batch_tokens), the sequence length or the model's size"
        )
    if isinstance(error, UnicodeDecodeError):
        return InputError(f"file: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8 and try again")
    if number == errno.EROFS or (isinstance(error, PermissionError)):
        return DiskError(f"disk:{place} cannot be read or written ({text}); check the permissions and try again")
    if isinstance(error, FileNotFoundError):
        return InputError(f"path:{place} does not exist; check the spelling and try again")
    if isinstance(error, (IsADirectoryError, NotADirectoryError, FileExistsError)):
        return InputError(
            f"path:{place} is not of the expected kind ({text}); give a file or folder where one is expected"
        )
    if isinstance(error, RuntimeError) and "home directory" in text:
        return InputError(f"path: ~ of a user that does not exist ({text}); write the path in full")
    if isinstance(error, OSError) and name:
        return InputError(f"path:{place} cannot be used ({error.strerror}); give another one")
    return None
