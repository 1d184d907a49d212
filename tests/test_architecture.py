"""docs/architecture.md names every file of pipeline/, and imports follow its arrows."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/architecture.md").read_text("utf-8")
FILES = [path for path in (ROOT / "pipeline").rglob("*.py") if path.stat().st_size]


def test_every_file_has_its_line():
    named = set(re.findall(r"^\| `(\S+\.py)` \|", TEXT, re.MULTILINE))
    assert named == {str(path.relative_to(ROOT / "pipeline")) for path in FILES}


def test_imports_follow_the_arrows():
    below = {}  # room -> rooms that it may import
    for room, rooms in re.findall(r"^    (\w+) -.*> (\w+(?: & \w+)*)$", TEXT, re.MULTILINE):
        below.setdefault(room, set()).update(rooms.split(" & "))
    for _ in below:
        for rooms in below.values():
            rooms.update(*[below.get(room, set()) for room in rooms])
    assert all(room not in rooms for room, rooms in below.items()), "a circle"
    against = []
    for path in FILES:
        room = path.relative_to(ROOT / "pipeline").parts[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                rooms = {name.split(".")[1] for name in names} & {*below} - {room}
                lower = below.get(room, set())
                against += [f"{path} imports {other}" for other in rooms - lower]
    assert not against
