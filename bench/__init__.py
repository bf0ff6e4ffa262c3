"""Benchmarks of the layer, and the tables made from them; part of the checkout, not of the package.

    records, targets, markdown          results on disk, the targets they are held to, both as tables
    grids, arguments, machine           which cases, how options are read, what this machine can run
    problems, layers, contenders,       what is timed: a problem, a function of it, that function's calls by phase;
      gemms, rivals, lineups              the floor, other libraries, and who is timed together
    correctness, verification           how right a contender must be before it is timed
    stopwatch                           how it is timed
    shapes, sweep_case, sweep_report    shapes drawn at random: the check and the timing of one, and what they show
    onnx_lstm                           an LSTM in ONNX Runtime
    seminar_tables,                     tables of the seminar's results and of language models
      language_model_tables
    lstm, sweep, float16, steps,        the commands that measure or check: python -m bench.NAME
      memory, latency, trials,
      small_case, keras_layers,
      language_model
    bars, curves, tables                the commands that show committed results

Imports go one way: nothing imports a command, and there are no cycles (tests/bench/test_bench_imports.py).
"""
