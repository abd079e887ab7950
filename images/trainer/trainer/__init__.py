"""Tunes a LoRA or QLoRA adapter with the dataset, saves it, and announces how that ended."""
