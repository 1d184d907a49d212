"""Stage `report`: summaries to metrics/, curves and pictures to plots/, all of it to MLflow."""

from pathlib import Path

from pipeline import config, errors, tracking
from pipeline.evaluation.report.collect import PAGE, collect_metrics, collect_plots

METRICS, PLOTS = Path("metrics"), Path("plots")
TRAININGS = {"vqgan_train": Path("models/vqgan"), "gpt2_train": Path("models/gpt2")}


def main() -> None:
    settings = config.load()
    with tracking.stage("report", settings) as run:
        numbers = collect_metrics(METRICS)
        files = collect_plots(PLOTS)
        run.publish(numbers, [*files, PAGE], TRAININGS)


if __name__ == "__main__":
    errors.run_main(main)
