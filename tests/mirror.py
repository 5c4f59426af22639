# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Source files without a test file of their name, by the test file that holds their behaviour.

A test's path mirrors the code's: `trainer/data/exif.py` is tested in `tests/trainer/data/test_exif.py`. What has no
public side of its own is tested through what uses it, and stands here; `test_house.py` keeps the table complete.
"""

M, T, H = "modeling_tgdt/", "trainer/", "hub_cards/"
TESTED_THROUGH: dict[str, list[str]] = {
    "hub_cards/test_cards.py": [
        *(f"{H}{name}.py" for name in ("facts", "privacy", "results", "snippets", "sources", "tables")),
        *(f"{T}publishing/{name}.py" for name in ("model_card", "recipe_cards")),
    ],
    "hub_cards/space/test_app.py": [f"{H}space/collection.py", f"{H}space/searching.py", f"{T}commands/page.py"],
    f"{M}test_composition.py": [f"{M}backbones_tgdt.py"],
    f"{M}test_explain_tgdt.py": [f"{M}drawing/overlay.py"],
    f"{M}test_loss_tgdt.py": [f"{M}objectives_tgdt.py"],
    f"{M}test_image_processing_tgdt.py": [f"{M}image_processing_pil_tgdt.py"],
    f"{M}test_index_tgdt.py": [
        f"{M}gallery/{name}.py" for name in ("backend", "engines", "files", "local", "metadata", "segment", "validate")
    ],
    f"{M}gallery/test_exact.py": [f"{M}gallery/faiss_engine.py", f"{M}gallery/scan.py"],
    f"{M}gallery/test_foreign_gallery.py": [
        f"{M}gallery/{name}.py" for name in ("manifest", "own_files", "plain_files")
    ],
    f"{M}gallery/test_many_commits.py": [f"{M}gallery/mapping.py"],
    f"{M}gallery/test_parts.py": [f"{M}gallery/processes.py"],
    f"{M}gallery/qdrant/test_backend.py": [f"{M}gallery/qdrant/{n}.py" for n in ("connection", "edge", "filters")],
    f"{M}kernels/test_maxsim.py": [f"{M}kernels/{name}.py" for name in ("quantize", "ragged", "torch_maxsim")],
    f"{M}retriever/test_composed.py": [f"{M}retriever/duplicates.py", f"{M}retriever/threshold.py"],
    f"{M}retriever/test_directory.py": [f"{M}retriever/card.py", f"{M}retriever/publishing.py"],
    f"{M}test_retrieval_tgdt.py": [
        f"{M}encoding_tgdt.py",
        *(f"{M}retriever/{name}.py" for name in ("filling", "shortlist", "tuning")),
    ],
    "trainer/commands/test_dual_encoder.py": [
        f"{T}commands/merge.py",
    ],
    "trainer/commands/test_gallery.py": [
        f"{M}retriever/memory.py",
        f"{T}cli.py",
        *(f"{T}commands/{name}.py" for name in ("bench", "common", "duplicates", "explain", "index", "search")),
    ],
    "trainer/commands/test_hostile_names.py": [f"{M}retriever/shown.py"],
    f"{M}runtimes/test_onnx.py": [f"{T}commands/export.py"],
    f"{M}test_no_remote_code.py": [f"{T}commands/convert.py"],
    "trainer/publishing/test_publish.py": [f"{T}commands/push.py"],
    "trainer/serving/test_service.py": [
        *(f"{T}serving/{name}.py" for name in ("batching", "connections", "guard", "schema")),
    ],
    "trainer/test_images.py": [f"{M}retriever/picture_sources.py", f"{T}data/skip_report.py"],
    "trainer/test_datasets.py": [
        f"{T}data/{name}.py"
        for name in (
            *("annotations", "canonical", "caption_dataset", "columns", "grouping", "identity", "image_policy"),
            *("names", "picture_lists", "region_features", "splits", "text_tables"),
        )
    ],
    "trainer/test_cmc_trainer.py": [
        f"{T}training/examples.py",
        f"{T}training/grad_cache.py",
        f"{T}training/stages.py",
        f"{T}training/start.py",
        f"{T}training_args.py",
    ],
    "trainer/test_evaluation.py": [
        f"{T}scoring/{name}.py" for name in ("embeddings", "encoding", "sharding", "shortlist_sweep")
    ],
    "trainer/test_run.py": [f"{T}commands/demo.py", f"{T}commands/train.py", f"{T}demo.py", f"{T}report.py"],
    "trainer/scenes/test_dataset.py": [
        f"{T}scenes/{name}.py" for name in ("captions", "drawing", "layout", "phrases", "splits")
    ],
    "trainer/scenes/test_tower.py": [f"{T}scenes/weights.py"],
}
