"""The error that people see: one sentence with thing, value, expectation and remedy."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

OUT_OF_MEMORY = re.compile("(out of|not enough|allocate) memory")  # PyTorch's words

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class UserError(Exception):
    """Something from outside (file, video, parameter, checkpoint) is not as it must be."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, its number as the argument: ends what it meets as Ctrl-C does."""

    def __str__(self) -> str:
        return signal.Signals(self.args[0]).name


def read_text(path: Path) -> str:
    """A file's text, with or without a byte order mark; a UserError where it is no UTF-8."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or device"
        raise UserError(f"{path} is {kind}, expected a text file; move it away")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        place = error.start
    else:
        place = text.find("\0")  # as in UTF-16 without its mark
        if place < 0:
            return text
    raise UserError(f"{path} is no UTF-8 text (byte {place} of it is not); save it as UTF-8")


def naming(error: OSError, path: Path) -> OSError:
    """The same error with the file's name, which that of a full disk does not have."""
    if not error.errno or error.filename:
        return error
    return OSError(error.errno, os.strerror(error.errno), str(path))


def run_main(main: Callable[[], None]) -> None:
    """Runs a command's `main`; what a person can mend is one sentence and an exit code.

    That is 2 of a UserError, as of options that argparse refuses, and 1 of a full disk or memory.
    Ctrl-C, SIGTERM and SIGHUP become one line and the exit codes that shells give them, 128 and the
    signal's number. SIGHUP that is ignored (nohup) stays ignored.
    """

    def stop(number: int, frame: object) -> None:
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        try:
            main()
        finally:
            if sys.stdout:
                sys.stdout.flush()  # else Python does it at its end, where an error is a traceback
    except UserError as error:
        # a terminal obeys control characters in the name of a file
        print(f"error: {CONTROL.sub(lambda c: repr(c[0])[1:-1], str(error))}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # nobody reads on, as in `... | head`
        _discard_output()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _discard_output()
        name = f" at {error.filename}" if error.filename else ""
        remedy = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Mend that"
        sys.exit(f"error: {error.strerror or error}{name}. {remedy} and run the same command again")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        what = str(error).strip().partition("\n")[0] or "the machine has no more"
        sys.exit(
            f"error: not enough memory ({what}); ask for smaller pictures, a smaller batch_size or "
            "fewer engine.workers, or free some, and run the same command again"
        )
    except KeyboardInterrupt as error:
        number = error.args[0] if isinstance(error, Terminated) else signal.SIGINT
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(128 + number)


def _discard_output() -> None:
    """Where what was printed cannot be written, it is dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
