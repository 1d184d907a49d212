"""One training step of the tokenizer, as the loop takes it, without the loop around it."""

from collections.abc import Sequence

import torch
from pipeline.training.tokenizer import TokenizerTask


def step(task: TokenizerTask, rows: Sequence[int], number: int) -> None:
    """Forward, backward, clipping and every optimizer's step on one batch, as step `number`."""
    for loss in task.losses(rows, 0, number):
        loss.total.backward()
        player = task.players[loss.player]
        torch.nn.utils.clip_grad_norm_(player.parameters, player.clip_norm)
        player.optimizer.step()
        player.optimizer.zero_grad(set_to_none=True)
        task.stepped(loss.player)
