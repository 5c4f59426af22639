"""LoRA through CMCTrainer: the saved directory loads, is retrieved with, and has our card."""

import re

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig

from modeling_tgdt import TGDTModel, TGDTRetriever
from tests.trainer.scenes_model import processor, scenes, tiny_model
from tests.trainer.test_cmc_trainer import make_trainer


def adapted(model):
    targets = r"text_model\..*\.(query|value)"
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets, modules_to_save=["text_projection"]))


def test_a_run_is_saved_as_an_adapter_with_our_card(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    processor().save_pretrained(tmp_path / "base")
    model = adapted(TGDTModel.from_pretrained(tmp_path / "base"))
    trainer = make_trainer(tmp_path / "run", model, max_steps=2)
    before = {name: value.clone() for name, value in model.named_parameters() if "lora_B" in name}
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters() if name in before)
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.library_name == "peft" and card.data.pipeline_tag == "zero-shot-image-classification"
    assert "Model Card for Model ID" not in card.text and "trust_remote_code" not in card.text
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    for number, photo in enumerate(scenes(4)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        photo["image"].save(tmp_path / "photos" / f"{number}.png")
    code = code.replace('from_pretrained("run")', f"from_pretrained({str(tmp_path / 'run')!r})")
    exec(code.replace('"photos"', repr(str(tmp_path / "photos"))), {})
    loaded = TGDTRetriever.from_pretrained(tmp_path / "run").model
    again = make_trainer(tmp_path / "again", loaded).evaluate()
    assert again["eval_rsum"] == pytest.approx(metrics["eval_rsum"])


@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_an_adapter_trains_on_four_bits(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this platform")
    tiny_model().save_pretrained(tmp_path / "base")
    bits = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["text_projection"])
    base = TGDTModel.from_pretrained(tmp_path / "base", quantization_config=bits)
    model = adapted(prepare_model_for_kbit_training(base, use_gradient_checkpointing=False))
    trainer = make_trainer(tmp_path / "run", model, max_steps=2)
    trainer.train()
    assert all(entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)
    trainer.save_model()
    assert TGDTModel.from_pretrained(tmp_path / "run").active_adapters() == ["default"]
