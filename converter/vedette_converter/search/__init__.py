"""Prune x precision x input size under an accuracy budget, latencies measured: the Pareto front, by Optuna."""
