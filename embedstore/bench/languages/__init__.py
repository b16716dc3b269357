"""What the task `multilingual` is made of: words of several languages, averages, report."""
