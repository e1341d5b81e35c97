"""Many devices, processes and hosts: one mesh axis, along which the runs of a meta-step are divided.

theta, the optimizer's state and the data of a task family are on every device; the estimator's runs (or the members of
an evolution learner) are divided. Each device works on its part without talking to the others, and one reduction per
meta-step brings the gradients together.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from l2o.errors import UserError
from meta.estimator.base import Estimator

AXIS = "runs"
WHOLE, DIVIDED = PartitionSpec(), PartitionSpec(AXIS)
Devices = int | Literal["all"]
GO = b"!"  # process 0 says that everybody is there
SHUTDOWN = 60  # seconds that a process that is done, or has failed, waits for the others to end as well
T = TypeVar("T")


def use_cores(count: int | None = None) -> None:
    """On a CPU, make one device of every core this process may use (or that many); call before anything touches one.

    Each device then works on its share of the runs alone, which is faster than all cores on one operation at a time.
    JAX_NUM_CPU_DEVICES, where it is set, decides instead.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ and count is None:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # devices are in use already, and stay as they are
        jax.config.update("jax_num_cpu_devices", count or cores or 1)


def start(coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int = 300) -> None:
    """Join the other processes of a training; call before anything touches a device.

    With no arguments, a cluster that `jax.distributed` detects, or that JAX_COORDINATOR_ADDRESS names, is joined
    and otherwise nothing happens.

    Args:
      coordinator: "host:port" of process 0.
      num_processes: how many there are.
      process_id: which this one is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      UserError: the arguments are incomplete or do not fit together, or the others do not answer.
    """
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given):
        if _in_cluster():
            jax.distributed.initialize(initialization_timeout=timeout, shutdown_timeout_seconds=SHUTDOWN)
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError("--coordinator, --num-processes and --process-id belong together: give all three or none")
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"--coordinator: found {coordinator!r}, expected HOST:PORT")
    if num_processes < 1:
        raise UserError(f"--num-processes: found {num_processes}, expected at least 1")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process-id: found {process_id}, expected 0 to {num_processes - 1}")
    _meet(host.strip("[]"), int(port), num_processes, process_id, timeout)
    jax.distributed.initialize(
        coordinator, num_processes, process_id, cluster_detection_method="deactivate",
        initialization_timeout=timeout, shutdown_timeout_seconds=SHUTDOWN,
    )  # fmt: skip


def _in_cluster() -> bool:
    several = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JAX_NUM_PROCESSES")
    if any(os.environ.get(name, "").isdecimal() and int(os.environ[name]) > 1 for name in several):
        return True
    return "JAX_COORDINATOR_ADDRESS" in os.environ or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _meet(host: str, port: int, num_processes: int, process_id: int, timeout: int) -> None:
    """Wait until all processes are there: JAX's own client ends the process, without a word, when one is missing."""
    deadline, where = time.monotonic() + timeout, f"--coordinator {host}:{port}"

    def left() -> float:
        return max(deadline - time.monotonic(), 0.01)

    def report() -> None:
        with socket.create_connection((host, port), timeout=left()) as connection:
            connection.sendall(process_id.to_bytes(2, "little"))
            connection.settimeout(left())
            if connection.recv(1) != GO:
                raise ConnectionError("it gave up on the others")

    if process_id > 0:
        while True:
            try:
                return report()
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"{where} did not answer within {timeout} s ({error.strerror or error}); expected the process"
                        " with --process-id 0 to run there and all others to join"
                    ) from None
            time.sleep(0.2)
    missing, joined = set(range(1, num_processes)), []
    with contextlib.ExitStack() as connections:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            server = connections.enter_context(socket.create_server(("", port), family=family))
            while missing:
                server.settimeout(left())
                connection, _ = server.accept()
                connections.enter_context(connection).settimeout(left())
                missing.discard(int.from_bytes(connection.recv(2), "little"))
                joined.append(connection)
            for connection in joined:
                connection.sendall(GO)
        except TimeoutError:
            absent = ", ".join(map(str, sorted(missing)))
            raise UserError(f"{where}: --process-id {absent} did not join within {timeout} s") from None
        except OSError as error:
            raise UserError(f"{where}: cannot listen on port {port} ({error.strerror or error})") from None


