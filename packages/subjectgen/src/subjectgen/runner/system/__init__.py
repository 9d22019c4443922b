"""What is built: an experiment's parts on a device, and the files of what was trained. A built system never changes."""
