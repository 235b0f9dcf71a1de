"""Nodes of sampling: schedules, samplers, guidance, stages."""
