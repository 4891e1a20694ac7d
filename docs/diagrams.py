"""Draws the diagrams of the site, each in two variants: for light and for dark pages.

`python docs/diagrams.py FOLDER` writes them as SVG, and with `png` after the folder as PNG.
The build of the site calls `write`. In a page, the directive `diagram` shows one of them:

    ```{diagram} lstm
    ```
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

# Ink, fill of a box, color of what is learned, and color of what an unmasked step holds.
COLORS = {
    "light": {"ink": "#22272e", "box": "#eef1f5", "learned": "#cfe3ff", "step": "#9cc4f5"},
    "dark": {"ink": "#dfe3e8", "box": "#2a2f36", "learned": "#1d3f66", "step": "#2f65a0"},
}


class Node:
    """A shape with four places at which an arrow may begin or end."""

    def __init__(self, x: float, y: float, width: float, height: float):
        self.x, self.y = x, y
        self.left, self.right = (x - width / 2, y), (x + width / 2, y)
        self.bottom, self.top = (x, y - height / 2), (x, y + height / 2)


class Picture:
    """A sheet of paper: boxes, circles, words and arrows. One unit is one step of a grid."""

    def __init__(self, width: float, height: float, theme: str):
        self.colors = COLORS[theme]
        self.figure = plt.figure(figsize=(0.8 * width, 0.8 * height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axes.axis("off")

    def word(self, x, y, text, size=11, align="center"):
        """Writes words."""
        ink = self.colors["ink"]
        self.axes.text(x, y, text, size=size, color=ink, ha=align, va="center")
        return Node(x, y, 0.25 + 0.12 * len(text), 0.5)

    def box(self, x, y, text, width=1.0, height=0.5, fill="box"):
        """Draws a box with rounded corners. What is learned has a color."""
        ink, color = self.colors["ink"], self.colors[fill]
        corner = (x - width / 2 + 0.08, y - height / 2 + 0.08)
        style = "round,pad=0.08"
        shape = FancyBboxPatch(
            corner, width - 0.16, height - 0.16, boxstyle=style, fc=color, ec=ink, lw=1.2, zorder=2
        )
        self.axes.add_patch(shape)
        self.word(x, y, text)
        return Node(x, y, width, height)

    def frame(self, x, y, text, width, height):
        """Draws an empty box with its name in the upper left corner."""
        shape = FancyBboxPatch(
            (x + 0.1, y + 0.1),
            width - 0.2,
            height - 0.2,
            boxstyle="round,pad=0.1",
            fc="none",
            ec=self.colors["ink"],
            lw=1.2,
        )
        self.axes.add_patch(shape)
        self.word(x + 0.2, y + height - 0.27, text, align="left")

    def circle(self, x, y, text):
        """Draws an operation on each number."""
        ink, color = self.colors["ink"], self.colors["box"]
        self.axes.add_patch(Circle((x, y), 0.22, fc=color, ec=ink, lw=1.2, zorder=2))
        self.word(x, y, text, size=13)
        return Node(x, y, 0.44, 0.44)

    def square(self, x, y, filled):
        """Draws one step of a sequence, filled if it is not masked."""
        color = self.colors["step"] if filled else "none"
        style = "-" if filled else ":"
        ink = self.colors["ink"]
        shape = Rectangle((x, y), 0.7, 0.5, fc=color, ec=ink, lw=1.2, ls=style, zorder=2)
        self.axes.add_patch(shape)

    def grid(self, x, y, rows, size=0.25):
        """Draws a matrix of letters as squares. A dot is an empty place."""
        ink = self.colors["ink"]
        fills = {"#": self.colors["learned"], "x": self.colors["step"], "-": "none"}
        for number, row in enumerate(rows):
            for place, letter in enumerate(row):
                if letter == ".":
                    continue
                corner = (x + size * place, y - size * (number + 1))
                shape = Rectangle(corner, size, size, fc=fills[letter], ec=ink, lw=0.8, zorder=2)
                self.axes.add_patch(shape)

    def line(self, *points, style="-"):
        """Draws a line through the points."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs, ys, color=self.colors["ink"], lw=1.2, ls=style, zorder=1)

    def arrow(self, *points):
        """Draws a line through the points, with a head at the last one."""
        if len(points) > 2:
            self.line(*points[:-1])
        look = {"arrowstyle": "-|>", "color": self.colors["ink"], "lw": 1.2}
        look |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 11}
        self.axes.annotate("", points[-1], points[-2], arrowprops=look, zorder=3)


