"""The source `hf:PLACE`: Hugging Face data sets, their files and their columns."""
