"""Compose, train, measure and extend subject-driven image generation."""
