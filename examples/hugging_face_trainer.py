"""Rehearsal under Hugging Face's Trainer: a callback that mixes replayed rows into training batches.

Needs `pip install transformers accelerate`. Evaluation is left alone, and nothing is downloaded.

python examples/hugging_face_trainer.py
"""

import tempfile
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from avalanche_memplugins import RandomMemory, Rehearsal

TOPICS, COMMON, OWN = 4, 30, 6  # topics; words that all texts use; words of one topic


class RehearsalCallback(TrainerCallback):
    """Wraps the collator of the training loader, and keeps the memory beside the Trainer's checkpoints."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.rehearsal = rehearsal

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        loader = getattr(train_dataloader, "base_dataloader", train_dataloader)
        loader.collate_fn = self.rehearsal.collate(loader.collate_fn)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rehearsal.memory.save(f"{args.output_dir}/checkpoint-{state.global_step}/memory")


def texts(topics: list[int], count: int, seed: int) -> list[dict[str, Any]]:
    """Rows as a tokenizer makes them: 6 to 20 tokens, of which half tell the topic; 0 is for padding."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for topic in topics:
        for _ in range(count):
            length = int(torch.randint(6, 21, (), generator=generator))
            own = 1 + COMMON + topic * OWN + torch.randint(OWN, (length,), generator=generator)
            common = 1 + torch.randint(COMMON, (length,), generator=generator)
            tells = torch.rand(length, generator=generator) < 0.5
            rows.append({"input_ids": torch.where(tells, own, common), "labels": topic})
    return rows


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A padded batch. With a tokenizer this is `DataCollatorWithPadding(tokenizer)`."""
    ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def accuracy(rehearsal: Rehearsal | None) -> float:
    """Fine-tune on two topics at a time, then test on all."""
    torch.manual_seed(0)
    words = 1 + COMMON + TOPICS * OWN
    config = BertConfig(
        vocab_size=words,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=TOPICS,
    )
    model = BertForSequenceClassification(config)
    for experience in range(TOPICS // 2):
        if rehearsal is not None:
            rehearsal.experience = experience
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model=model,
                args=TrainingArguments(
                    output_dir=folder,
                    num_train_epochs=5,
                    per_device_train_batch_size=16,
                    learning_rate=3e-3,
                    save_strategy="epoch",
                    logging_strategy="no",
                    log_level="error",
                    report_to=[],
                    disable_tqdm=True,
                    use_cpu=True,
                    remove_unused_columns=False,
                ),
                train_dataset=texts([2 * experience, 2 * experience + 1], 150, experience),
                data_collator=collate,
                callbacks=[] if rehearsal is None else [RehearsalCallback(rehearsal)],
            )
            trainer.train()
    batch = collate(texts(list(range(TOPICS)), 50, 99))
    model.eval()
    with torch.no_grad():
        found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(1)
    return 100 * (found == batch["labels"]).float().mean().item()


memory = RandomMemory(200, pad={"input_ids": 0, "attention_mask": 0}, codec={"input_ids": "uint8"}, seed=0)
print(f"alone          {accuracy(None):5.1f} %")
print(f"with rehearsal {accuracy(Rehearsal(memory, y='labels')):5.1f} %")
print(memory)