def scan(theme):
    """All inputs pass project_inputs at once.

    Then scan takes step after step. Each step reads the state before it, and gives a state and an
    output.
    """
    p = Picture(9.6, 4.2, theme)
    p.frame(0.9, 0.95, "scan", 8.1, 2.55)
    project = p.box(4.95, 1.45, "project_inputs: one product for all steps", 7.2, fill="learned")
    before = p.word(0.4, 2.5, "state")
    previous = (0.75, before.y)
    for t in range(4):
        x = 2.3 + 1.8 * t
        step = p.box(x, 2.5, "step", 0.9, fill="learned")
        p.arrow((x, 0.6), (x, project.bottom[1]))
        p.arrow((x, project.top[1]), step.bottom)
        p.arrow(step.top, (x, 3.75))
        p.word(x, 0.4, f"x{t + 1}")
        p.word(x, 3.95, f"y{t + 1}")
        p.arrow(previous, step.left)
        previous = step.right
    p.arrow(previous, (9.25, 2.5))
    return p


def elman(theme):
    """Elman cell: x times the kernel plus h times the recurrent kernel pass tanh.

    The result is the new state and the output.
    """
    p = Picture(8.4, 3.2, theme)
    p.word(0.3, 2.2, "h")
    product = p.box(2.2, 2.2, "@ recurrent_kernel", 2.5, fill="learned")
    inputs = p.box(4.4, 1.1, "@ kernel + bias", 2.2, fill="learned")
    add = p.circle(4.4, 2.2, "+")
    tanh = p.box(5.8, 2.2, "tanh")
    p.arrow((0.45, 2.2), product.left)
    p.arrow(product.right, add.left)
    p.word(4.4, 0.2, "x")
    p.arrow((4.4, 0.4), inputs.bottom)
    p.arrow(inputs.top, add.bottom)
    p.arrow(add.right, tanh.left)
    p.arrow(tanh.right, (7.8, 2.2))
    p.word(8.05, 2.2, "h'")
    p.arrow((7.0, 2.2), (7.0, 2.85))
    p.word(7.0, 3.0, "y")
    return p


def products(p, height, text="z + u"):
    """Draws x and h, and the box in which both meet their kernels."""
    box = p.box(1.5, 1.1, text, 1.3, fill="learned")
    p.word(1.5, 0.2, "x")
    p.arrow((1.5, 0.4), box.bottom)
    p.word(0.3, height, "h")
    return box


def lstm(theme):
    """LSTM: the forget gate scales the old memory c.

    The input gate scales the candidate g, which is added. The output gate scales tanh of the new
    memory and gives h.
    """
    p = Picture(9.6, 4.6, theme)
    box = products(p, 1.1)
    p.arrow((0.45, 1.1), box.left)
    # The sums of all four gates come from one product.
    p.line(box.right, (6.3, 1.1))
    f = p.box(2.9, 2.0, "f: σ")
    i = p.box(4.1, 2.0, "i: σ")
    g = p.box(5.3, 2.0, "g: tanh")
    o = p.box(6.5, 2.0, "o: σ")
    p.line((6.3, 1.1), (6.5, 1.1))
    for gate in (f, i, g, o):
        p.arrow((gate.x, 1.1), gate.bottom)
    p.word(0.3, 4.1, "c")
    forget = p.circle(2.9, 4.1, "×")
    add = p.circle(4.7, 4.1, "+")
    write = p.circle(4.7, 3.05, "×")
    p.arrow((0.45, 4.1), forget.left)
    p.arrow(f.top, forget.bottom)
    p.arrow(forget.right, add.left)
    p.arrow(i.top, (i.x, 3.05), write.left)
    p.arrow(g.top, (g.x, 3.05), write.right)
    p.arrow(write.top, add.bottom)
    p.arrow(add.right, (9.0, 4.1))
    p.word(9.25, 4.1, "c'")
    tanh = p.box(7.8, 3.05, "tanh")
    read = p.circle(7.8, 2.0, "×")
    p.arrow((7.8, 4.1), tanh.top)
    p.arrow(tanh.bottom, read.top)
    p.arrow(o.right, read.left)
    p.arrow(read.right, (8.9, 2.0))
    p.word(9.25, 2.0, "h', y")
    return p