def writes() -> bool:
    """Whether this process writes files and talks: only process 0 does."""
    return jax.process_index() == 0


def agree(compute: Callable[[], T]) -> T:
    """What process 0 computes, on every process; it must be JSON. A `UserError` is raised on all of them."""
    if jax.process_count() == 1:
        return compute()
    answer = b""
    if writes():
        try:
            answer = json.dumps({"value": compute()}).encode()
        except UserError as error:
            answer = json.dumps({"error": str(error)}).encode()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(answer))))
    buffer = np.frombuffer(answer.ljust(length, b" "), np.uint8) if writes() else np.zeros(length, np.uint8)
    received = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).astype(np.uint8).tobytes())
    if "error" in received:
        raise UserError(received["error"])
    return received["value"]


def anyone(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def broadcast(tree: Any) -> Any:
    """Process 0's numpy arrays, on every process; the others give arrays of the same shapes."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def mesh(devices: Devices, runs: int, where: str = "meta.tasks") -> Mesh:
    """The devices to use.

    Args:
      devices: how many, or "all": as many as divide the runs evenly.
      runs: what is divided among them.
      where: the config field that sets `runs`, for the error.

    Raises:
      UserError: there are not that many devices, or they cannot share the runs evenly.
    """
    found = jax.devices()
    if devices == "all" and jax.process_count() == 1:
        devices = max(n for n in range(1, len(found) + 1) if runs % n == 0)
    count = len(found) if devices == "all" else devices
    if count > len(found):
        raise UserError(
            f"meta.devices: found {count}, expected at most {len(found)}, the {found[0].platform} devices there are"
        )
    if jax.process_count() > 1 and count != len(found):
        raise UserError(f'meta.devices: found {count}, expected "all" or {len(found)}, those of all processes together')
    if runs % count:
        raise UserError(f"{where}: {runs} cannot be shared evenly by {count} devices, expected a multiple of {count}")
    return jax.make_mesh((count,), (AXIS,), (jax.sharding.AxisType.Auto,), devices=found[:count])


def divide(estimator: Estimator, mesh: Mesh) -> Estimator:
    """The same estimator with its runs divided among the devices of a mesh; one reduction per estimate."""
    if estimator.runs % mesh.size:
        raise ValueError(f"{estimator.runs} runs cannot be divided among {mesh.size} devices")

    def estimate(theta, state, family):
        gradient, state, loss = estimator.estimate(theta, state, family)
        # a device without any finite run has nothing to say about the loss
        counts = jnp.isfinite(loss)
        gradient, loss, count = jax.lax.pmean((gradient, jnp.where(counts, loss, 0.0), counts.astype(loss.dtype)), AXIS)
        return gradient, state, jnp.where(count > 0, loss / jnp.maximum(count, 1e-9), jnp.nan)

    # check_vma=False: with it, grad inside would be summed over devices once more, silently
    shared = jax.shard_map(
        estimate, mesh=mesh, in_specs=(WHOLE, DIVIDED, WHOLE), out_specs=(WHOLE, DIVIDED, WHOLE), check_vma=False
    )
    return Estimator(estimator.init, shared, estimator.runs)


def place(tree: Any, mesh: Mesh, specs: Any = WHOLE) -> Any:
    """Put numpy or local arrays that every process has onto the mesh.

    Args:
      tree: the arrays.
      mesh: the devices.
      specs: how they are divided; a tree prefix of PartitionSpecs.
    """

    def put(spec, part):
        sharding = NamedSharding(mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(part, sharding)
        part = jax.tree.map(np.asarray, part)
        return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, sharding, lambda i: a[i]), part)

    return jax.tree.map(put, specs, tree, is_leaf=lambda node: isinstance(node, PartitionSpec))


def collect(tree: Any) -> Any:
    """The whole arrays as numpy, on every process."""

    def whole(leaf):
        if jax.process_count() == 1 or leaf.is_fully_replicated:
            return np.asarray(leaf if jax.process_count() == 1 else leaf.addressable_data(0))
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)
