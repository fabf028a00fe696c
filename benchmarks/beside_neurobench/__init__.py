"""What `benchmarks/neurobench_counts.py` compares: our counts of work with NeuroBench's.

ours.py       spikes, small networks of ours, what we count of them
theirs.py     the same networks in snnTorch, what NeuroBench counts of them
rules.py      NeuroBench's rules, written down as we read them: what explains a difference predicts a number
findings.py   rows of the table
spiking.py    rows of spiking networks
baselines.py  rows of an LSTM and a CNN
"""
