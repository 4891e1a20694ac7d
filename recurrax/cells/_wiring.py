"""The wiring of a circuit of neurons."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from recurrax._arguments import check_fields


@dataclasses.dataclass(frozen=True)
class NCPWiring:
    """The wiring of a neural circuit policy, sparse and signed.

    sensory neurons → inter neurons → command neurons → motor neurons

    `seed` draws the sources and the targets of the synapses. Every neuron has a synapse. In a state
    the motor neurons stand first, then the command neurons, then the inter neurons.

    Args:
        inter_neurons: the number of inter neurons.
        command_neurons: the number of command neurons.
        motor_neurons: the number of motor neurons, and so of outputs.
        sensory_fanout: the number of inter neurons that each input reaches.
        inter_fanout: the number of command neurons that each inter neuron reaches.
        recurrent_command_synapses: the number of synapses drawn among the command neurons.
        motor_fanin: the number of command neurons that reach each motor neuron.
        seed: an int.

    Raises:
        ValueError: if a number is not positive (`recurrent_command_synapses` may be 0), or a fan
            exceeds the number of neurons that it draws from.

    Example:
        >>> import recurrax
        >>> wiring = recurrax.cells.NCPWiring(
        ...     4,
        ...     3,
        ...     2,
        ...     sensory_fanout=2,
        ...     inter_fanout=2,
        ...     recurrent_command_synapses=3,
        ...     motor_fanin=2,
        ... )
        >>> sensory, recurrent = wiring.polarities(input_size=5)
        >>> wiring.hidden_size, sensory.shape, recurrent.shape, int(abs(sensory[0]).sum())
        (9, (5, 9), (9, 9), 2)

    References:
        Lechner et al., Neural circuit policies enabling auditable autonomy, 2020,
        https://doi.org/10.1038/s42256-020-00237-3
    """

    inter_neurons: int
    command_neurons: int
    motor_neurons: int
    sensory_fanout: int
    inter_fanout: int
    recurrent_command_synapses: int
    motor_fanin: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("inter_neurons", "command_neurons", "motor_neurons"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        # Each fan draws without replacement from the neurons of one kind.
        choices = {
            "sensory_fanout": "inter_neurons",
            "inter_fanout": "command_neurons",
            "motor_fanin": "command_neurons",
        }
        for name, kind in choices.items():
            fan, most = getattr(self, name), getattr(self, kind)
            if not 1 <= fan <= most:
                raise ValueError(
                    f"`{name}` must be at least 1 and at most `{kind}` {most}; got {fan}."
                )
        if self.recurrent_command_synapses < 0:
            raise ValueError(
                "`recurrent_command_synapses` must be at least 0; "
                f"got {self.recurrent_command_synapses}."
            )

    @property
    def hidden_size(self) -> int:
        """The number H of neurons, without the sensory neurons."""
        return self.motor_neurons + self.command_neurons + self.inter_neurons

    def polarities(self, input_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The synapses of the inputs `[I, H]` and among the neurons `[H, H]`.

        1 excites, -1 inhibits, 0 is no synapse.
        """
        return _polarities(self, input_size)


@functools.lru_cache(maxsize=256)
def _polarities(wiring: NCPWiring, input_size: int) -> tuple[np.ndarray, np.ndarray]:
    rng, size = np.random.default_rng(wiring.seed), wiring.hidden_size
    sensory = np.zeros((input_size, size), np.int8)
    recurrent = np.zeros((size, size), np.int8)
    ends = np.cumsum([wiring.motor_neurons, wiring.command_neurons])
    motor, command, inter = np.split(np.arange(size), ends)

    def connect(matrix: np.ndarray, sources: np.ndarray, targets: np.ndarray, fanout: int) -> None:
        # Each source reaches `fanout` targets.
        for source in sources:
            matrix[source, rng.choice(targets, fanout, replace=False)] = rng.choice((-1, 1), fanout)
        # A target that no source has reached gets the mean number of synapses.
        fanin = min(max(len(sources) * fanout // len(targets), 1), len(sources))
        for target in targets:
            if not matrix[sources, target].any():
                chosen = rng.choice(sources, fanin, replace=False)
                matrix[chosen, target] = rng.choice((-1, 1), fanin)

    connect(sensory, np.arange(input_size), inter, wiring.sensory_fanout)
    connect(recurrent, inter, command, wiring.inter_fanout)
    for source, target in rng.choice(command, (wiring.recurrent_command_synapses, 2)):
        recurrent[source, target] = rng.choice((-1, 1))
    # The motor neurons choose their sources, so the matrix is transposed.
    connect(recurrent.T, motor, command, wiring.motor_fanin)
    # The cache shares both arrays between callers.
    for matrix in (sensory, recurrent):
        matrix.setflags(write=False)
    return sensory, recurrent
