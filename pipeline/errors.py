"""The error that people see: one sentence with thing, value, expectation and remedy."""

import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.5
MOST_LETTERS = 2900  # of a sentence
OUT_OF_MEMORY = re.compile("(out of|not enough|allocate) memory")  # PyTorch's words

PARTIAL = re.compile(r"/\.nakawari-\w+\.partial")  # what is being written, below its folder
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class UserError(Exception):
    """Something from outside (file, video, parameter, checkpoint) is not as it must be.

    A value, or a library's reason, may be as long as a file: the middle of the sentence is left
    out then, so that the thing at its head and the remedy at its end stay.
    """

    def __str__(self) -> str:
        text, half = super().__str__(), MOST_LETTERS // 2
        return text if len(text) <= MOST_LETTERS else f"{text[:half]} ... {text[-half:]}"


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
    """The same error with the file's name: that of a full disk has none, or a temporary one."""
    if not error.errno or not str(error.filename or ".partial").endswith(".partial"):
        return error
    return OSError(error.errno, os.strerror(error.errno), str(path))


def run_main(main: Callable[[], None]) -> None:
    """Runs a command's `main`; what a person can mend is one sentence and an exit code.

    That is 2 of a UserError, as of options that argparse refuses, and 1 of a full disk or memory.
    Ctrl-C, SIGTERM and SIGHUP become one line and the exit codes that shells give them, 128 and the
    signal's number. SIGHUP that is ignored (nohup) stays ignored. A stage ends with its DVC.
    """

    def stop(number: int, frame: object) -> None:
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)
    if "DVC_STAGE" in os.environ:
        _end_with_dvc()
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
        name = error.filename2 or error.filename  # of a copy and a renaming: the one written
        name = f" at {PARTIAL.sub('', str(name))}" if name else ""
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
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(exit_code(error))


def exit_code(error: KeyboardInterrupt) -> int:
    """What shells say of a command that a signal ended."""
    return 128 + (error.args[0] if isinstance(error, Terminated) else signal.SIGINT)


def _end_with_dvc() -> None:
    """SIGTERM to this stage once the `dvc` that started it is dead: the next would run beside it.

    DVC may stand over a shell, and over torchrun, so it is looked for by its name.
    """
    import psutil

    def wait(dvc: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess):
            while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
                time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    for process in psutil.Process().parents():
        with suppress(psutil.Error):  # of another user
            if any(Path(word).name == "dvc" for word in process.cmdline()[:3]):
                return threading.Thread(target=wait, args=[process], daemon=True).start()


def _discard_output() -> None:
    """Where what was printed cannot be written, it is dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
