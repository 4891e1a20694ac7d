"""The directive `benchmark`: a table of `_benchmarks.py`, made anew at each build."""

import _benchmarks
from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class Benchmark(SphinxDirective):
    """Shows the table of this name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Makes the table out of its text in Markdown."""
        # A page with a table is read again when a result has changed.
        for path in _benchmarks.RESULTS.glob("*.json"):
            self.env.note_dependency(str(path))
        rows = _benchmarks.TABLES[self.arguments[0]]()
        return self.parse_text_to_nodes(_benchmarks.markdown(rows))