def peephole(theme):
    """LSTM with peepholes, drawn as dotted lines.

    The forget gate and the input gate also see the old memory c. The output gate sees the new
    memory.
    """
    p = lstm(theme)
    p.line((1.9, 4.1), (1.9, 2.6), (3.5, 2.6), (3.5, 2.15), style=":")
    p.arrow((3.45, 2.15), (3.6, 2.15))
    p.line((1.9, 2.6), (1.9, 2.0), (2.3, 2.0), style=":")
    p.arrow((2.25, 2.0), (2.4, 2.0))
    p.line((6.9, 4.1), (6.9, 2.4), style=":")
    p.arrow((6.9, 2.45), (6.9, 2.25))
    return p


def mgu(theme):
    """MGU: one gate f. It scales u_n, the product of state and recurrent kernel.

    It also mixes the candidate n with the old state.
    """
    p = Picture(10.4, 4.4, theme)
    box = products(p, 3.9, "z,  u")
    f = p.box(2.9, 2.0, "f: σ")
    reset = p.circle(4.2, 2.9, "×")
    add = p.circle(5.2, 2.9, "+")
    n = p.box(6.2, 2.9, "tanh", 0.9)
    mix = p.box(8.2, 2.9, "(1 − f) n + f h", 1.9)
    # The sums lie below, and the gate goes to two places.
    p.line(box.right, (5.2, 1.1))
    p.arrow((2.9, 1.1), f.bottom)
    p.arrow(f.top, (2.9, 2.9), reset.left)
    p.arrow(f.right, (8.2, 2.0), mix.bottom)
    p.arrow((4.2, 1.1), reset.bottom)
    p.word(4.3, 1.5, "uₙ", align="left")
    p.arrow((5.2, 1.1), add.bottom)
    p.word(5.3, 1.5, "zₙ", align="left")
    p.arrow(reset.right, add.left)
    p.arrow(add.right, n.left)
    p.arrow(n.right, mix.left)
    p.arrow((0.45, 3.9), (8.2, 3.9), mix.top)
    p.arrow((1.5, 3.9), box.top)
    p.arrow(mix.right, (9.8, 2.9))
    p.word(10.1, 2.9, "h', y")
    return p


def layer_norm(theme):
    """Layer normalization: both products are normalized before they are added.

    Each has its own scale. The gates of the cell follow.
    """
    p = Picture(10.2, 3.0, theme)
    for name, kernel, y in (("h", "@ recurrent_kernel", 2.3), ("x", "@ kernel", 0.7)):
        p.word(0.3, y, name)
        product = p.box(2.2, y, kernel, 2.5, fill="learned")
        norm = p.box(4.7, y, "LN", 0.8)
        scale = p.box(6.5, y, "* scale + bias", 1.9, fill="learned")
        p.arrow((0.45, y), product.left)
        p.arrow(product.right, norm.left)
        p.arrow(norm.right, scale.left)
        p.line(scale.right, (8.0, y))
    # Both sums meet in the middle.
    add = p.circle(8.0, 1.5, "+")
    p.arrow((8.0, 2.3), add.top)
    p.arrow((8.0, 0.7), add.bottom)
    p.arrow(add.right, (9.0, 1.5))
    p.word(9.5, 1.5, "gates")
    return p


