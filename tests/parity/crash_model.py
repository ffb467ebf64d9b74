"""What a disk may hold after the power goes, rebuilt from the log of tests/faults/io_faults.cpp.

Only what was fsynced is sure: a file's bytes and length by fsync of the file, the names in a folder by fsync
of the folder. Of everything since then any subset may be there, and of one write any part. A rename or an
exchange within a folder happens whole or not, as on every journalling file system.
"""

import dataclasses
import pathlib


def read_log(path):
    """[[name, argument, ...], ...]; a write's last argument is its bytes."""
    operations, data, at = [], pathlib.Path(path).read_bytes(), 0
    while at < len(data):
        end = data.index(b"\n", at)
        operation = data[at:end].decode().split("\t")
        at = end + 1
        if operation[0] == "write":
            count = int(operation[3])
            operation[3] = data[at : at + count]
            at += count + 1
        operations.append(operation)
    return operations


@dataclasses.dataclass(eq=False)
class File:
    durable: bytes = b""
    pending: list = dataclasses.field(default_factory=list)  # (offset, bytes) or (length, None)
    synced: bool = False

    def sync(self):
        self.durable, self.pending, self.synced = self.after(self.pending), [], True

    def change(self, edit):
        self.pending.append(edit)
        self.synced = False

    def after(self, edits):
        if not edits:
            return self.durable
        content = bytearray(self.durable)
        for at, data in edits:
            end = at if data is None else at + len(data)
            content.extend(bytes(max(0, end - len(content))))
            if data is None:
                del content[end:]
            else:
                content[at:end] = data
        return bytes(content)


@dataclasses.dataclass(eq=False)
class Folder:
    durable: dict = dataclasses.field(default_factory=dict)  # name -> File or Folder
    pending: list = dataclasses.field(default_factory=list)  # {name: File, Folder or None where it goes}
    synced: bool = False

    def sync(self):
        self.durable, self.pending, self.synced = self.after(self.pending), [], True

    def change(self, edit):
        self.pending.append(edit)
        self.synced = False

    def after(self, edits):
        names = dict(self.durable)
        for edit in edits:
            names.update(edit)
        return {name: node for name, node in names.items() if node is not None}

    def now(self):
        return self.after(self.pending)


def pick(pending, dice):
    """Nothing, a beginning, or any subset of what was not synced."""
    way = dice.randrange(4)
    if way == 0:
        return []
    if way == 1:
        return pending[: dice.randrange(len(pending) + 1)]
    chosen = [edit for edit in pending if dice.random() < 0.5]
    for number, edit in enumerate(chosen):  # a write may reach the disk in part
        if isinstance(edit, tuple) and edit[1] and dice.random() < 0.2:
            chosen[number] = (edit[0], edit[1][: dice.randrange(len(edit[1]))])
    return chosen


class Disk:
    """A folder as it lay on disk, then changed by operations."""

    def __init__(self, folder):
        self.root = str(folder)
        self.by_inode = {}
        self.top = self._scan(pathlib.Path(folder))

    def _scan(self, path):
        if path.is_dir():
            node = Folder({child.name: self._scan(child) for child in path.iterdir()}, synced=True)
        else:
            node = File(path.read_bytes(), synced=True)
        self.by_inode[path.stat().st_ino] = node
        return node

    def find(self, path):
        node = self.top
        for part in pathlib.PurePath(path).relative_to(self.root).parts:
            node = node.now()[part]
        return node

    def _split(self, path):
        path = pathlib.PurePath(path)
        return self.find(path.parent), path.name

    def apply(self, operation):
        what, *rest = operation
        if what in ("create", "mkdir"):
            folder, name = self._split(rest[1])
            node = self.by_inode[int(rest[0])] = File() if what == "create" else Folder()
            folder.change({name: node})
        elif what == "unlink":
            folder, name = self._split(rest[0])
            folder.change({name: None})
        elif what in ("rename", "exchange"):
            (folder, source), (other, target) = map(self._split, rest)
            assert folder is other, operation
            names = folder.now()
            folder.change({source: names[target] if what == "exchange" else None, target: names[source]})
        elif what == "write":
            self.by_inode[int(rest[0])].change((int(rest[1]), rest[2]))
        elif what == "size":
            self.by_inode[int(rest[0])].change((int(rest[1]), None))
        elif what == "fsync":
            self.by_inode[int(rest[0])].sync()
        else:
            raise AssertionError(operation)

    def crash(self, dice):
        """{name: bytes or another such dict}: one thing that may lie there after a power cut now."""

        def walk(node):
            found = node.after(pick(node.pending, dice)) if node.pending else node.durable
            return {name: walk(child) for name, child in found.items()} if isinstance(node, Folder) else found

        return walk(self.top)


def flatten(state, prefix=""):
    """A crashed folder as {relative path: bytes}; None stays None."""
    if state is None:
        return None
    files = {}
    for name, value in state.items():
        path = prefix + name
        files.update(flatten(value, path + "/") if isinstance(value, dict) else {path: value})
    return files


def write_state(state, folder):
    for name, value in state.items():
        if isinstance(value, dict):
            (folder / name).mkdir()
            write_state(value, folder / name)
        else:
            (folder / name).write_bytes(value)


def unsynced_below(node, name):
    """Names of files and folders, from `name` down, with something that a power cut may undo."""
    found = [] if node.synced else [name]
    if isinstance(node, Folder):
        for child, inner in node.now().items():
            found += unsynced_below(inner, f"{name}/{child}")
    return found
