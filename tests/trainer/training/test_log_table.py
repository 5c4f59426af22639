"""An evaluation is printed as a table, while loggers keep a key for every number."""

import pytest
from transformers import PrinterCallback, ProgressCallback

from tests.trainer.test_cmc_trainer import make_trainer
from trainer.training.log_table import split_results


def test_names_are_parted_by_prefix_and_mode():
    logs = {"eval_two_stage_t2i_r1": 1.0, "eval_a_local_rsum": 2.0, "eval_rsum": 3.0, "loss_global": 4.0, "loss": 5.0}
    results, others = split_results(logs)
    assert results == {"eval": {"two_stage": {"t2i_r1": 1.0}}, "eval_a": {"local": {"rsum": 2.0}}}
    assert others == {"eval_rsum": 3.0, "loss_global": 4.0, "loss": 5.0}


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_the_printed_form_is_the_table(disable_tqdm, tmp_path, capsys):
    trainer = make_trainer(
        tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1, disable_tqdm=disable_tqdm, eval_modes=["global"]
    )
    kind, other = (PrinterCallback, ProgressCallback) if disable_tqdm else (ProgressCallback, PrinterCallback)
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert sum(issubclass(found, kind) for found in kinds) == 1 and not any(
        issubclass(found, other) for found in kinds
    )
    trainer.train()
    printed = capsys.readouterr().out
    entry = next(entry for entry in reversed(trainer.state.log_history) if "eval_rsum" in entry)
    assert entry["eval_global_t2i_r1"] >= 0  # loggers get the number
    assert "eval_global_t2i_r1" not in printed and "| mode | i2t R@1 |" in printed and "'loss'" in printed
    row = [line for line in printed.splitlines() if line.startswith("| global |")][-1]
    assert f" {entry['eval_global_i2t_r1']:.1f} " in row and f" {entry['eval_global_rsum']:.1f} " in row