def kernels(theme):
    """Four recurrent kernels of six units. A filled square is a weight.

    The full kernel connects all units. The diagonal one connects each unit with itself. In blocks,
    units of one head meet. A kernel of low rank is a product of two thin matrices.
    """
    p = Picture(11.3, 2.7, theme)
    diagonal = ["-" * i + "#" + "-" * (5 - i) for i in range(6)]
    blocks = ["###---"] * 3 + ["---###"] * 3
    shown = [("full: LSTM, GRU", ["######"] * 6), ("diagonal: IndRNN", diagonal)]
    shown.append(("blocks: two heads", blocks))
    for number, (name, rows) in enumerate(shown):
        x = 0.6 + 2.7 * number
        p.grid(x, 2.5, rows)
        p.word(x + 0.75, 0.5, name)
    # Two thin matrices side by side.
    p.grid(8.5, 2.5, ["##"] * 6)
    p.word(9.15, 2.0, "×")
    p.grid(9.3, 2.25, ["######"] * 2)
    p.word(9.65, 0.5, "low rank")
    return p


def matrix_memory(theme):
    """mLSTM: the memory is a matrix. The forget gate scales it.

    The input gate adds the product of value and key. The query reads the memory, and the output
    gate scales the result. The normalizer is left out.
    """
    p = Picture(10.4, 3.9, theme)
    p.word(0.3, 2.6, "c")
    forget = p.circle(1.6, 2.6, "×")
    add = p.circle(3.6, 2.6, "+")
    memory = Node(5.6, 2.6, 1.0, 1.0)
    p.grid(5.1, 3.1, ["xxxx"] * 4)
    write = p.box(3.6, 1.4, "i * v kᵀ", 1.4)
    gate = p.box(1.6, 1.4, "f: σ", 0.9)
    read = p.box(7.6, 2.6, "@ q", 0.9)
    out = p.circle(8.9, 2.6, "×")
    o = p.box(8.9, 1.4, "o: σ", 0.9)
    p.arrow((0.45, 2.6), forget.left)
    p.arrow(gate.top, forget.bottom)
    p.arrow(forget.right, add.left)
    p.arrow(write.top, add.bottom)
    p.arrow(add.right, memory.left)
    p.arrow(memory.right, read.left)
    p.arrow(read.right, out.left)
    p.arrow(o.top, out.bottom)
    p.arrow(out.right, (9.7, 2.6))
    p.word(9.95, 2.6, "y")
    # The new memory also goes to the next step.
    p.arrow((6.4, 2.6), (6.4, 3.6), (9.7, 3.6))
    p.word(9.95, 3.6, "c'")
    inputs = p.box(5.2, 0.55, "x @ kernel + bias", 8.2, fill="learned")
    for node in (gate, write, o):
        p.arrow((node.x, inputs.top[1]), node.bottom)
    p.arrow((7.6, inputs.top[1]), read.bottom)
    return p


def elapsed(theme):
    """CfC: a network reads input and state. It gives two candidates.

    A gate mixes them. The gate depends on dt, the time since the last step.
    """
    p = Picture(10.0, 3.8, theme)
    p.word(0.4, 2.4, "x, h")
    network = p.box(2.0, 2.4, "backbone", 1.5, fill="learned")
    p.arrow((0.8, 2.4), network.left)
    f = p.box(4.5, 3.2, "tanh(f)", 1.2)
    g = p.box(4.5, 2.4, "tanh(g)", 1.2)
    gate = p.box(4.5, 1.2, "t = σ(a dt + b)", 2.0)
    p.word(4.5, 0.25, "dt")
    p.arrow((4.5, 0.45), gate.bottom)
    # One network feeds the candidates and the gate.
    for node in (f, g, gate):
        p.arrow(network.right, (3.1, 2.4), (3.1, node.y), node.left)
    mix = p.box(7.3, 2.4, "(1 − t) f + t g", 1.9)
    p.arrow(f.right, (7.3, 3.2), mix.top)
    p.arrow(g.right, mix.left)
    p.arrow(gate.right, (7.3, 1.2), mix.bottom)
    p.arrow(mix.right, (9.2, 2.4))
    p.word(9.6, 2.4, "h', y")
    return p


