"""Stage `report`: summaries to metrics/, curves and pictures to plots/, all of it to MLflow."""

from pathlib import Path

from pipeline import config, errors, io, tracking
from pipeline.evaluation.report.collect import PAGE, collect_metrics, collect_plots, require_plots
from pipeline.evaluation.report.tables import results_text

METRICS, PLOTS = Path("metrics"), Path("plots")
TRAININGS = {"vqgan_train": Path("models/vqgan"), "gpt2_train": Path("models/gpt2")}


def main() -> None:
    settings = config.load()
    with tracking.stage("report", settings) as run:
        details = io.read_json(Path("evaluation/details.json"))
        io.require_file(PAGE)
        require_plots()
        numbers = collect_metrics(METRICS)
        files = collect_plots(PLOTS)
        run.publish(numbers, [*files, PAGE], TRAININGS)
    print(f"\n{results_text(details)}\n\n{details['verdict']}\nSee {PAGE}", flush=True)


if __name__ == "__main__":
    errors.run_main(main)
