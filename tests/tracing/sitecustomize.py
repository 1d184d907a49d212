"""Writes down what each stage reads: Python imports this file at its start where PYTHONPATH names
its folder.

`$NAKAWARI_TRACE/<stage>.txt` gets a line for each thing read, by the stage or by a process of it:

    code <file>       a file of the project that was imported
    file <file>       any other file of the project that was opened, by whatever program (Linux)
    key <a.b.c>       a parameter that was read, other than to track or to check a run
"""

import atexit
import ctypes
import functools
import os
import struct
import sys
from pathlib import Path

STAGE = "NAKAWARI_TRACED_STAGE"  # for the processes that a stage starts
# Their reads change no output; the last one makes the name of a saved state.
BYSTANDERS = ("pipeline.tracking", "pipeline.commands.check", "pipeline.models.pretrained.required")
BYSTANDERS += ("pipeline.resume", "pydantic")
UNWATCHED = {"__pycache__", "mlartifacts", "mlruns"}
IN_OPEN, IN_ISDIR, IN_Q_OVERFLOW = 0x20, 0x40000000, 0x4000


class Record:
    """Lines of one stage, each written once and at once: worker processes end without a word."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, set()

    def add(self, kind: str, what: str) -> None:
        line = f"{kind} {what}\n"
        if line not in self.seen:
            self.seen.add(line)
            with self.path.open("a") as file:
                file.write(line)


def trace_imports(record: Record, root: Path) -> None:
    def hear(event: str, arguments: tuple) -> None:
        if event == "exec":
            name = getattr(arguments[0], "co_filename", "")
            if name.startswith(f"{root}/") and name.endswith(".py"):
                record.add("code", os.path.relpath(name, root))

    sys.addaudithook(hear)


def trace_parameters(record: Record, root: Path) -> None:
    """Of the objects that `config.parse` makes, and of their copies in other processes."""
    sys.path.insert(0, str(root))
    from pipeline import config

    sys.path.pop(0)
    places, traced = {}, {}  # class -> its dotted name; id -> object and keys that are not its own

    def place(section: type, name: str) -> None:
        places[section] = name
        for key, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, config.Section):
                place(field.annotation, f"{name}.{key}".lstrip("."))

    def mark(section: config.Section) -> config.Section:
        traced[id(section)] = section, set()
        for value in vars(section).values():
            if isinstance(value, config.Section):
                mark(value)
        return section

    def note(section: config.Section, key: str, value: object) -> None:
        marked, replaced = traced.get(id(section), (None, ()))
        if marked is not section or key in replaced or isinstance(value, config.Section):
            return
        caller, level = "pydantic", 2
        while caller.startswith(("pydantic", "copy")) or caller == __name__:
            caller, level = sys._getframe(level).f_globals.get("__name__", ""), level + 1
        if not caller.startswith(BYSTANDERS):
            note_leaves(section, key, value)

    def note_leaves(section: config.Section, key: str, value: object) -> None:
        if isinstance(value, dict):  # of model_dump
            for name, inner in value.items():
                note_leaves(section, f"{key}.{name}", inner)
        else:
            record.add("key", f"{places[type(section)]}.{key}".lstrip("."))

    place(config.Params, "")
    base = config.Section
    read, parse, dump, copy = base.__getattribute__, config.parse, base.model_dump, base.model_copy
    restore = base.__setstate__

    def __getattribute__(section: config.Section, key: str) -> object:
        value = read(section, key)
        if key[0] != "_" and key in type(section).model_fields:
            note(section, key, value)
        return value

    def model_dump(section: config.Section, **options: object) -> dict:
        content = dump(section, **options)
        for key, value in content.items():
            note(section, key, value)
        return content

    def model_copy(section: config.Section, *, update: dict, **options: object) -> config.Section:
        other = copy(section, update=update, **options)
        if id(section) in traced:
            traced[id(other)] = other, set(update)
        return other

    def __setstate__(section: config.Section, state: dict) -> None:
        restore(section, state)
        traced[id(section)] = section, set()

    base.__getattribute__, base.__setstate__ = __getattribute__, __setstate__
    base.model_dump, base.model_copy = model_dump, model_copy
    config.parse = functools.wraps(parse)(lambda *args: mark(parse(*args)))


def trace_files(record: Record, root: Path) -> None:
    """By inotify: arrow, safetensors and ffmpeg open files without Python."""
    libc, folders = ctypes.CDLL(None, use_errno=True), {}
    queue, owner = libc.inotify_init1(os.O_NONBLOCK), os.getpid()
    for folder, subfolders, _ in os.walk(root):
        subfolders[:] = [n for n in subfolders if n not in UNWATCHED and not n.startswith(".")]
        watch = libc.inotify_add_watch(queue, os.fsencode(folder), IN_OPEN)
        assert watch >= 0, f"inotify: {os.strerror(ctypes.get_errno())}"
        folders[watch] = Path(folder)

    def finish() -> None:
        while os.getpid() == owner:
            try:
                events = os.read(queue, 2**16)
            except BlockingIOError:
                return
            while events:
                watch, mask, _, size = struct.unpack("iIII", events[:16])
                name, events = events[16 : 16 + size].rstrip(b"\0"), events[16 + size :]
                assert not mask & IN_Q_OVERFLOW, "inotify has lost events"
                path = folders[watch] / os.fsdecode(name)
                if not mask & IN_ISDIR and path.suffix not in (".py", ".pyc"):
                    record.add("file", os.path.relpath(path, root))

    atexit.register(finish)


def main() -> None:
    arguments = sys.orig_argv
    own = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
    if own.startswith("stages."):
        os.environ[STAGE] = own.removeprefix("stages.")
    stage = os.environ.get(STAGE)
    if not stage:
        return
    root, folder = Path.cwd(), Path(os.environ["NAKAWARI_TRACE"])
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(folder / f"{stage}.txt")
    trace_imports(record, root)
    trace_parameters(record, root)
    if own:
        trace_files(record, root)


if "NAKAWARI_TRACE" in os.environ:
    main()
