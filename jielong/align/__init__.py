"""Align: preferences and rewards, after tuning: reward models, DPO and its kin, PPO, GRPO, and the judge of what came of it."""
