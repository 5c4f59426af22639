"""Recipes: one YAML file each, read by `tgdt train --recipe NAME`."""
