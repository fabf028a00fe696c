"""snnbench: from sound to spikes to a leaderboard row that anyone can verify."""

__version__ = "0.1.0"
