"""Build the optional re-rank kernel; everything else is declared in pyproject.toml."""

from setuptools import setup

setup()
