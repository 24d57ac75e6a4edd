"""What a training brings down: labels' cross entropy, a teacher's answers, or both."""
