"""The loop: the same bytes twice and after a kill, rows, gathered gradients, curves, NaN."""

import math
import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import Terminated, UserError
from pipeline.models.checkpoints import save_weights
from pipeline.resume import Resume
from pipeline.training import trainer
from pipeline.training.task import Loss, OptimizerSpec, Task, warmup_cosine, weighted_means
from pipeline.training.throughput import FlopCounter, peak_flops

DROPOUT = {"transformer.dropout": 0.1}
TASKS = {
    "keyframes": (
        "vqgan_task",
        {
            "vqgan.keyframes.encoder": "network",
            "vqgan.loss.discriminator.factor": 1.0,
            "vqgan.loss.discriminator.iter_start": 3,
            "vqgan.trainer.augmentation": "shift_flip",
        },
    ),
    "images": (
        "vqgan_task",
        {
            "vqgan.context": "none",
            "vqgan.loss.discriminator.factor": 1.0,
            "vqgan.loss.discriminator.iter_start": 3,
            "vqgan.autoencoder.dropout": 0.1,
        },
    ),
    "full_clip": ("gpt_task", DROPOUT | {"train.sequence": "full_clip"}),
    "sliding_window": ("gpt_task", DROPOUT | {"train.sequence": "sliding_window"}),
}


@pytest.fixture(params=TASKS)
def make(request):
    """Gives fresh tasks of one kind; `seed` is that of the start, which a state replaces."""
    fixture, changes = TASKS[request.param]
    factory = request.getfixturevalue(fixture)
    return lambda seed=1: factory(changes, seed)


def trained(task, run, path, **rules) -> tuple[bytes, list, list]:
    history = run(task, **rules)
    save_weights(task.module, path)
    return path.read_bytes(), history.steps, history.epochs


class Killed(Exception):
    pass


def kill_at(steps: int):
    def log(values: dict, step: int) -> None:
        if step == steps and any(name.startswith("train.") for name in values):
            raise Killed

    return log


def test_twice_the_same_bytes(make, run, tmp_path):
    one, two = (trained(make(), run, tmp_path / "m.safetensors") for _ in range(2))
    assert one == two and len(one[1]) > 3
    other = trained(make(seed=2), run, tmp_path / "m.safetensors")
    assert one[0] != other[0]


