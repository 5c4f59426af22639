"""The TGDT model package."""
