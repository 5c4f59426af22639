"""Training and evaluation of TGDT."""