def convolution(theme):
    """A convolutional cell: the state has a place for each pixel.

    The gates of a place see the inputs and the state in a small window over that place.
    """
    p = Picture(9.6, 3.7, theme)
    window = ["------", "-xxx--", "-xxx--", "-xxx--", "------"]
    place = ["------", "------", "--x---", "------", "------"]
    p.grid(0.6, 3.5, window)
    p.word(0.3, 2.9, "h")
    p.grid(0.6, 1.9, window)
    p.word(0.3, 1.3, "x")
    # The window of the gates, and the place that they compute.
    kernels_box = p.box(4.4, 1.9, "convolutions,\nthen the gates", 2.4, 0.9, fill="learned")
    for y in (2.87, 1.27):
        p.arrow((2.2, y), (2.7, y), (2.7, 1.9), kernels_box.left)
    p.grid(6.9, 2.5, place)
    p.arrow(kernels_box.right, (6.85, 1.9))
    p.word(8.9, 1.9, "h', y")
    return p


def gru(theme):
    """GRU with reset_after: the reset gate r scales u_n, the product of state and recurrent kernel.

    With z_n it gives the candidate n. The update gate mixes n with the old state.
    """
    p = Picture(10.4, 4.4, theme)
    # The candidate needs both sums apart.
    box = products(p, 3.9, "z,  u")
    p.line(box.right, (7.4, 1.1))
    r = p.box(2.9, 2.0, "r: σ")
    reset = p.circle(4.2, 2.9, "×")
    add = p.circle(5.2, 2.9, "+")
    n = p.box(6.2, 2.9, "tanh", 0.9)
    z = p.box(7.9, 1.9, "z: σ")
    mix = p.box(7.9, 2.9, "(1 − z) n + z h", 1.9)
    p.arrow((2.9, 1.1), r.bottom)
    p.arrow(r.top, (2.9, 2.9), reset.left)
    p.arrow((4.2, 1.1), reset.bottom)
    p.word(4.45, 1.9, "uₙ", align="left")
    p.arrow(reset.right, add.left)
    p.arrow((5.2, 1.1), add.bottom)
    p.word(5.45, 1.9, "zₙ", align="left")
    p.arrow(add.right, n.left)
    p.arrow(n.right, mix.left)
    p.arrow((7.4, 1.1), (7.9, 1.1), z.bottom)
    p.arrow(z.top, mix.bottom)
    p.arrow((0.45, 3.9), (7.9, 3.9), mix.top)
    p.arrow((1.5, 3.9), box.top)
    p.arrow(mix.right, (9.7, 2.9))
    p.word(10.0, 2.9, "h', y")
    return p


def linear(theme):
    """Linear cell: the input alone gives a and b. The new state is a times h plus b.

    No arrow leads from the state to a or b, so all steps can be computed at once.
    """
    p = Picture(8.4, 3.4, theme)
    p.word(0.3, 2.8, "h")
    scale = p.circle(3.2, 2.8, "×")
    add = p.circle(5.2, 2.8, "+")
    a = p.box(3.2, 1.7, "a = 1 − z", 1.4)
    b = p.box(5.2, 1.7, "b = z n", 1.4)
    inputs = p.box(4.2, 0.85, "z = σ(x @ kernel),  n = x @ kernel", 4.4, fill="learned")
    p.word(4.2, 0.15, "x")
    p.arrow((4.2, 0.3), inputs.bottom)
    p.arrow((3.2, inputs.top[1]), a.bottom)
    p.arrow((5.2, inputs.top[1]), b.bottom)
    p.arrow((0.45, 2.8), scale.left)
    p.arrow(scale.right, add.left)
    p.arrow(a.top, scale.bottom)
    p.arrow(b.top, add.bottom)
    p.arrow(add.right, (7.4, 2.8))
    p.word(7.75, 2.8, "h', y")
    return p