def test_killed_and_continued_equals_uninterrupted(make, run, tmp_path):
    path = tmp_path / "m.safetensors"
    wanted = trained(make(), run, path)
    total = len(wanted[1])
    for at in (2, total // 2 + 1, total):
        with pytest.raises(Killed):
            run(make(), kill_at(at))
        assert list(tmp_path.glob(".resume/some_stage/*.pt"))
        torch.manual_seed(99)
        logged = []
        found = trained(make(seed=7), run, path, log=lambda values, step: logged.append(step))  # noqa: B023
        assert min(logged) == at, "continues after the last state, not from the start"
        assert found == wanted


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_ends_it_after_a_step_that_is_saved(gpt_task, run, tmp_path, number, error):
    path, before = tmp_path / "m.safetensors", signal.getsignal(number)
    wanted = trained(gpt_task(DROPOUT), run, path)

    def ask(values: dict, step: int) -> None:
        if step == 2 and "train.total" in values:
            os.kill(os.getpid(), number)

    with pytest.raises(error):
        run(gpt_task(DROPOUT), ask, checkpoint_interval=1e9)
    assert signal.getsignal(number) == before
    logged = []
    found = trained(
        gpt_task(DROPOUT, seed=7), run, path, log=lambda values, step: logged.append(step)
    )
    assert min(logged) == 4, "the third step was finished, and none was lost"
    assert found == wanted


def test_killed_between_two_log_points_keeps_the_curve(make, run, tmp_path):
    path = tmp_path / "m.safetensors"
    wanted = trained(make(), run, path, log_interval=3)
    task = make()
    losses, calls = task.losses, []

    def dying(rows, epoch, step):
        calls.append(step)
        if step == 4:
            raise Killed
        return losses(rows, epoch, step)

    task.losses = dying
    with pytest.raises(Killed):
        run(task, log_interval=3)
    assert trained(make(seed=7), run, path, log_interval=3) == wanted


class Line(Task):
    """Fits `w` to rows whose gradient is known: loss of a batch = mean of w * row."""

    def __init__(self, rows: int, broken_at: int | None = None, breaks: str = "total") -> None:
        self.module = nn.Linear(1, 1, bias=False)
        self.rows, self.broken_at, self.breaks = rows, broken_at, breaks
        self.module.register_buffer("seen_rows", torch.zeros(()))
        weight = nn.init.ones_(self.module.weight)
        sgd = torch.optim.SGD([weight], lr=1.0)
        self.optimizers = {"line": OptimizerSpec([weight], sgd, math.inf)}
        self.generator = torch.Generator()
        self.seen: list[tuple[int, list[int]]] = []
        self.gradients: list[float] = []
        sgd.register_step_pre_hook(lambda *_: self.gradients.append(weight.grad.item()))

    def size(self, split: str) -> int:
        return self.rows if split == "train" else 3

    def losses(self, rows, epoch, step):
        self.seen.append((epoch, list(rows)))
        self.module.seen_rows += len(rows)
        value = (self.module.weight * torch.tensor(rows, dtype=torch.float32)).mean()
        part = torch.tensor(float(len(rows))) + torch.rand((), generator=self.generator)
        if step == self.broken_at and self.breaks == "part":
            part = part * math.nan
        if step == self.broken_at and self.breaks == "total":
            value = value * math.nan
        if step == self.broken_at and self.breaks == "gradient":
            value = value + (self.module.weight * 0).sqrt().sum()  # its slope at 0 is infinite
        yield Loss("line", value, {"rows": part.floor(), "chance": part.frac()})

    def validate(self, batches):
        self.validated = batches
        return weighted_means([({"mean": sum(rows) / len(rows)}, len(rows)) for rows in batches])


@pytest.mark.parametrize("breaks", ["total", "part", "gradient"])
@pytest.mark.parametrize("log_interval", [1, 10])
def test_what_is_not_finite_ends_with_step_rows_state_and_remedy(run, breaks, log_interval):
    task = Line(6, broken_at=4, breaks=breaks)
    names = {"total": "total", "part": "rows, chance", "gradient": "gradient of line"}
    name = names[breaks]
    cause = rf"not finite at step 4 of epoch 2: {name} \(row \d, row \d\)"
    message = cause + "; the last finite state .*float32"
    with pytest.raises(UserError, match=message) as error:
        run(task, log_interval=log_interval)
    _, rows = task.seen[-1]
    assert ", ".join(f"row {row}" for row in rows) in str(error.value)
    assert len(task.gradients) == 4, "nothing steps with it"


def test_of_gathered_batches_the_one_with_the_nan_is_named(run):
    task = Line(8)
    losses = task.losses

    def breaking(rows, epoch, step):
        (loss,) = losses(rows, epoch, step)
        yield loss._replace(total=loss.total * (math.nan if 5 in rows else 1.0))

    task.losses = breaking
    with pytest.raises(UserError) as error:
        run(task, accumulation_size=4, n_epochs=1)
    (rows,) = [rows for _, rows in task.seen if 5 in rows]
    assert f"(row {rows[0]}, row {rows[1]})" in str(error.value)


def test_the_state_before_a_failed_step_reproduces_it(run, resume):
    """Rare saves: what is kept is the state right before the step, all its numbers included."""
    wanted = Line(6)
    curve = run(wanted, checkpoint_interval=1e9).steps
    failing = Line(6, broken_at=4)
    with pytest.raises(UserError) as error:
        run(failing, checkpoint_interval=1e9)
    state = resume().path.with_suffix(".failed.pt")
    assert str(state) in str(error.value) and not resume().path.exists()
    state.rename(resume().path)
    again = Line(6, broken_at=4)
    with pytest.raises(UserError, match="step 4"):
        run(again)
    assert again.seen == failing.seen[-1:], "begins with the failed step"
    mended = Line(6)
    assert run(mended).steps == curve, "weights, random numbers and curves are those before it"
    assert mended.module.seen_rows == wanted.module.seen_rows == 18, "and buffers"
    assert not state.exists(), "removed at success"


def test_a_validation_that_is_not_finite_stops_too(run, resume):
    task = Line(6)
    task.validate = lambda batches: {"mean": 1.0, "error": math.inf}
    message = "step 3 in validation: val error; the last finite state .*float32"
    with pytest.raises(UserError, match=message):
        run(task)
    assert resume().path.with_suffix(".failed.pt").exists()


def test_a_failed_state_is_not_continued_by_itself(run):
    task = Line(6, broken_at=4)
    with pytest.raises(UserError):
        run(task, checkpoint_interval=1e9)
    mended = Line(6)
    assert run(mended).steps[0]["step"] == 1 and len(mended.gradients) == 9


def test_every_epoch_takes_every_row_once_in_another_order(run):
    task = Line(6)
    run(task)
    epochs = [[row for e, rows in task.seen if e == epoch for row in rows] for epoch in range(3)]
    assert all(sorted(rows) == list(range(6)) for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 3
    other = Line(6)
    run(other, seed=2)
    assert other.seen != task.seen


def test_an_incomplete_last_step_is_left_out_and_few_rows_still_train(run):
    task = Line(7)
    run(task, batch_size=3, n_epochs=1)
    assert [len(rows) for _, rows in task.seen] == [3, 3]
    few = Line(2)
    assert run(few, batch_size=8, n_epochs=2).steps[-1]["step"] == 2
    assert [sorted(rows) for _, rows in few.seen] == [[0, 1], [0, 1]]


def test_gathered_batches_make_one_step_with_their_mean_gradient(run):
    one, gathered = Line(8), Line(8)
    run(one, batch_size=4)
    run(gathered, batch_size=2, accumulation_size=2)
    assert [len(rows) for _, rows in gathered.seen] == [2] * 12
    assert gathered.gradients == pytest.approx(one.gradients) and len(one.gradients) == 6


def test_validation_rows_are_spread_over_the_split(run):
    task = Line(4)
    task.size = lambda split: 4 if split == "train" else 1000
    run(task, n_epochs=1)
    rows = [row for batch in task.validated for row in batch]
    assert rows == list(range(0, 1000, 32)) and len(task.validated) == 16


def test_validation_weighs_batches_by_their_rows(run):
    history = run(Line(4))
    assert [row["mean"] for row in history.epochs] == [1.0] * 3, "rows 0, 1 | 2: mean of three"


def test_points_of_the_curve_are_means_since_the_point_before(run):
    totals = []
    for log_interval in (1, 4):
        history = run(Line(12), n_epochs=1, log_interval=log_interval)
        totals.append({row["step"]: row["total"] for row in history.steps})
    fine, rough = totals
    assert list(rough) == [4, 6], "every fourth, and the last"
    assert rough[4] == pytest.approx(sum(fine[step] for step in (1, 2, 3, 4)) / 4)
    assert rough[6] == pytest.approx((fine[5] + fine[6]) / 2)


def test_a_long_training_has_no_more_points_of_its_curve(run, monkeypatch):
    monkeypatch.setattr(trainer, "MAX_POINTS", 3)
    history = run(Line(12), n_epochs=1, log_interval=1)
    assert [row["step"] for row in history.steps] == [2, 4, 6]


def test_a_loss_that_had_not_begun_is_absent(run, tmp_path):
    task = Line(8)
    losses = task.losses

    def late(rows, epoch, step):
        (loss,) = losses(rows, epoch, step)
        yield loss._replace(parts={"late": torch.tensor(6.0)} if step >= 3 else {})

    task.losses = late
    history = run(task, n_epochs=1, log_interval=2)
    assert "late" not in history.steps[0] and history.steps[1]["late"] == 6.0, "of one step in two"
    history.save(tmp_path, task)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,total,lr,late" and lines[1].endswith(",") and "6" in lines[2]


def test_states_are_saved_at_the_interval_and_cost_a_twentieth_at_most(run, resume, monkeypatch):
    clock, saves = [0.0], []
    monkeypatch.setattr(trainer.time, "monotonic", lambda: clock[0])

    def save(self, state):
        saves.append(state["step"])
        clock[0] += 2.0 if len(saves) == 1 else 0.125

    monkeypatch.setattr(Resume, "save", save)
    task = Line(200)
    losses = task.losses

    def second(rows, epoch, step):
        clock[0] += 1.0
        return losses(rows, epoch, step)

    task.losses = second
    run(task, n_epochs=1, checkpoint_interval=10.0)
    assert saves[:4] == [10, 50, 60, 70], "40 s after a save that took 2 s"


def test_speed_is_logged_and_not_in_the_history(run):
    logged = []
    task = Line(4)
    history = run(task, log=lambda values, step: logged.append(values))
    assert logged[0]["train.images_per_second"] > 0
    assert not any("per_second" in name for name in history.steps[0])


def test_work_is_counted_as_by_torch():
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 4, 2, 2), nn.Linear(8, 5)
    module, counter = nn.Sequential(*layers), FlopCounter()
    images = torch.randn(2, 3, 4, 4, requires_grad=True)
    with counter.watching(module), FlopCounterMode(display=False) as torchs:
        module(images).sum().backward()
    assert counter.total == torchs.get_total_flops()
    with counter.watching(module), torch.no_grad():
        module(images)
    assert counter.total == torchs.get_total_flops(), "validation is no training"
    with counter.watching(module):
        loss = checkpoint(module, images, use_reentrant=False).sum()
        with counter.paused():
            loss.backward()
    assert counter.total == 2 * torchs.get_total_flops(), "repeating a forward pass is no progress"
    assert peak_flops(torch.device("cpu"), "float32") > 1e8


def test_history_and_summary(run, tmp_path):
    task = Line(4)
    history = run(task)
    summary = history.save(tmp_path, task)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,total,rows,chance,lr" and len(lines) == 1 + 6
    assert (tmp_path / "validation.csv").read_text().splitlines()[0] == "epoch,step,mean"
    assert summary["steps"] == 6 and summary["parameters"] == 1 and summary["examples"] == 4
    assert summary["val"] == {"mean": 1.0} and summary["train"].keys() > {"total", "lr"}


def test_gradients_are_clipped(run):
    task = Line(4)
    task.optimizers["line"].clip_norm = 0.5
    run(task)
    assert max(abs(gradient) for gradient in task.gradients) <= 0.5 + 1e-6


def test_the_rate_follows_its_schedule(run):
    task = Line(4)
    task.optimizers["line"].schedule = lambda done: 1.0 - done
    history = run(task)
    assert [row["lr"] for row in history.steps] == pytest.approx(
        [1 - step / 6 for step in range(6)]
    )


@pytest.mark.parametrize("warmup", [0.0, 0.15, 0.5])
def test_warmup_cosine(warmup):
    learning_rate = warmup_cosine(0.1, 1.1, warmup)
    assert learning_rate(warmup) == pytest.approx(1.1)
    assert learning_rate((1 + warmup) / 2) == pytest.approx(0.6)
    assert learning_rate(1.0) == pytest.approx(0.1)
    if warmup:
        assert learning_rate(0.0) == 0.1 and learning_rate(warmup / 4) == pytest.approx(0.35)
