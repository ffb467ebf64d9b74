"""Pairs and tasks to measure retrieval with, from the documentation that installed packages ship: the same on every
machine, since tests/parity/requirements.txt pins the packages.

A query is the summary line of a docstring, its document the text behind that line. A task is a query with its document
and those of nine others, most of them from the same module, so that words alone do not give the answer away.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import pathlib

PACKAGES = ("numpy", "sklearn", "django")
PAIRS, TASKS, DOCUMENTS = 1200, 600, 10
QUERY_CHARACTERS = (25, 120)
DOCUMENT_CHARACTERS = (120, 300)  # longer ones are cut at a word: what takes time is the number of tokens


def folder_of(package):
    spec = importlib.util.find_spec(package)
    assert spec, f"pip install -r tests/parity/requirements.txt: {package} is not there"
    return pathlib.Path(spec.submodule_search_locations[0])


def docstrings(path):
    """Of a file's functions and classes, in their order; nothing is imported."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield inspect.cleandoc(text)


def split(text):
    """(summary, body) in one line each, or None where one of them says too little."""
    summary, _, body = text.partition("\n\n")
    summary, body = " ".join(summary.split()), " ".join(body.split())
    low, high = QUERY_CHARACTERS
    if not low <= len(summary) <= high or len(body) < DOCUMENT_CHARACTERS[0] or not (summary + body).isascii():
        return None
    if len(body) > DOCUMENT_CHARACTERS[1]:
        body = body[: DOCUMENT_CHARACTERS[1]].rsplit(" ", 1)[0]
    return None if summary in body else (summary, body)


def order_of(*texts):
    """A number that looks random and is the same on every machine."""
    return hashlib.sha256("\0".join(texts).encode()).digest()


def all_pairs():
    """(summary, body, module): each text once."""
    seen, found = set(), []
    for package in PACKAGES:
        root = folder_of(package)
        for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
            if "tests" in path.relative_to(root).parts:
                continue
            for text in docstrings(path):
                pair = split(text)
                if pair and not seen & set(pair):
                    seen.update(pair)
                    found.append((*pair, path.relative_to(root.parent).as_posix()))
    return found


def evaluation_set():
    """(pairs, tasks), lists of the objects that `bitmill compare` reads."""
    found = sorted(all_pairs(), key=lambda one: order_of(*one[:2]))[:PAIRS]
    assert len(found) == PAIRS, len(found)
    pairs = [{"query": query, "document": document} for query, document, _ in found]
    tasks = []
    for query, document, module in found[:TASKS]:
        others = [one for one in found if one[0] != query]
        others.sort(key=lambda one: (one[2] != module, one[2].split("/")[0] != module.split("/")[0],
                                     order_of(query, one[0])))
        chosen = [document, *(one[1] for one in others[: DOCUMENTS - 1])]
        chosen.sort(key=lambda text: order_of("task", query, text))
        tasks.append({"query": query, "documents": chosen, "relevant": [chosen.index(document)]})
    return pairs, tasks


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
