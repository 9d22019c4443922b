def test_x(tiny_experiment, tmp_path):
    from subjectgen.runner.training.trainer import train

    print(train(tiny_experiment(), tmp_path / "run"))
    print(
        *(tmp_path / "run").rglob("*"),
        (tmp_path / "run/metrics.jsonl").read_text(),
        (tmp_path / "run/experiment.yaml").read_text()[-300:],
    )
