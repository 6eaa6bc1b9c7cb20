"""The methods of alignment: what a step's loss is. Those that TRL has are TRL's, on our model; PPO is ours."""
