"""Who takes part: one library a file, each with `build(case) -> Work`. Nothing is imported before it is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Contender(NamedTuple):
    """The name for people, the module here, the distribution whose version is reported, and recurrax's twin.

    The twin is recurrax in the contender's own layout: where the outputs are time-major, nobody transposes them.
    """

    label: str
    module: str
    distribution: str
    twin: str = "recurrax"


CONTENDERS = {
    "recurrax": Contender("recurrax", "ours", "recurrax"),
    "time-major": Contender("time-major", "ours_time_major", "recurrax", "time-major"),
    "native": Contender("native", "ours_native", "recurrax"),
    "native-time-major": Contender("native, time-major", "ours_native_time_major", "recurrax", "time-major"),
    "torch": Contender("PyTorch", "pytorch", "torch", "time-major"),
    "onnxruntime": Contender("onnxruntime", "onnx_runtime", "onnxruntime", "time-major"),
    "nnx": Contender("NNX", "flax_nnx", "flax"),
    "linen": Contender("Linen", "flax_linen", "flax"),
    "haiku": Contender("Haiku", "dm_haiku", "dm-haiku", "time-major"),
    "equinox": Contender("Equinox", "eqx", "equinox"),
    "keras": Contender("Keras", "keras3", "keras"),
    "hand": Contender("by hand", "by_hand", "jax", "time-major"),
    "unmasked": Contender("no mask", "unmasked", "recurrax"),
}
# The native loop in the layout of each twin.
NATIVE = {"recurrax": "native", "time-major": "native-time-major"}
# The measure of the machine, which takes its turn in every round.
PRODUCT = Contender("product", "product", "jax")


class Work(NamedTuple):
    """A case as one contender does it.

    Attributes:
        call: does it once; it may return before all is done.
        wait: waits for what `call` returned.
        device: where it runs.
        peak_bytes: calls a few times; how far memory rose above where it stood, or None where that is unknown.
        compile_seconds: None where nobody can tell; then it is what the first call took longer than a later one.
        xla_bytes: XLA's own account of the compiled program.
        context: what all calls of a turn happen in.
        flops: floating-point operations of a call; 0 where the case counts them.
    """

    call: Callable[[], Any]
    wait: Callable[[Any], Any]
    device: str
    peak_bytes: Callable[[], int | None]
    compile_seconds: float | None = None
    xla_bytes: dict[str, int] = {}  # noqa: RUF012
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    flops: int = 0
