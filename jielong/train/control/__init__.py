"""What a person says to a run while it goes on, and what the run says back: files in a folder, no port, no thread."""
