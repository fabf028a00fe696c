"""Networks that `benchmarks/training.py` times, each in a process of its own.

    contender.py    the task: sizes, spikes, constants; what every contender must offer
    worker.py       the process: sets one contender up, then answers requests on its standard input
    crew.py         the other end: starts workers, asks them in turn
    torch_step.py   one training step of any network in PyTorch
    *_network.py    the networks, one module per library

`requirements.txt` and `requirements-no-deps.txt` pin the libraries as they were measured.
"""
