"""Make the notebooks of the tutorials: each page's text and code, executed.

python -m nox -s notebook
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = [HERE / "tutorial-simulated.md"]


def cells(page: str) -> list[tuple[str, str]]:
    """``markdown`` or ``code``, and its text, in the order of the page."""
    found = []
    for n, part in enumerate(re.split(r"^```python\n(.*?)^```\n", page, flags=re.M | re.S)):
        if text := part.strip():
            found.append(("code" if n % 2 else "markdown", text))
    return found


def notebook(page: Path) -> Any:
    """The notebook of a page, with what its cells print and show."""
    import nbclient
    import nbformat.v4 as nb

    made = nb.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for number, (kind, text) in enumerate(cells(page.read_text(encoding="utf-8"))):
        cell = nb.new_code_cell(text) if kind == "code" else nb.new_markdown_cell(text)
        cell["id"] = f"cell-{number}"  # else a new one each time
        made.cells.append(cell)
    nbclient.NotebookClient(made, timeout=600, record_timing=False).execute(cwd=str(page.parent))
    return made


def main() -> None:
    """Write the notebooks beside their pages."""
    import nbformat

    os.environ.pop("MPLBACKEND", None)  # so that figures are shown in the notebook
    for page in PAGES:
        nbformat.write(notebook(page), page.with_suffix(".ipynb"))
        sys.stdout.write(f"wrote {page.with_suffix('.ipynb')}\n")


if __name__ == "__main__":
    main()
