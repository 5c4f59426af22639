"""Build the optional re-rank kernel; everything else is declared in pyproject.toml."""

from setuptools import Extension, setup

kernel = Extension(
    "modeling_tgdt.kernels._maxsim",
    sources=["modeling_tgdt/kernels/csrc/maxsim.cpp"],
    depends=["modeling_tgdt/kernels/csrc/maxsim_body.inc", "modeling_tgdt/kernels/csrc/maxsim_amx.inc"],
    language="c++",
    # gcc warns of values that its own intrinsics leave undefined on purpose
    extra_compile_args=[
        "-O3",
        "-std=c++17",
        "-pthread",
        "-Wno-psabi",
        "-Wno-uninitialized",
        "-Wno-maybe-uninitialized",
    ],
    extra_link_args=["-pthread"],
    optional=True,  # without a compiler the package works through PyTorch, with the same ranking
)

setup(ext_modules=[kernel])
