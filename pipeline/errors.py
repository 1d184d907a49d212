"""The error that people see: one sentence with thing, value, expectation and remedy."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

OUT_OF_MEMORY = re.compile("(out of|not enough|allocate) memory")  # PyTorch's words


class UserError(Exception):
    """Something from outside (file, video, parameter, checkpoint) is not as it must be."""


def naming(error: OSError, path: Path) -> OSError:
    """The same error with the file's name, which Arrow leaves out of a full disk."""
    if not error.errno or error.filename:
        return error
    return OSError(error.errno, os.strerror(error.errno), str(path))


class Stopped(SystemExit):
    """SIGTERM or SIGHUP: what is being written is removed on the way out."""


def stop_cleanly() -> None:
    """Lets SIGTERM and SIGHUP, unless they are ignored (nohup), end the program as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)


def run_main(main: Callable[[], None]) -> None:
    """Runs a command's `main`; a UserError or a full disk becomes one line and exit code 1."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        try:
            main()
        finally:
            if sys.stdout:
                sys.stdout.flush()  # else Python does it at its end, where an error is a traceback
    except UserError as error:
        sys.exit(f"error: {error}")
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
        sys.exit("error: not enough memory; close other programs, or ask for less")
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Stopped:
        print("stopped; run the same command again to continue", file=sys.stderr)
        raise


def _discard_output() -> None:
    """Where what was printed cannot be written, it is dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
