"""Compiles every Triton kernel for a GPU that need not be there.

    python -m tests.modeling_tgdt.triton_compiler 90

Prints for each kind of product which instruction the GPU code multiplies with; raises when a kernel does not compile
or needs more shared memory than the GPU has.
"""

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from modeling_tgdt import triton_similarity_tgdt
from modeling_tgdt.kernels import triton_maxsim
from modeling_tgdt.kernels.triton_maxsim import TokenSpans

SHARED_MEMORY = 99 * 1024  # of the smallest GPU of capability 8.0 and newer


class Driver:
    """Stands for a GPU: says what to compile for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """Stands for a kernel: compiles instead of running, and keeps the results."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.found = kernel, []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *a, **options: self.found.append(self.kernel.warmup(*a, grid=grid, **options))


def compile_maxsim(dtype: torch.dtype) -> None:
    """Compile for small and large tiles, with scales where codes have them."""
    for count in (4, 100):
        rows = torch.zeros(count, 128).to(dtype)
        scales = None if dtype.is_floating_point else torch.ones(count, 1)
        side = TokenSpans(rows, scales, torch.zeros(8, dtype=torch.int64), torch.full((8,), count))
        triton_maxsim.triton_maxsim(side, side)


def compile_similarity(dtype: torch.dtype) -> None:
    """Compile the forward and both backward kernels, for few and for many regions."""
    for regions in (10, 300):
        images, words = torch.zeros(2, regions, 128, dtype=dtype), torch.zeros(100, 128, dtype=dtype)
        winners = torch.zeros(2, 100, dtype=torch.uint8 if regions < 256 else torch.int16)
        grad, weights = torch.zeros(2, 5), torch.ones(5, 20)
        triton_similarity_tgdt.best_regions(images, words, torch.ones(2, regions, dtype=torch.bool), winners)
        triton_similarity_tgdt.image_gradients(grad, weights, winners, words, images)
        triton_similarity_tgdt.word_gradients(grad, weights, winners, images)


def product(assembly: str) -> str:
    """Name what multiplies in PTX: tensor cores of Hopper, of Ampere, or float32 units."""
    return next(name for name in ("wgmma", "mma", "fma") if f"{name}." in assembly)


def main() -> None:
    """Compile for the capability on the command line."""
    triton.runtime.driver.set_active(Driver(int(sys.argv[1])))
    kernels = {}
    for module in (triton_maxsim, triton_similarity_tgdt):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            kernels[name] = Compiled(getattr(module, name))
            setattr(module, name, kernels[name])
    compile_maxsim(torch.int16)
    for kind in ("float32", "tf32", "float16", "bfloat16", "int8"):
        dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        compile_maxsim(dtype)
        if dtype.is_floating_point:
            compile_similarity(dtype)
        products = kernels["_maxsim_kernel" if kind == "int8" else "_best_kernel"].found[-1]
        sys.stdout.write(f"{kind} {product(products.asm['ptx'])}\n")
    for name, kernel in kernels.items():
        for binary in kernel.found:
            assert binary.asm["cubin"], name
            assert binary.metadata.shared <= SHARED_MEMORY, (name, binary.metadata.shared)


if __name__ == "__main__":
    main()
