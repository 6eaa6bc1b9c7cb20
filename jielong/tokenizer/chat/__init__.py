"""Conversations, and what a turn looks like in text and tokens."""