def stack(theme):
    """A stack of two layers over four steps. The first layer is bidirectional.

    One of its cells reads from left to right, one from right to left. The second layer reads both
    outputs.
    """
    p = Picture(9.8, 5.1, theme)
    p.frame(0.15, 0.75, "Bidirectional", 9.5, 2.15)
    p.word(0.35, 3.75, "second layer", align="left")
    p.word(0.35, 2.1, "forward", align="left")
    p.word(0.35, 1.25, "backward", align="left")
    for t in range(4):
        x = 2.6 + 1.8 * t
        backward = p.box(x + 0.35, 1.25, "cell", 0.75, 0.45, fill="learned")
        forward = p.box(x - 0.35, 2.1, "cell", 0.75, 0.45, fill="learned")
        upper = p.box(x, 3.75, "cell", 0.75, 0.45, fill="learned")
        p.word(x, 0.2, f"x{t + 1}")
        p.line((x, 0.4), (x, 0.6))
        p.arrow((x, 0.6), (forward.x, 0.6), forward.bottom)
        p.arrow((x, 0.6), (backward.x, 0.6), backward.bottom)
        concat = p.circle(x, 3.15, "∥")
        p.arrow(forward.top, (forward.x, 3.15), concat.left)
        p.arrow(backward.top, (backward.x, 3.15), concat.right)
        p.arrow(concat.top, upper.bottom)
        p.arrow(upper.top, (x, 4.65))
        p.word(x, 4.85, f"y{t + 1}")
        if t:
            p.arrow((x - 1.8 + 0.375, 3.75), upper.left)
            p.arrow((x - 1.8 - 0.35 + 0.375, 2.1), forward.left)
            p.arrow(backward.left, (x - 1.8 + 0.35 + 0.375, 1.25))
    return p


def masks(theme):
    """Four sequences of eight steps. Filled squares are unmasked steps.

    A bar before a square is a reset: the state returns to the initial state there.
    """
    p = Picture(9.6, 3.6, theme)
    rows = [
        ("lengths: 8", "11111111", ()),
        ("lengths: 5", "11111000", ()),
        ("mask with holes", "11011011", ()),
        ("reset: two segments", "11111110", (3,)),
    ]
    for number, (name, mask, resets) in enumerate(rows):
        y = 2.9 - 0.75 * number
        p.word(0.1, y + 0.25, name, align="left")
        for t, flag in enumerate(mask):
            p.square(2.8 + 0.8 * t, y, flag == "1")
        for t in resets:
            x = 2.75 + 0.8 * t
            ink = p.colors["ink"]
            p.axes.plot((x, x), (y - 0.1, y + 0.6), color=ink, lw=4, zorder=4)
    p.arrow((2.8, 0.3), (9.1, 0.3))
    p.word(2.35, 0.3, "time")
    return p


def wrapper(theme):
    """A Flax module holds the parameters of a stack.

    The stack holds a residual layer, which holds a cell, and a dense layer. Each of them is a
    layer, and scan takes any of them.
    """
    p = Picture(9.6, 4.1, theme)
    p.frame(0.9, 0.2, "Recurrent, a Flax module: holds the parameters", 7.8, 3.7)
    p.frame(1.5, 0.45, "Stack", 6.6, 2.8)
    p.frame(2.1, 0.7, "Residual", 3.3, 2.0)
    cell = p.box(3.6, 1.25, "LSTMCell", 1.5, fill="learned")
    dense = p.box(6.9, 1.25, "Dense", 1.2, fill="learned")
    add = p.circle(4.9, 1.25, "+")
    p.word(0.35, 1.25, "xs")
    p.arrow((0.6, 1.25), cell.left)
    p.arrow(cell.right, add.left)
    p.arrow((2.5, 1.25), (2.5, 2.0), (4.9, 2.0), add.top)
    p.arrow(add.right, dense.left)
    p.arrow(dense.right, (9.0, 1.25))
    p.word(9.3, 1.25, "ys")
    return p


