"""The embedded sample: a cartoon series drawn by code, with known cuts, holds and motion."""

from pipeline.sample.episode import render_episodes

__all__ = ["render_episodes"]
