"""The networks that the pipeline trains."""