def layers(theme):
    """The kinds of layers. Every cell is a layer.

    Affine cells and linear cells are two kinds of cells. Stack, Bidirectional and other layers
    hold layers.
    """
    p = Picture(11.0, 4.3, theme)
    p.frame(0.1, 0.1, "Layer: a sequence and a state in, a sequence and a state out", 10.8, 4.1)
    p.frame(0.4, 0.35, "Cell: computes one step", 6.4, 3.2)
    p.frame(0.7, 0.6, "AffineCell", 2.8, 2.3)
    p.frame(3.7, 0.6, "LinearCell", 2.8, 2.3)
    p.word(2.1, 1.85, "u = h @ kernel")
    p.word(2.1, 1.2, "Elman, LSTM, GRU")
    p.word(5.1, 1.85, "h' = a h + b")
    p.word(5.1, 1.2, "minGRU, LRU, S5")
    # Layers that are no cells.
    p.frame(7.0, 0.35, "made of layers", 3.7, 3.2)
    p.word(8.85, 2.3, "Stack, Bidirectional,")
    p.word(8.85, 1.75, "Residual, Zoneout,")
    p.word(8.85, 1.2, "your own")
    return p


def state(theme):
    """Two parts of a sequence. The state after the first part enters the second part.

    A stream hands the state on in the same way, one step at a time.
    """
    p = Picture(10.4, 3.0, theme)
    p.word(0.6, 1.5, "initial")
    before = (1.05, 1.5)
    parts = [("first part", "scan", "ys", 2.9, 1.9), ("second part", "scan", "ys", 5.7, 1.9)]
    parts.append(("one step", "step", "y", 8.2, 1.0))
    for name, run, output, x, width in parts:
        box = p.box(x, 1.5, run, width, fill="learned")
        p.word(x, 0.25, name)
        p.arrow((x, 0.5), box.bottom)
        p.arrow(box.top, (x, 2.5))
        p.word(x, 2.75, output)
        p.arrow(before, box.left)
        before = box.right
        # The name of what goes from one box to the next.
        p.word(box.right[0] + 0.5, 1.75, "state", size=10)
    p.arrow(before, (10.1, 1.5))
    return p


def implementations(theme):
    """Scan checks the arguments and puts time first. Then it chooses an implementation.

    The implementations compute the same numbers in different ways: a loop, a loop in C++, or all
    steps at once.
    """
    p = Picture(11.2, 3.9, theme)
    check = p.box(1.2, 1.95, "check,\ntime first", 1.7, 0.9)
    choose = p.box(3.9, 1.95, "choose", 1.4)
    restore = p.box(10.1, 1.95, "restore\nthe axes", 1.6, 0.9)
    p.arrow(check.right, choose.left)
    # Four of the implementations, each with its height.
    ways = [
        ("hoisted: a loop, with a rule", 3.45),
        ("native: a loop in C++", 2.45),
        ("associative: all steps at once", 1.45),
        ("xla: the plain loop", 0.45),
    ]
    for text, y in ways:
        way = p.box(6.95, y, text, 3.4)
        p.arrow(choose.right, (4.9, choose.y), (4.9, y), way.left)
        p.line(way.right, (8.95, y), (8.95, 1.95))
    p.arrow((8.95, 1.95), restore.left)
    return p


DRAWINGS = {
    "scan": scan,
    "elman": elman,
    "lstm": lstm,
    "peephole": peephole,
    "gru": gru,
    "mgu": mgu,
    "layer_norm": layer_norm,
    "kernels": kernels,
    "matrix_memory": matrix_memory,
    "elapsed": elapsed,
    "convolution": convolution,
    "linear": linear,
    "stack": stack,
    "masks": masks,
    "wrapper": wrapper,
    "layers": layers,
    "state": state,
    "implementations": implementations,
}


def write(folder: Path, form: str = "svg") -> None:
    """Writes every diagram in both variants. The same program writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    # Letters become paths, so that every reader sees the same picture.
    with plt.rc_context({"svg.hashsalt": "recurrax", "svg.fonttype": "path"}):
        for name, draw in DRAWINGS.items():
            for theme in COLORS:
                picture = draw(theme)
                options = {"metadata": {"Date": None}} if form == "svg" else {"dpi": 90}
                path = folder / f"{name}-{theme}.{form}"
                background = "white" if theme == "light" else "#131416"
                if form == "svg":
                    background = "none"
                picture.figure.savefig(path, format=form, facecolor=background, **options)
                plt.close(picture.figure)


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:])
