"""Devices: where the arrays of a training lie, and what several processes agree on.

All processes run the same program. The first process alone writes files and the screen.
"""

import contextlib
import json
import os
import socket
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .command import FAILED, fail, warn
from .config import UserError
from .lock import Lock
from .stop import Stopped

# The address at which the processes of one machine meet. No other machine can reach it.
LOOPBACK = "127.0.0.1"
# A process that ended waits so long for the others, in seconds. Then it lets them fail.
_PATIENCE = 10


class Devices:
    """One device, or a mesh of devices that may belong to several processes.

    A mesh has two axes. The rows of a batch, and their states, are split over `data`. Kernels and
    embeddings are split over `model` by their last axis, if its size is a multiple. The optimizer's
    averages of an array lie as the array.
    """

    def __init__(self, mesh: Mesh | None = None):
        """Takes the mesh; None stands for JAX's first device, without any sharding."""
        self.mesh = mesh
        self.processes = 1
        self.leads = True
        if mesh is not None:
            self.processes = jax.process_count()
            self.leads = jax.process_index() == 0
            everywhere = NamedSharding(mesh, PartitionSpec())
            self._copy = jax.jit(lambda tree: tree, out_shardings=everywhere)
            self._largest = jax.jit(jnp.max, out_shardings=everywhere)
        self._code_before: jax.Array | None = None
        # Whether all processes know that they end.
        self._agreed = False

    def __str__(self) -> str:
        """Describes the mesh."""
        if self.mesh is None:
            return "one device"
        owners = "one process"
        if self.processes > 1:
            owners = f"{self.processes} processes"
        return f"{self.mesh.size} devices ({self.sizes()}) of {owners}"

    def sizes(self) -> str:
        """Returns the sizes of the axes as `--mesh` takes them."""
        assert self.mesh is not None
        return ",".join(f"{name}={size}" for name, size in self.mesh.shape.items())

    def options(self) -> str:
        """Returns the options with which one process goes on with the same devices."""
        if self.mesh is None or self.processes > 1:
            return ""
        return f" --mesh {self.sizes()}"

    def check_batch(self, batch: int) -> None:
        """Makes sure that the rows of a batch can be split.

        Raises:
            UserError: if they cannot.
        """
        if self.mesh is None or batch % self.mesh.shape["data"] == 0:
            return
        raise UserError(
            f"the axis data={self.mesh.shape['data']} of the mesh must divide the batch, "
            f"which has {batch} rows. Change --mesh, or begin a run with another --batch."
        )

    # Where arrays lie. `place` takes arrays that all processes know; `keep` acts within `jit`.

    def place_state(self, state: Any) -> Any:
        """Puts a `TrainState` onto the devices."""
        return self._map_state(self._place, state)

    def keep_state(self, state: Any) -> Any:
        """Keeps a new `TrainState` where the old one was."""
        return self._map_state(jax.lax.with_sharding_constraint, state)

    def keep_scalar(self, x: jax.Array) -> jax.Array:
        """Gives each device its copy, so that each process can read a number."""
        if self.mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec()))

    def place_rows(self, windows: Any) -> Any:
        """Splits windows `int[..., B, window + 1]` by their rows."""
        if self.mesh is None:
            return windows
        return self._place(windows, self._split(windows, windows.ndim - 2, "data"))

    def gather(self, tree: Any) -> Any:
        """Returns arrays in the memory of each process. All processes must call it."""
        if self.mesh is None:
            return tree
        return jax.device_get(self._copy(tree))

    def _map_state(self, action: Callable, state: Any) -> Any:
        if self.mesh is None:
            return state

        def of_model(leaf: Any) -> Any:
            if leaf.ndim < 2:
                return action(leaf, self._split(leaf, None, "model"))
            return action(leaf, self._split(leaf, leaf.ndim - 1, "model"))

        def of_rows(leaf: Any) -> Any:
            # The layers' states [layers, B, H] have one row for each row of the batch.
            return action(leaf, self._split(leaf, leaf.ndim - 2, "data"))

        # The step, the parameters and the optimizer's state are the model's.
        placed = jax.tree.map(of_model, state._replace(rnn_state=None))
        return placed._replace(rnn_state=jax.tree.map(of_rows, state.rnn_state))

    def _split(self, leaf: Any, axis: int | None, name: str) -> NamedSharding:
        """Splits one axis of an array over an axis of the mesh, if it divides."""
        assert self.mesh is not None
        spec: list[str | None] = [None] * leaf.ndim
        if axis is not None and leaf.shape[axis] % self.mesh.shape[name] == 0:
            spec[axis] = name
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    @staticmethod
    def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        values = np.asarray(leaf)
        # Each process fills its own devices.
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    # What the processes agree on. One process always agrees with itself, and nothing is sent.

    def tell(self, facts: Any) -> Any:
        """Returns the facts of the first process, which JSON can hold, in all processes."""
        if self.processes == 1:
            return facts
        content = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
        # All processes must send an array of the same size, though only one is heard.
        sent = np.zeros(size, np.uint8)
        if self.leads:
            sent = content
        received = np.asarray(multihost_utils.broadcast_one_to_all(sent))
        return json.loads(received.astype(np.uint8).tobytes())

    def tell_arrays(self, tree: Any) -> Any:
        """Returns the arrays of the first process in all processes."""
        if self.processes == 1:
            return tree
        return jax.device_get(multihost_utils.broadcast_one_to_all(tree))

    def stop_code(self, code: int | None) -> int | None:
        """Returns the exit code of a process that a signal stops, or None. All must call it.

        Several processes hear it at the next call: by then it has arrived, and nobody waits.
        """
        if self.processes == 1:
            return code
        before, self._code_before = self._code_before, self._send(code or 0)
        if before is None:
            return None
        return int(before) or None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Surrounds work that may fail in one process alone: then all processes end.

        Raises:
            UserError: if the work failed in another process, which says why.
        """
        if self.processes == 1:
            yield
            return
        try:
            yield
        except BaseException:
            self._send(FAILED).block_until_ready()
            self._agreed = True
            raise
        if int(self._send(0)):
            self._agreed = True
            raise UserError("another process failed, and all end. Its own message says why.")

    @contextlib.contextmanager
    def linked(self) -> Iterator[None]:
        """Surrounds all work of this process: if it breaks down elsewhere, all end at once too."""
        try:
            yield
        except Exception as error:
            known = self._agreed or isinstance(error, Stopped)
            # A model that does not fit has a message of its own.
            if self.processes == 1 or known or "RESOURCE_EXHAUSTED" in str(error):
                raise
            # JAX raises also a ValueError for a link between CPUs, whose library is Gloo.
            if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
                fail(
                    f"the link to another process broke: {str(error).partition(chr(10))[0]}. "
                    "If it was killed, `resume` goes on from the newest checkpoint."
                )
            elif isinstance(error, UserError | OSError):
                fail(str(error))
            else:
                traceback.print_exc()
            # At a usual end JAX would wait for the other processes, which wait for this one.
            os._exit(FAILED)

    def _send(self, code: int) -> jax.Array:
        """Returns the largest code of all processes, which may still be on its way."""
        assert self.mesh is not None
        sharding = NamedSharding(self.mesh, PartitionSpec(("data", "model")))
        own = np.array([code], np.int32)
        codes = jax.make_array_from_callback((self.mesh.size,), sharding, lambda _: own)
        return self._largest(codes)


ALONE = Devices()


def start(
    folder: Path,
    sizes: dict[str, int] | None,
    processes: int | None,
    process: int | None,
    coordinator: str | None,
) -> Devices:
    """Joins the processes and makes the mesh. Nothing may use JAX's devices before it.

    Args:
        folder: the run folder. The processes of other runs meet elsewhere.
        sizes: the sizes of the mesh's axes; None puts all devices of several processes on `data`,
            and uses one device of a single process.
        processes: how many processes take part; None asks Slurm.
        process: which of them this one is, from 0.
        coordinator: the address of process 0; by default a port of this machine alone.

    Raises:
        UserError: if the options do not fit each other, or the devices, or if another program
            trains in the folder.
    """
    # A second program must not disturb the processes of the first one.
    Lock(folder).check_free()
    if processes is None and (process is not None or coordinator is not None):
        raise UserError("--process and --coordinator need --processes, how many there are.")
    if processes is None:
        # `srun` sets this for each of its tasks. JAX reads the rest from Slurm too.
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            jax.distributed.initialize(shutdown_timeout_seconds=_PATIENCE)
    elif processes > 1:
        _join(folder, processes, process, coordinator)
    return _mesh(sizes)


def _join(folder: Path, processes: int, process: int | None, coordinator: str | None) -> None:
    if process is None or process >= processes:
        raise UserError(
            f"--process must tell which of the {processes} processes this one is, "
            f"from 0 to {processes - 1}; got {process}."
        )
    bind = None
    if coordinator is None:
        port = 20_000 + zlib.crc32(str(folder.resolve()).encode()) % 10_000
        # Other machines cannot connect.
        coordinator = bind = f"{LOOPBACK}:{port}"
        if process == 0:
            _check_port(port)
    if process == 0:
        warn(f"process 0 waits at {coordinator} for {processes - 1} more.")
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        coordinator_bind_address=bind,
        shutdown_timeout_seconds=_PATIENCE,
    )


def _check_port(port: int) -> None:
    with socket.socket() as server:
        # A port that was used a moment ago is free.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(
                f"another program has the port {port}; give all processes another one, "
                f"such as --coordinator {LOOPBACK}:{port + 1}."
            ) from error


def _mesh(sizes: dict[str, int] | None) -> Devices:
    found = jax.devices()
    several = jax.process_count() > 1
    if sizes is None:
        if not several:
            return ALONE
        sizes = {"data": len(found)}
    shape = (sizes.get("data", 1), sizes.get("model", 1))
    size = shape[0] * shape[1]
    mesh = f"data={shape[0]},model={shape[1]}"
    # A process without a device in the mesh could not take part.
    if several and size != len(found):
        raise UserError(
            f"--mesh: {mesh} has {size} devices; it must have all {len(found)} devices "
            f"of the {jax.process_count()} processes."
        )
    if size > len(found):
        raise UserError(
            f"--mesh: {mesh} needs {size} devices; JAX has {len(found)}. "
            f"On a CPU, XLA_FLAGS=--xla_force_host_platform_device_count={size} in the environment "
            f"makes {size} virtual devices."
        )
    # The devices of a process follow each other.
    if several and jax.local_device_count() % shape[1] and jax.process_index() == 0:
        warn(
            f"the axis model={shape[1]} spans processes, which then exchange their states at each "
            "step of a sequence. This is very slow on CPUs; data does it once a window."
        )
    grid = np.array(found[:size]).reshape(shape)
    # With Auto axes the compiler places what the program does not.
    return Devices(Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto)))
