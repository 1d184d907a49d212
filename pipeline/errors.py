"""The error that people see: one sentence with thing, value, expectation and remedy."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something from outside (file, video, parameter, checkpoint) is not as it must be."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends what it meets as Ctrl-C does."""


def read_text(path: Path) -> str:
    """A file's text, with or without a byte order mark; a UserError where it is no UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no UTF-8 text (byte {error.start} of it is not); save it as UTF-8"
        ) from None


def naming(error: OSError, path: Path) -> OSError:
    """The same error with the file's name, which Arrow leaves out of a full disk."""
    if not error.errno or error.filename:
        return error
    return OSError(error.errno, os.strerror(error.errno), str(path))


def run_main(main: Callable[[], None]) -> None:
    """Runs a command's `main`; a UserError, a full disk or memory is one line and exit code 1.

    Ctrl-C and SIGTERM become one line and the exit codes that shells give them, 130 and 143.
    """

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        name = f" at {error.filename}" if error.filename else ""
        remedy = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Mend that"
        sys.exit(f"error: {error.strerror or error}{name}. {remedy} and run the same command again")
    except (MemoryError, RuntimeError) as error:
        full = re.search("out of memory|allocate memory", str(error))  # PyTorch's, GPU and CPU
        if isinstance(error, RuntimeError) and not full:
            raise
        what = str(error).strip().partition("\n")[0] or "the machine has no more"
        sys.exit(
            f"error: not enough memory ({what}); lower the batch_size that is at work, the size of "
            "the frames or engine.workers, or free some, and run the same command again"
        )
    except KeyboardInterrupt as error:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
