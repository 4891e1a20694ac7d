"""The directive `diagram`: a drawing of `diagrams.py` in both variants, with its description."""

import inspect
from pathlib import Path

import diagrams
from docutils import nodes
from docutils.parsers.rst import Directive

FOLDER = Path(__file__).parent / "diagrams"


class Diagram(Directive):
    """Shows the light drawing on light pages and the dark one on dark pages."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Makes two images, of which the theme shows one."""
        name = self.arguments[0]
        text = " ".join(inspect.getdoc(diagrams.DRAWINGS[name]).split())
        shown = []
        for theme in diagrams.COLORS:
            image = nodes.image(uri=f"/diagrams/{name}-{theme}.svg", alt=text)
            image["classes"] = [f"only-{theme}", "diagram"]
            shown.append(image)
        return shown
