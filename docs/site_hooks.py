"""What mkdocs.yml needs beside the pages: files of the repository's root as pages, and links that lead to them.

README.md is the home page; CONTRIBUTING.md, CHANGELOG.md, the scripts under examples/ and the notebook are pages too.
Links stay as the repository's web view needs them and are turned here.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

from d2st.utils.config import groups_of

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
OPTIONS = re.compile(r"<!-- options: ([\w.]+)\.(\w+) -->")
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def on_files(files, config):
    """Add the pages that lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=turned((ROOT / source).read_text(), "")))
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())
    files.append(File.generated(config, "notebook.md", content="\n".join(map(cell_text, notebook["cells"]))))
    for script in sorted((ROOT / "examples").glob("*.py")):
        files.append(File.generated(config, f"examples/{script.stem}.md", content=shown(script)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links from docs/ to the root's files lead to their pages; a comment that names a config becomes its options."""
    markdown = OPTIONS.sub(lambda match: options(match[1], match[2]), markdown)
    return markdown if page.file.generated_by else turned(markdown, f"docs/{posixpath.dirname(page.file.src_uri)}")


def options(module: str, name: str) -> str:
    """A config's fields with their types, defaults and help, by groups."""
    config = getattr(importlib.import_module(module), name)
    lines = [f"## {module}.{name}", "", (config.__doc__ or "").partition("\n\n")[0], ""]
    for heading, fields in groups_of(config).items():
        lines += [f"**{heading}**", ""]
        for field in fields:
            kind = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
            default = "" if field.default is dataclasses.MISSING else f", {field.default!r}"
            lines.append(f"- `{field.name}` (`{kind}{default}`): {field.metadata['help']}.")
        lines.append("")
    return "\n".join(lines)


def on_page_content(html, page, config, files):
    """Docstrings name things as Sphinx does, and Markdown shows the roles."""
    return re.sub(r":(?:mod|class|func|meth|data):<code>", "<code>", html)


def turned(markdown: str, folder: str) -> str:
    """Markdown of a file in a folder of the repository with its links as the site has them.

    Pages of docs/ stand where they stand there, those of the root's files at the site's root.
    """
    place = folder.removeprefix("docs/") or "."

    def turn(match: re.Match) -> str:
        target = (ROOT / folder / match[2]).resolve()
        if not target.is_relative_to(ROOT):
            return match[0]
        path = target.relative_to(ROOT).as_posix()
        if path.startswith("examples/") and path.endswith(".py"):
            path = path.removesuffix(".py") + ".md"
        page = PAGES.get(path, path.removeprefix("docs/"))
        return match[1] + posixpath.relpath(page, place) + match[3]

    return LINK.sub(turn, markdown)


def cell_text(cell: dict) -> str:
    """A cell of the notebook as Markdown, with its outputs."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source + "\n"
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/jpeg" in data:
            parts.append(f"![output](data:image/jpeg;base64,{''.join(data['image/jpeg']).strip()})")
        else:
            parts.append(f"```text\n{''.join(output.get('text', data.get('text/plain', ''))).strip()}\n```")
    return "\n\n".join(parts) + "\n"


def shown(script: Path) -> str:
    """A page of a script: its docstring's first line as title, and its code."""
    code = script.read_text()
    title = ast.get_docstring(ast.parse(code)).splitlines()[0].rstrip(".:")
    return f"---\ntitle: {script.name}\n---\n\n# {script.name}\n\n{title}.\n\n```python\n{code}```\n"
