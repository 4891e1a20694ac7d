"""Build with `sphinx-build -W docs build/docs`.

First `python notebooks/run.py build/notebooks`, if the tutorials shall have outputs.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import _benchmark_directive
import _counts
import _diagram_directive
import _tutorials
import diagrams

project = "recurrax"
copyright = "the recurrax authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
# What `notebooks/run.py` has executed is shown, and nothing is executed here.
nb_execution_mode = "off"
nb_number_source_lines = False
html_theme = "furo"
html_title = "recurrax"
# The theme's own choice for dark pages is too faint in places.
pygments_dark_style = "a11y-dark"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Only dashes are set, since a prime, as in h', is no quotation mark.
smartquotes_action = "D"
# In docstrings, single backticks mean code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True


def skip_default_functions(app, kind, name, value, skip, options):
    """Leaves out a field whose default is a function: its docstring is not the field's.

    A method has the name of its class before its own name, such as `LSTMCell.init`.
    """
    if kind == "class" and callable(value) and "." not in getattr(value, "__qualname__", "."):
        return True
    return None


def name_default_functions(app, kind, name, value, options, signature, returns):
    """Shows the name of a default: `tanh` for `<PjitFunction of <function tanh at 0x7f>>`."""
    # The attributes of a protocol are described, and nobody calls it.
    if getattr(value, "_is_protocol", False):
        return "", returns
    if signature is not None:
        function = r"<(?:PjitFunction of <)?function ([\w.]+)(?: at 0x\w+)?>{1,2}"
        signature = re.sub(function, r"\1", signature)
        signature = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", signature)
        # A function with a derivative of its own, such as relu, is an object to Python.
        for field in re.findall(r"(\w+)=<[\w.]+ object>", signature):
            name_of_default = getattr(getattr(value, field, None), "__name__", "...")
            shown = f"{field}={name_of_default}"
            signature = re.sub(rf"{field}=<[\w.]+ object>", shown, signature)
    return signature, returns


# An equation has a short left side. A sentence with an equality begins with one of these words.
EQUATION = re.compile(r"[^\s:.>*|].{0,38}? [=←~] ")
PROSE = re.compile(r"(where|With|If|A|An|The|There|Then|In|It|One|Each|By|To|So|No|For|Entry) ")


def set_equations(app, kind, name, value, options, lines):
    """Sets paragraphs of equations line by line, in the letters of code."""
    paragraphs = "\n".join(lines).split("\n\n")
    # The first paragraph says in one line what the name is for.
    for place, paragraph in enumerate(paragraphs[1:], 1):
        rows = paragraph.strip("\n").split("\n")
        if PROSE.match(rows[0]) or not EQUATION.match(rows[0]):
            continue
        if all(re.search(" [=←~] ", row) for row in rows):
            paragraphs[place] = "\n".join(["::", "", *("    " + row for row in rows), ""])
    lines[:] = "\n\n".join(paragraphs).split("\n")


def set_language(app, name, template, context, doctree):
    """Says that a page is in Chinese, so that browsers choose its letters and its voice."""
    if name == "zh":
        context["language"] = "zh-CN"


_tutorials.write()
diagrams.write(_diagram_directive.FOLDER)


def setup(app):
    """Connects the functions above to the build, and adds the directives."""
    app.add_directive("diagram", _diagram_directive.Diagram)
    app.add_directive("benchmark", _benchmark_directive.Benchmark)
    app.connect("autodoc-skip-member", skip_default_functions)
    app.connect("autodoc-process-signature", name_default_functions)
    app.connect("autodoc-process-docstring", set_equations)
    app.connect("html-page-context", set_language)
    app.connect("source-read", _counts.add_counts)
