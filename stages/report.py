"""Stage `report`: summaries to metrics/, curves and pictures to plots/, all of it to MLflow."""

from pathlib import Path

from pipeline import config, errors, tracking
from pipeline.evaluation.report.collect import PAGE, collect_metrics, collect_plots, is_picture

METRICS, PLOTS = Path("metrics"), Path("plots")


def main() -> None:
    settings = config.load()
    with tracking.stage("report", settings) as run:
        numbers = collect_metrics(METRICS)
        files = collect_plots(PLOTS)
        run.publish(
            numbers, [*files, PAGE], {path.stem: path for path in files if is_picture(path)}
        )


if __name__ == "__main__":
    errors.run_main(main)
