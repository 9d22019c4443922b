"""Write ``docs/reference/classes/``: a page for every public class of ``subjectgen.core``, field by field.

``python docs/reference/make.py`` writes the pages from the sources, which are read and not imported; ``--check`` says
which are not as they would be written.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "packages" / "subjectgen-core" / "src" / "subjectgen" / "core"
PAGES = Path(__file__).parent / "classes"


def public() -> dict[str, Path]:
    """Names that ``subjectgen.core`` promises, with the file that each comes from."""
    tree = ast.parse((CORE / "__init__.py").read_text(encoding="utf-8"))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("subjectgen.core."):
            place = CORE.joinpath(*node.module.split(".")[2:])
            file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
            found |= {alias.asname or alias.name: file for alias in node.names}
    return found


def class_in(file: Path, name: str) -> tuple[ast.ClassDef, Path] | None:
    """The class of this name and its file, followed through one import if the file only hands it on."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, file
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            other = CORE.joinpath(*node.module.split(".")[2:]).with_suffix(".py")
            if other.is_file() and other != file:
                return class_in(other, name)
    return None


def page(name: str, node: ast.ClassDef, file: Path) -> str:
    """One class as Markdown."""
    source = file.read_text(encoding="utf-8").splitlines()
    lines = [f"# {name}", "", f"`from subjectgen.core import {name}`", ""]
    lines += [ast.get_docstring(node) or "", ""]
    rows = list(fields(node))
    if rows:
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [f"| `{field}` | `{kind}` | {default} | {meaning} |" for field, kind, default, meaning in rows]
        lines.append("")
    for method in methods(node):
        code = f"```python\n{signature(method, source)}\n```"
        lines += [f"## {method.name}", "", code, "", ast.get_docstring(method) or "", ""]
    return "\n".join(lines).rstrip() + "\n"


def fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and the docstring under it."""
    for item, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_"):
            meaning = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                meaning = " ".join(str(following.value.value).split())
            default = f"`{ast.unparse(item.value)}`" if item.value else "required"
            yield item.target.id, ast.unparse(item.annotation).replace("|", "\\|"), default.replace("|", "\\|"), meaning


def methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Public methods, and how it is called."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and (not item.name.startswith("_") or item.name == "__call__"):
            yield item


def signature(method: ast.FunctionDef, source: list[str]) -> str:
    """As the source has it, without the body."""
    first = min([method.lineno, *(one.lineno for one in method.decorator_list)])
    head = textwrap.dedent("\n".join(source[first - 1 : method.body[0].lineno - 1]))
    return head.rstrip().removesuffix("...").rstrip() + " ..."


def pages() -> dict[str, str]:
    """All pages by file name, with an index."""
    found = {}
    for name, file in sorted(public().items()):
        if one := class_in(file, name):
            found[f"{name}.md"] = page(name, *one)
    lines = ["# Public classes", "", "Written by `python docs/reference/make.py` from the sources.", ""]
    lines += [f"- [{file.removesuffix('.md')}]({file})" for file in found]
    return {"README.md": "\n".join(lines) + "\n", **found}


def main() -> int:
    """Write the pages, or compare them."""
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")}
    if "--check" in sys.argv:
        stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
        print("\n".join(stale) or "all pages are as they would be written")
        return 1 if stale else 0
    PAGES.mkdir(exist_ok=True)
    for name in there.keys() - wanted.keys():
        (PAGES / name).unlink()
    for name, text in wanted.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    print(f"{len(wanted)} pages in {PAGES.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
