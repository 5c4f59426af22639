"""Tests of modeling_tgdt/retriever."""
