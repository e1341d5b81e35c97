"""Four CPU devices, runtime type checks and a compilation cache, before anything imports jax."""

import gc
import os
import threading
from pathlib import Path

# Nearly all of the time of these tests is compilation, and without optimization it takes half as long. In the
# environment, so that child processes find their programs in the same cache. `make test-slow` has optimization on.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 4)
# where the command line puts it, too, with XDG_CACHE_HOME=.jax_cache
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache/l2o/jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # to read a program takes a tenth of compiling it


def _one_context_for_each_thread():
    """JAX fills a new MLIR context for every program, which takes half of the time of a small one: here they share it.

    Inside a JAX that has no such function the tests are slower, and no other.
    """
    from jax._src.interpreters import mlir

    make, kept = getattr(mlir, "make_ir_context", None), threading.local()

    def shared():
        if mlir.ir.Context.current is not None:  # a program inside of another one
            return make()
        if not hasattr(kept, "context"):
            kept.context = make()
        return kept.context

    if make is not None:
        mlir.make_ir_context = shared


_one_context_for_each_thread()

with install_import_hook(["l2o", "tasks", "meta"], "beartype.beartype"):
    import experiments
    import l2o
    import meta
    import tasks

gc.freeze()  # what was imported stays
gc.set_threshold(100_000, 20, 100)  # programs are many objects, of which few are ever garbage

__all__ = ["experiments", "l2o", "meta", "tasks"]


KEYS = (
    "test_protocol",
    "test_family_protocol",
    "test_base",
    "test_backprop",
    "test_perturbed",
    "test_unroll",
    "test_les",
)


@pytest.fixture(autouse=True)
def _strict(request):
    """No rank promotion; no key used twice in the tables of what every part does: such a check takes time to trace."""
    keys = request.path.stem in KEYS or "tasks" in request.path.parts or jax.config.jax_debug_key_reuse
    with jax.numpy_rank_promotion("raise"), jax.debug_key_reuse(keys):
        yield


@pytest.fixture(scope="module", autouse=True)
def _programs_are_kept():
    """Studies drop all programs after each cell, as those of a large study fill the memory map; here, when it does."""
    clear = jax.clear_caches

    def when_full():
        maps = Path("/proc/self/maps")  # Linux has it, and its limit of 65,530
        if maps.exists() and len(maps.read_text().splitlines()) > 30_000:
            clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "clear_caches", when_full)
        yield
    when_full()
